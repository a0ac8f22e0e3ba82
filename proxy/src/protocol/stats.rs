//! Counters as they cross the channel, and how they are added up: of one worker since its start,
//! summed over its threads.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

/// Upper bounds of the buckets of [`Durations`] but the last, which has none; in microseconds. Both
/// programs of an upgrade count with them.
pub const BOUNDS_US: [u64; 14] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];
/// With the one that has no bound.
pub const BUCKETS: usize = BOUNDS_US.len() + 1;

/// The host of what no route was found for.
pub const UNKNOWN_HOST: &str = "_unknown";

const PROTOCOLS: [&str; 2] = ["http1", "http2"];
const METHODS: [&str; 3] = ["read", "write", "other"];
const STATUSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// What a program of another version counts by, and this one does not know.
const OTHER: &str = "other";

/// What counters tell requests apart by, beside their host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestKind {
    protocol: u8,
    method: u8,
    status: u8,
}

impl RequestKind {
    pub const COUNT: usize = PROTOCOLS.len() * METHODS.len() * STATUSES.len();

    /// `status` is none where the client went before there was an answer. Methods are told apart by
    /// what they do (RFC 9110 section 9.2): read (GET and HEAD), write (POST, PUT, PATCH, DELETE),
    /// and the others.
    pub fn new(is_http2: bool, method: &Method, status: Option<StatusCode>) -> Self {
        let method = match *method {
            Method::GET | Method::HEAD => 0,
            Method::POST | Method::PUT | Method::PATCH | Method::DELETE => 1,
            _ => 2,
        };
        RequestKind { protocol: is_http2.into(), method, status: class(status) }
    }

    /// Of what was not a request.
    pub fn malformed(status: StatusCode) -> Self {
        RequestKind { protocol: 0, method: 2, status: class(Some(status)) }
    }

    /// Smaller than [`RequestKind::COUNT`].
    pub fn index(self) -> usize {
        let [protocol, method, status] = [self.protocol, self.method, self.status].map(usize::from);
        (protocol * METHODS.len() + method) * STATUSES.len() + status
    }

    pub fn of_index(index: usize) -> Self {
        let (rest, status) = (index / STATUSES.len(), index % STATUSES.len());
        let digit = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
        RequestKind {
            protocol: digit(rest / METHODS.len()),
            method: digit(rest % METHODS.len()),
            status: digit(status),
        }
    }

    /// As it crosses the channel: a digit for each of protocol, method and status, so that a version
    /// that knows more of them is not misread.
    fn code(self) -> u16 {
        u16::from(self.protocol) * 100 + u16::from(self.method) * 10 + u16::from(self.status)
    }
}

/// Index of a status class; 0 is none.
fn class(status: Option<StatusCode>) -> u8 {
    status.map_or(0, |status| u8::try_from(status.as_u16() / 100).unwrap_or(5).clamp(1, 5))
}

/// Counters of one worker since its start, summed over its threads. Gauges are marked.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct WorkerStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Gauge: connections open now.
    pub connections: u64,
    /// Gauge: of these, those that speak HTTP/1.1.
    pub connections_http1: u64,
    /// Gauge: of these, those that speak HTTP/2.
    pub connections_http2: u64,
    /// Gauge: tunnels (WebSocket and other upgrades), each a connection or a stream of one.
    pub tunnels: u64,
    /// TLS 1.2 handshakes with new keys.
    pub tls12_full: u64,
    /// TLS 1.2 handshakes that went on with a session from before.
    pub tls12_resumed: u64,
    /// As `tls12_full`, of TLS 1.3.
    pub tls13_full: u64,
    /// As `tls12_resumed`, of TLS 1.3.
    pub tls13_resumed: u64,
    /// TLS handshakes that failed or ran out of time.
    pub handshake_failures: u64,
    /// Requests answered over HTTP/1.1 and HTTP/1.0.
    pub requests_http1: u64,
    /// Requests answered over HTTP/2.
    pub requests_http2: u64,
    /// Gauge: requests in progress.
    pub requests_active: u64,
    /// Gauge: those of them that wait for an upstream to be there.
    pub requests_held: u64,
    /// Requests that have waited for an upstream to be there.
    pub holds: u64,
    /// Responses by status class: 1xx to 5xx. Index 0 counts 1xx.
    pub responses: [u64; 5],
    /// Requests that were tried again on another upstream.
    pub retries: u64,
    /// Connections opened to upstreams.
    pub upstream_connects: u64,
    /// Attempts to reach an upstream that failed.
    pub upstream_failures: u64,
    /// Access-log lines dropped because stdout did not take them in time.
    pub log_lines_dropped: u64,
    /// By host pattern, of hosts that were asked for; [`UNKNOWN_HOST`] among them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<String, HostStats>,
}

