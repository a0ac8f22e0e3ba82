//! Upstreams as one worker thread sees them: who is in which pool, whose turn it is, who is left
//! out for a while, and connections that wait for the next request.

pub mod balance;
pub mod connect;
pub mod exchange;
pub mod gate;
pub mod http1;
pub mod http2;
pub mod idle;
pub mod sticky;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::table::Table;
use crate::protocol::settings::Balance;
use crate::protocol::snapshot;
use gate::{Gate, Queue};
use idle::Idle;
use sticky::Sticky;

/// Failures in a row after which an upstream is left out.
const FAILURES_TO_EJECT: u32 = 3;
/// First and longest time that an upstream is left out for; doubled each time in between.
const FIRST_EJECTION: Duration = Duration::from_secs(1);
const LONGEST_EJECTION: Duration = Duration::from_secs(30);
/// Of its share, in percent, at the beginning of a slow start; Envoy's, too.
const COLDEST: u32 = 10;

/// The pools of one snapshot, in the order of [`Table::pools`].
#[derive(Debug)]
pub struct Pools {
    pools: Vec<Pool>,
    /// In the order of [`Table::asked`].
    asked: Vec<Member>,
    upstreams: HashMap<Key, Rc<Upstream>>,
}

/// What makes two upstreams the same one.
type Key = (std::net::SocketAddr, snapshot::UpstreamProtocol);

/// The upstreams of one route.
#[derive(Debug)]
pub struct Pool {
    pub members: Vec<Member>,
    /// `None`: as all others.
    balance: Option<Balance>,
    /// In place of that: by this field.
    balance_header: Option<Arc<str>>,
    /// Members that are new or were left out get their share within this time.
    slow_start: Option<Duration>,
    sticky: Option<Arc<Sticky>>,
    /// Before members that have as many requests as they may.
    pub queue: Option<Queue>,
}

/// An upstream in a pool.
#[derive(Debug)]
pub struct Member {
    pub name: Rc<str>,
    pub weight: u32,
    pub upstream: Rc<Upstream>,
    /// Where there is a cap on its requests.
    pub gate: Option<Arc<Gate>>,
    /// Smooth weighted round robin: see [`balance`].
    turn: Cell<i64>,
}

/// One address and protocol, however many pools it is in.
#[derive(Debug)]
pub struct Upstream {
    pub address: std::net::SocketAddr,
    pub protocol: snapshot::UpstreamProtocol,
    /// Requests in progress.
    pub active: Cell<u32>,
    pub idle: RefCell<Idle>,
    pub http2: http2::Shared,
    health: Cell<Health>,
    /// When it came beside others that were there, or will be back. `None`: it was there before.
    since: Cell<Option<Instant>>,
}

/// What this thread's own requests have shown of an upstream.
#[derive(Debug, Clone, Copy, Default)]
struct Health {
    failures: u32,
    ejections: u32,
    ejected_until: Option<Instant>,
}

impl Pools {
    pub fn new(table: &Table, before: Option<&Pools>) -> Self {
        let mut upstreams: HashMap<Key, Rc<Upstream>> = HashMap::new();
        // What a worker finds at its start, before or with its first snapshot, served before it.
        let others = before.filter(|pools| !pools.upstreams.is_empty());
        let since = others.map(|_| Instant::now());
        let mut member = |upstream: &snapshot::Upstream| {
            let key = (upstream.address, upstream.protocol);
            let known = || before.and_then(|pools| pools.upstreams.get(&key)).cloned();
            let state = upstreams
                .entry(key)
                .or_insert_with(|| known().unwrap_or_else(|| Rc::new(Upstream::new(key, since))));
            Member {
                name: upstream.name.as_str().into(),
                weight: upstream.weight.max(1),
                upstream: state.clone(),
                gate: None,
                turn: Cell::new(0),
            }
        };
        let pools = table
            .pools
            .iter()
            .map(|plan| Pool {
                members: gated(plan.upstreams.iter().map(&mut member), &plan.gates),
                queue: plan.queue,
                balance: plan.balance,
                balance_header: plan.balance_header.clone(),
                slow_start: plan.slow_start,
                sticky: plan.sticky.clone(),
            })
            .collect();
        let asked = table.asked.iter().map(&mut member).collect();
        Pools { pools, asked, upstreams }
    }

    pub fn pool(&self, index: usize) -> &Pool {
        &self.pools[index]
    }

    pub fn asked(&self, index: usize) -> &Member {
        &self.asked[index]
    }

