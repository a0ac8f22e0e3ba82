//! One request's line in the access log, and its counters.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{StatusCode, Version};

use super::access_log::{Entry, UpstreamEntry};
use super::local::{Local, Peer};
use super::message::RequestHead;
use super::relay::Progress;
use super::stats::HostCounts;
use crate::protocol::stats::RequestKind;

/// Counts and logs an answer to what was not a request.
pub fn refused(local: &Local, peer: &Peer, status: StatusCode) {
    local.stats.responses[class(status)].add(1);
    local.stats.unknown.count(RequestKind::malformed(status));
    local.log.write(&Entry {
        client: peer.address.ip(),
        request: None,
        tls: peer.tls_version(),
        status: Some(status),
        bytes: 0,
        duration: Duration::ZERO,
        upstream: None,
        attempts: 0,
    });
}

/// Index of a status class in the counters.
fn class(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, 5) - 1
}

/// What the access log will say.
#[derive(Debug)]
pub struct Record {
    start: Instant,
    pub progress: Progress,
    upstream: Option<(Rc<str>, SocketAddr)>,
    attempts: u32,
}

impl Record {
    pub fn begin() -> Self {
        Record { start: Instant::now(), progress: Progress::default(), upstream: None, attempts: 0 }
    }

    pub fn attempt(&mut self, name: &Rc<str>, address: SocketAddr) {
        self.upstream = Some((name.clone(), address));
        self.attempts += 1;
    }

    pub fn write(&self, local: &Local, peer: &Peer, head: &RequestHead, counts: &HostCounts) {
        if peer.is_controller {
            return;
        }
        let http2 = head.version == Version::HTTP_2;
        let count = if http2 { &local.stats.requests_http2 } else { &local.stats.requests_http1 };
        count.add(1);
        if let Some(status) = self.progress.status {
            local.stats.responses[class(status)].add(1);
        }
        let duration = self.start.elapsed();
        let kind = RequestKind::new(http2, &head.method, self.progress.status);
        counts.answered(kind, duration, self.progress.head_after);
        let head_after = self.progress.head_after.unwrap_or_default();
        let upstream = self.upstream.as_ref();
        let upstream =
            upstream.map(|(name, address)| UpstreamEntry { name, address: *address, head_after });
        local.log.write(&Entry {
            client: peer.client(local).origin(head),
            request: Some(head),
            tls: peer.tls_version(),
            status: self.progress.status,
            bytes: self.progress.bytes,
            duration,
            upstream,
            attempts: self.attempts,
        });
    }
}