/// Requests of one host.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct HostStats {
    /// Code of a [`RequestKind`], and how many. Not a map: keys that are numbers do not survive an
    /// enum that is tagged within (serde issue 1183).
    requests: Vec<(u16, u64)>,
    /// From the head of a request to the end of its response.
    pub durations: Durations,
    /// From the head of a request on its way to an upstream, to the head of the answer.
    pub upstream_heads: Durations,
}

/// How long things took.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Durations {
    /// One for each of [`BOUNDS_US`] and one for all above; what is longer than the bound before and
    /// at most this one. Zeros at the end may be left out.
    pub buckets: Vec<u64>,
    pub sum_us: u64,
}

impl WorkerStats {
    /// Adds what the counters of `now` have more than those of `before`, which is an earlier answer
    /// of the same process. Gauges are left alone.
    pub fn grow(&mut self, now: &WorkerStats, before: &WorkerStats) {
        for ((sum, now), before) in
            self.counters().into_iter().zip(now.values()).zip(before.values())
        {
            *sum += now.saturating_sub(before);
        }
        let nothing = HostStats::default();
        for (host, now) in &now.hosts {
            let before = before.hosts.get(host).unwrap_or(&nothing);
            if now != before {
                self.hosts.entry(host.clone()).or_default().grow(now, before);
            }
        }
    }

    /// Without what is of single hosts.
    #[must_use]
    pub fn without_hosts(mut self) -> Self {
        self.hosts.clear();
        self
    }

    fn counters(&mut self) -> [&mut u64; 18] {
        let [one, two, three, four, five] = &mut self.responses;
        [
            &mut self.accepted,
            &mut self.tls12_full,
            &mut self.tls12_resumed,
            &mut self.tls13_full,
            &mut self.tls13_resumed,
            &mut self.handshake_failures,
            &mut self.requests_http1,
            &mut self.requests_http2,
            one,
            two,
            three,
            four,
            five,
            &mut self.holds,
            &mut self.retries,
            &mut self.upstream_connects,
            &mut self.upstream_failures,
            &mut self.log_lines_dropped,
        ]
    }

    /// In the order of [`WorkerStats::counters`].
    fn values(&self) -> [u64; 18] {
        let mut plain = WorkerStats { hosts: BTreeMap::new(), ..*self };
        plain.counters().map(|counter| *counter)
    }
}

