//! Counters of one worker thread: written by it alone, read by the worker's control thread.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::protocol::frame::WorkerStats;
use crate::protocol::stats::{BUCKETS, Durations, HostStats, RequestKind, bucket};

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
    /// From 0.
    pub number: usize,
    /// Requests for which no host was found.
    pub unknown: HostCounts,
    pub accepted: Count,
    pub connections: Count,
    pub connections_http1: Count,
    pub connections_http2: Count,
    pub tunnels: Count,
    pub tls12_full: Count,
    pub tls12_resumed: Count,
    pub tls13_full: Count,
    pub tls13_resumed: Count,
    pub handshake_failures: Count,
    pub requests_http1: Count,
    pub requests_http2: Count,
    pub requests_active: Count,
    pub requests_held: Count,
    pub holds: Count,
    pub responses: [Count; 5],
    pub retries: Count,
    pub upstream_connects: Count,
    pub upstream_failures: Count,
    pub log_lines_dropped: Count,
}

impl ThreadStats {
    pub fn new(number: usize) -> Self {
        ThreadStats { number, ..ThreadStats::default() }
    }

    pub fn add_to(&self, sum: &mut WorkerStats) {
        sum.accepted += self.accepted.get();
        sum.connections += self.connections.get();
        sum.connections_http1 += self.connections_http1.get();
        sum.connections_http2 += self.connections_http2.get();
        sum.tunnels += self.tunnels.get();
        sum.tls12_full += self.tls12_full.get();
        sum.tls12_resumed += self.tls12_resumed.get();
        sum.tls13_full += self.tls13_full.get();
        sum.tls13_resumed += self.tls13_resumed.get();
        sum.handshake_failures += self.handshake_failures.get();
        sum.requests_http1 += self.requests_http1.get();
        sum.requests_http2 += self.requests_http2.get();
        sum.requests_active += self.requests_active.get();
        sum.requests_held += self.requests_held.get();
        sum.holds += self.holds.get();
        for (sum, count) in sum.responses.iter_mut().zip(&self.responses) {
            *sum += count.get();
        }
        sum.retries += self.retries.get();
        sum.upstream_connects += self.upstream_connects.get();
        sum.upstream_failures += self.upstream_failures.get();
        sum.log_lines_dropped += self.log_lines_dropped.get();
    }
}

/// Requests of one host on one thread. Threads write to cache lines of their own; the processor
/// fetches them in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub struct HostCounts {
    /// By [`RequestKind::index`].
    requests: [Count; RequestKind::COUNT],
    durations: DurationCounts,
    upstream_heads: DurationCounts,
}

#[derive(Debug, Default)]
struct DurationCounts {
    buckets: [Count; BUCKETS],
    sum_us: Count,
}

impl Default for HostCounts {
    fn default() -> Self {
        HostCounts {
            requests: std::array::from_fn(|_| Count::default()),
            durations: DurationCounts::default(),
            upstream_heads: DurationCounts::default(),
        }
    }
}

impl HostCounts {
    /// A request that is over, and how long after it was sent up the head of the answer came.
    pub fn answered(&self, kind: RequestKind, took: Duration, upstream_head: Option<Duration>) {
        self.count(kind);
        self.durations.record(took);
        if let Some(upstream_head) = upstream_head {
            self.upstream_heads.record(upstream_head);
        }
    }

    /// What has no duration.
    pub fn count(&self, kind: RequestKind) {
        self.requests[kind.index()].add(1);
    }

    pub fn add_to(&self, sum: &mut HostStats) {
        for (index, count) in self.requests.iter().enumerate() {
            if count.get() > 0 {
                sum.add(RequestKind::of_index(index), count.get());
            }
        }
        self.durations.add_to(&mut sum.durations);
        self.upstream_heads.add_to(&mut sum.upstream_heads);
    }
}

impl DurationCounts {
    fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(us)].add(1);
        self.sum_us.add(us);
    }

    fn add_to(&self, sum: &mut Durations) {
        sum.sum_us += self.sum_us.get();
        let used =
            self.buckets.iter().rposition(|count| count.get() > 0).map_or(0, |last| last + 1);
        sum.buckets.resize(sum.buckets.len().max(used), 0);
        for (sum, count) in sum.buckets.iter_mut().zip(&self.buckets) {
            *sum += count.get();
        }
    }
}