    /// Whether it is in a pool of this snapshot, or is asked by a route of it.
    pub fn has(&self, upstream: (std::net::SocketAddr, snapshot::UpstreamProtocol)) -> bool {
        self.upstreams.contains_key(&upstream)
    }

    /// Closes connections that waited too long or that the upstream has closed.
    pub fn sweep(&self, now: Instant) {
        self.upstreams.values().for_each(|upstream| upstream.idle.borrow_mut().sweep(now));
    }
}

/// One for each member, or none at all.
fn gated(members: impl Iterator<Item = Member>, gates: &[Arc<Gate>]) -> Vec<Member> {
    let gates = gates.iter().cloned().map(Some).chain(std::iter::repeat(None));
    members.zip(gates).map(|(member, gate)| Member { gate, ..member }).collect()
}

impl Upstream {
    fn new((address, protocol): Key, since: Option<Instant>) -> Self {
        Upstream {
            address,
            protocol,
            active: Cell::new(0),
            idle: RefCell::default(),
            http2: http2::Shared::default(),
            health: Cell::default(),
            since: Cell::new(since),
        }
    }

    /// Whether it is left out at `now` because requests to it failed.
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.health.get().ejected_until.is_some_and(|until| now < until)
    }

    fn ejected_until(&self) -> Option<Instant> {
        self.health.get().ejected_until
    }

    /// A request could not be answered. `unreachable`: no connection was to be had, which needs no
    /// second proof. Returns for how long the upstream is left out from now on, if it is.
    pub fn failed(&self, now: Instant, unreachable: bool) -> Option<Duration> {
        if self.is_ejected(now) {
            // Requests that were on their way together prove one failure, not one each.
            return None;
        }
        let mut health = self.health.get();
        health.failures += 1;
        let mut time = None;
        if unreachable || health.failures >= FAILURES_TO_EJECT {
            let doubled = FIRST_EJECTION * 2u32.saturating_pow(health.ejections.min(5));
            time = Some(doubled.min(LONGEST_EJECTION));
            health = Health {
                failures: 0,
                ejections: health.ejections + 1,
                ejected_until: time.map(|time| now + time),
            };
            self.since.set(health.ejected_until);
        }
        self.health.set(health);
        time
    }

    /// Of its share, in percent: what a start of `whole` leaves it at `now`.
    fn warmth(&self, whole: Duration, now: Instant) -> u32 {
        let Some(since) = self.since.get() else { return 100 };
        let past = now.saturating_duration_since(since);
        let percent = (past.as_secs_f64() / whole.as_secs_f64() * 100.0) as u32;
        percent.clamp(COLDEST, 100)
    }

    pub fn succeeded(&self) {
        self.health.set(Health::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ejection_grows_and_success_forgets() {
        let upstream = Upstream::new((([127, 0, 0, 1], 80).into(), Default::default()), None);
        let start = Instant::now();
        upstream.failed(start, false);
        upstream.failed(start, false);
        assert!(!upstream.is_ejected(start));
        upstream.failed(start, false);
        assert!(upstream.is_ejected(start));
        assert!(!upstream.is_ejected(start + FIRST_EJECTION));
        // One that failed together with them.
        assert_eq!(upstream.failed(start, true), None);
        let mut now = start + FIRST_EJECTION;
        for seconds in [2, 4, 8, 16, 30, 30] {
            let time = Duration::from_secs(seconds);
            assert_eq!(upstream.failed(now, true), Some(time));
            now += time;
            assert!(!upstream.is_ejected(now));
        }
        upstream.failed(now, true);
        upstream.succeeded();
        assert!(!upstream.is_ejected(now));
    }

    #[test]
    fn a_slow_start_begins_with_a_little_and_ends() {
        let (key, now) = ((([127, 0, 0, 1], 80).into(), Default::default()), Instant::now());
        let whole = Duration::from_secs(20);
        let warmth = |upstream: &Upstream| {
            [0, 1, 4, 10, 19, 20, 4000]
                .map(|s| upstream.warmth(whole, now + Duration::from_secs(s)))
        };
        let there = Upstream::new(key, None);
        assert_eq!(warmth(&there), [100; 7]);
        assert_eq!(warmth(&Upstream::new(key, Some(now))), [10, 10, 20, 50, 95, 100, 100]);
        // From when it is back.
        there.failed(now, true);
        there.succeeded();
        assert_eq!(warmth(&there), [10, 10, 15, 45, 90, 95, 100]);
    }
}
