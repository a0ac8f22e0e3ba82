//! HTTP/1.1 connections to one upstream that wait for the next request: last in, first out, so that
//! the warm ones stay warm and the others age out.

use std::time::Duration;

use tokio::time::Instant;

use crate::worker::http1::io::Io;

/// A request that must not be sent twice takes no connection that has waited longer: the upstream
/// may be closing it at this moment, and then nobody could tell whether it got the request.
const FRESH: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub struct Idle {
    connections: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    io: Io,
    since: Instant,
    until: Instant,
}

impl Idle {
    /// The connection used last, if it is alive. `repeatable`: the request may be sent again when
    /// the upstream turns out to have closed it.
    pub fn take(&mut self, now: Instant, repeatable: bool) -> Option<Io> {
        while let Some(mut waiting) = self.connections.pop() {
            if now >= waiting.until {
                // All below have waited longer, but may have been promised more time.
                continue;
            }
            if !repeatable && now.duration_since(waiting.since) > FRESH {
                self.connections.push(waiting);
                return None;
            }
            if is_alive(&mut waiting.io) {
                return Some(waiting.io);
            }
        }
        None
    }

    /// Keeps a connection for `time`, and at most `limit` of them: the one that waited longest
    /// makes room.
    pub fn put(&mut self, io: Io, now: Instant, time: Duration, limit: usize) {
        if limit == 0 {
            return;
        }
        if self.connections.len() >= limit {
            self.connections.remove(0);
        }
        self.connections.push(Waiting { io, since: now, until: now + time });
    }

    pub fn sweep(&mut self, now: Instant) {
        self.connections.retain_mut(|waiting| now < waiting.until && is_alive(&mut waiting.io));
    }
}

/// An idle connection has nothing to say: readable means that it was closed, or that its upstream
/// does not keep to HTTP.
fn is_alive(io: &mut Io) -> bool {
    io.input.is_empty() && io.is_silent()
}
