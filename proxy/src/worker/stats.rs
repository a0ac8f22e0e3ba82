//! Counters of one worker thread: written by it alone, read by the worker's control thread.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::protocol::frame::WorkerStats;

/// A counter with a single writer: a plain load and store, no locked instruction.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }

    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) - n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Counts one up until the guard goes.
    pub fn enter(&self) -> Entered<'_> {
        self.add(1);
        Entered(self)
    }
}

/// Holds a gauge up.
#[derive(Debug)]
pub struct Entered<'a>(&'a Count);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.sub(1);
    }
}

#[derive(Debug, Default)]
pub struct ThreadStats {
    pub accepted: Count,
    pub connections: Count,
    pub connections_http1: Count,
    pub connections_http2: Count,
    pub tunnels: Count,
    pub handshake_failures: Count,
    pub requests_http1: Count,
    pub requests_http2: Count,
    pub requests_active: Count,
    pub requests_held: Count,
    pub responses: [Count; 5],
    pub retries: Count,
    pub upstream_connects: Count,
    pub upstream_failures: Count,
    pub log_lines_dropped: Count,
}

impl ThreadStats {
    pub fn add_to(&self, sum: &mut WorkerStats) {
        sum.accepted += self.accepted.get();
        sum.connections += self.connections.get();
        sum.connections_http1 += self.connections_http1.get();
        sum.connections_http2 += self.connections_http2.get();
        sum.tunnels += self.tunnels.get();
        sum.handshake_failures += self.handshake_failures.get();
        sum.requests_http1 += self.requests_http1.get();
        sum.requests_http2 += self.requests_http2.get();
        sum.requests_active += self.requests_active.get();
        sum.requests_held += self.requests_held.get();
        for (sum, count) in sum.responses.iter_mut().zip(&self.responses) {
            *sum += count.get();
        }
        sum.retries += self.retries.get();
        sum.upstream_connects += self.upstream_connects.get();
        sum.upstream_failures += self.upstream_failures.get();
        sum.log_lines_dropped += self.log_lines_dropped.get();
    }
}