impl HostStats {
    pub fn add(&mut self, kind: RequestKind, count: u64) {
        *self.of(kind.code()) += count;
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Protocol, method and status class, and how many requests.
    pub fn requests(&self) -> impl Iterator<Item = ([&'static str; 3], u64)> {
        let label = |labels: &[&'static str], digit: u16| {
            labels.get(usize::from(digit)).copied().unwrap_or(OTHER)
        };
        self.requests.iter().map(move |&(code, count)| {
            let labels = [
                label(&PROTOCOLS, code / 100),
                label(&METHODS, code / 10 % 10),
                label(&STATUSES, code % 10),
            ];
            (labels, count)
        })
    }

    /// As [`WorkerStats::grow`].
    pub fn grow(&mut self, now: &HostStats, before: &HostStats) {
        for &(code, count) in &now.requests {
            let known = before.requests.iter().find(|(other, _)| *other == code);
            *self.of(code) += count.saturating_sub(known.map_or(0, |(_, count)| *count));
        }
        self.durations.grow(&now.durations, &before.durations);
        self.upstream_heads.grow(&now.upstream_heads, &before.upstream_heads);
    }

    fn of(&mut self, code: u16) -> &mut u64 {
        let index = match self.requests.iter().position(|(other, _)| *other == code) {
            Some(index) => index,
            None => {
                self.requests.push((code, 0));
                self.requests.len() - 1
            }
        };
        &mut self.requests[index].1
    }
}

impl Durations {
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub fn record(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets.resize(BUCKETS, 0);
        self.buckets[bucket(us)] += 1;
        self.sum_us += us;
    }

    /// As [`WorkerStats::grow`].
    pub fn grow(&mut self, now: &Durations, before: &Durations) {
        self.sum_us += now.sum_us.saturating_sub(before.sum_us);
        if self.buckets.len() < now.buckets.len() {
            self.buckets.resize(now.buckets.len(), 0);
        }
        let before = before.buckets.iter().copied().chain(std::iter::repeat(0));
        for ((sum, now), before) in self.buckets.iter_mut().zip(&now.buckets).zip(before) {
            *sum += now.saturating_sub(before);
        }
    }
}

/// The bucket of a duration.
pub fn bucket(us: u64) -> usize {
    BOUNDS_US.iter().position(|&bound| us <= bound).unwrap_or(BOUNDS_US.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::FromWorker;

    fn answered(hosts: &[(&str, u64, &[u64])]) -> WorkerStats {
        let kind = RequestKind::new(true, &Method::GET, Some(StatusCode::OK));
        let host = |&(name, count, buckets): &(&str, u64, &[u64])| {
            let mut stats = HostStats::default();
            stats.add(kind, count);
            stats.durations = Durations { buckets: buckets.to_vec(), sum_us: count * 10 };
            (name.to_owned(), stats)
        };
        let requests_http2 = hosts.iter().map(|(_, count, _)| count).sum();
        WorkerStats {
            requests_http2,
            connections: 7,
            responses: [0, requests_http2, 0, 0, 0],
            hosts: hosts.iter().map(host).collect(),
            ..WorkerStats::default()
        }
    }

    #[test]
    fn only_what_is_new_is_added() {
        let first = answered(&[("a", 3, &[1, 2])]);
        let second = answered(&[("a", 5, &[1, 2, 0, 2]), ("b", 1, &[1])]);
        let mut sum = WorkerStats::default();
        sum.grow(&first, &WorkerStats::default());
        sum.grow(&second, &first);
        // Another process, which began anew.
        sum.grow(&first, &WorkerStats::default());
        let want = answered(&[("a", 8, &[2, 4, 0, 2]), ("b", 1, &[1])]);
        assert_eq!(sum, WorkerStats { connections: 0, ..want });
    }

    #[test]
    fn a_counter_never_falls() {
        let mut sum = answered(&[("a", 5, &[5])]);
        let before = sum.clone();
        sum.grow(&answered(&[("a", 1, &[1])]), &answered(&[("a", 9, &[9])]));
        assert_eq!(sum, before);
    }

    #[test]
    fn kinds_have_an_index_and_labels() {
        let post = RequestKind::new(false, &Method::POST, Some(StatusCode::NOT_FOUND));
        let gone = RequestKind::new(true, &Method::OPTIONS, None);
        for (kind, want) in [
            (post, ["http1", "write", "4xx"]),
            (gone, ["http2", "other", "none"]),
            (RequestKind::malformed(StatusCode::BAD_REQUEST), ["http1", "other", "4xx"]),
        ] {
            assert_eq!(RequestKind::of_index(kind.index()), kind);
            let mut stats = HostStats::default();
            stats.add(kind, 2);
            assert_eq!(stats.requests().collect::<Vec<_>>(), [(want, 2)]);
        }
        let last = RequestKind::of_index(RequestKind::COUNT - 1);
        assert_eq!(last.index(), RequestKind::COUNT - 1);
        // What a later version may count by.
        let later = HostStats { requests: vec![(293, 1)], ..HostStats::default() };
        assert_eq!(later.requests().next(), Some((["other", "other", "3xx"], 1)));
    }

    #[test]
    fn buckets_include_their_bound() {
        for (us, want) in [(0, 0), (1_000, 0), (1_001, 1), (30_000_000, 13), (30_000_001, 14)] {
            assert_eq!(bucket(us), want, "{us}");
        }
    }

    #[test]
    fn older_and_newer_peers_are_understood() {
        let stats = Box::new(answered(&[("a", 3, &[1, 2])]));
        let text = serde_json::to_string(&FromWorker::Drained { stats: Some(stats.clone()) });
        match serde_json::from_str(&text.expect("json")).expect("a frame") {
            FromWorker::Drained { stats: Some(read) } => assert_eq!(read, stats),
            other => panic!("{other:?}"),
        }
        let old = serde_json::from_str::<FromWorker>(r#"{"frame":"drained"}"#);
        assert!(matches!(old, Ok(FromWorker::Drained { stats: None })), "{old:?}");
        let old = r#"{"frame":"stats","id":1,"stats":{"accepted":4,"dreams":1}}"#;
        match serde_json::from_str(old).expect("a frame") {
            FromWorker::Stats { stats, .. } => assert_eq!(stats.accepted, 4),
            other => panic!("{other:?}"),
        }
    }
}
