//! Counters added up over all processes. A worker's are added as it tells them, by what they grew: so
//! nothing falls when it is gone, and nothing counts twice, whoever asked it how often.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::controller::steering::Counted;
use crate::protocol::frame::WorkerStats;
use crate::protocol::stats::{Durations, HostStats, UNKNOWN_HOST};

/// The host of those that were forgotten.
pub const GONE_HOST: &str = "_gone";
/// What is no host.
const SUMS: [&str; 2] = [UNKNOWN_HOST, GONE_HOST];
/// Hosts that no route has any more, and that are still told apart. One more, and all of them become
/// [`GONE_HOST`]: whoever gives each build a name of its own must not fill the monitoring with them.
const MOST_GONE_HOSTS: usize = 500;

/// Where everybody counts. Not on the path of any request: a worker counts for itself.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<Totals>>);

/// Since the first program of this process. Crosses an upgrade.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Gauges of it mean nothing.
    pub workers: WorkerStats,
    /// Processes of workers that died unasked.
    pub deaths: u64,
    /// By the selector.
    pub steered: Steered,
    /// By kind and outcome.
    pub handoffs: BTreeMap<String, BTreeMap<String, u64>>,
    /// Of handoffs that were done, from the start to the switch; by kind.
    pub handoff_durations: BTreeMap<String, Durations>,
    pub docker_events: u64,
    /// Lists: one at each connect.
    pub docker_lists: u64,
    /// Connections that ended.
    pub docker_losses: u64,
    /// At CAs.
    pub orders_issued: u64,
    pub orders_failed: u64,
}

/// Connections that went to a socket of the selector's choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Steered {
    pub selected: u64,
    pub migrated: u64,
    /// What is in the sums of generations that live.
    known: BTreeMap<u64, Counted>,
}

/// What a worker has to do at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    pub connections: u64,
    pub connections_http1: u64,
    pub connections_http2: u64,
    pub tunnels: u64,
    pub requests_active: u64,
    pub requests_held: u64,
}

impl Tally {
    /// Goes on from the totals of the program before.
    pub fn resume(totals: Totals) -> Self {
        Tally(Arc::new(Mutex::new(totals)))
    }

    pub fn totals(&self) -> Totals {
        self.lock().clone()
    }

    /// `before` is what the same process told before, and has been added.
    pub fn workers_grew(&self, now: &WorkerStats, before: &WorkerStats) {
        self.lock().workers.grow(now, before);
    }

    pub fn worker_died(&self) {
        self.lock().deaths += 1;
    }

    /// What the selector has counted of a generation that lives.
    pub fn steered(&self, generation: u64, counted: Option<Counted>) {
        if let Some(counted) = counted {
            self.lock().steered.grow(generation, counted);
        }
    }

    pub fn generation_ended(&self, generation: u64, counted: Option<Counted>) {
        self.steered(generation, counted);
        self.lock().steered.known.remove(&generation);
    }

    pub fn handoff_ended(&self, kind: &str, outcome: &str, took: Duration, is_done: bool) {
        let mut totals = self.lock();
        let outcomes = totals.handoffs.entry(kind.to_owned()).or_default();
        *outcomes.entry(outcome.to_owned()).or_default() += 1;
        if is_done {
            totals.handoff_durations.entry(kind.to_owned()).or_default().record(took);
        }
    }

    pub fn docker_event(&self) {
        self.lock().docker_events += 1;
    }

    pub fn docker_listed(&self) {
        self.lock().docker_lists += 1;
    }

    pub fn docker_lost(&self) {
        self.lock().docker_losses += 1;
    }

    pub fn order_ended(&self, is_issued: bool) {
        let mut totals = self.lock();
        match is_issued {
            true => totals.orders_issued += 1,
            false => totals.orders_failed += 1,
        }
    }

    /// Keeps the number of hosts within bounds; `has_route` says which ones the table has.
    pub fn forget_hosts(&self, has_route: impl Fn(&str) -> bool) {
        let mut totals = self.lock();
        let hosts = &mut totals.workers.hosts;
        let is_gone = |host: &String| !SUMS.contains(&host.as_str()) && !has_route(host);
        if hosts.keys().filter(|host| is_gone(host)).count() <= MOST_GONE_HOSTS {
            return;
        }
        let nothing = HostStats::default();
        let mut sum = hosts.remove(GONE_HOST).unwrap_or_default();
        hosts.retain(|host, stats| {
            let gone = is_gone(host);
            if gone {
                sum.grow(stats, &nothing);
            }
            !gone
        });
        hosts.insert(GONE_HOST.to_owned(), sum);
    }

    /// A panic while it was held would have been in an addition.
    fn lock(&self) -> MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Steered {
    fn grow(&mut self, generation: u64, now: Counted) {
        let before = self.known.insert(generation, now).unwrap_or_default();
        self.selected += now.selected.saturating_sub(before.selected);
        self.migrated += now.migrated.saturating_sub(before.migrated);
    }
}

impl Load {
    pub fn of(stats: &WorkerStats) -> Self {
        Load {
            connections: stats.connections,
            connections_http1: stats.connections_http1,
            connections_http2: stats.connections_http2,
            tunnels: stats.tunnels,
            requests_active: stats.requests_active,
            requests_held: stats.requests_held,
        }
    }

    #[must_use]
    pub fn and(self, other: Load) -> Self {
        Load {
            connections: self.connections + other.connections,
            connections_http1: self.connections_http1 + other.connections_http1,
            connections_http2: self.connections_http2 + other.connections_http2,
            tunnels: self.tunnels + other.tunnels,
            requests_active: self.requests_active + other.requests_active,
            requests_held: self.requests_held + other.requests_held,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::stats::RequestKind;
    use http::{Method, StatusCode};

    fn of_hosts(hosts: impl IntoIterator<Item = String>) -> WorkerStats {
        let kind = RequestKind::new(true, &Method::GET, Some(StatusCode::OK));
        let hosts = hosts.into_iter().map(|host| {
            let mut stats = HostStats::default();
            stats.add(kind, 2);
            (host, stats)
        });
        WorkerStats { hosts: hosts.collect(), ..WorkerStats::default() }
    }

    fn requests(totals: &Totals, host: &str) -> Option<u64> {
        let stats = totals.workers.hosts.get(host)?;
        Some(stats.requests().map(|(_, count)| count).sum())
    }

    #[test]
    fn hosts_without_a_route_are_told_apart_up_to_a_limit() {
        let tally = Tally::default();
        let names = |count| (0..count).map(|number| format!("{number}.test"));
        let grow = |hosts| tally.workers_grew(&of_hosts(hosts), &WorkerStats::default());
        grow(
            names(MOST_GONE_HOSTS)
                .chain(["kept".to_owned(), "_unknown".to_owned()])
                .collect::<Vec<_>>(),
        );
        tally.forget_hosts(|host| host == "kept");
        assert_eq!(requests(&tally.totals(), "7.test"), Some(2));
        assert_eq!(requests(&tally.totals(), GONE_HOST), None);
        for round in 1..=2 {
            grow(names(MOST_GONE_HOSTS + 1).collect());
            tally.forget_hosts(|host| host == "kept");
            let totals = tally.totals();
            let gone = 2 * (MOST_GONE_HOSTS as u64 * (round + 1) + round);
            assert_eq!(requests(&totals, GONE_HOST), Some(gone));
            assert_eq!(totals.workers.hosts.len(), 3);
            assert_eq!(requests(&totals, "kept"), Some(2));
        }
    }

    #[test]
    fn what_the_selector_counted_stays_when_a_slot_begins_anew() {
        let tally = Tally::default();
        let counted = |selected, migrated| Some(Counted { selected, migrated });
        tally.steered(1, counted(10, 0));
        tally.steered(1, counted(15, 1));
        tally.steered(2, None);
        tally.generation_ended(1, counted(16, 1));
        // The same slot, of another generation.
        tally.steered(9, counted(3, 2));
        let Totals { steered, .. } = tally.totals();
        assert_eq!((steered.selected, steered.migrated), (19, 3));
        assert_eq!(steered.known.len(), 1);
    }

    #[test]
    fn totals_cross_an_upgrade() {
        let tally = Tally::default();
        tally.workers_grew(&of_hosts(["a".to_owned()]), &WorkerStats::default());
        tally.steered(1, Some(Counted { selected: 4, migrated: 1 }));
        tally.handoff_ended("upgrade", "done", Duration::from_millis(40), true);
        tally.order_ended(false);
        tally.docker_event();
        tally.worker_died();
        let text = serde_json::to_string(&tally.totals()).expect("json");
        let totals: Totals = serde_json::from_str(&text).expect("totals");
        assert_eq!(totals, tally.totals());
        // A program of an older version has none.
        assert_eq!(serde_json::from_str::<Totals>("{}").expect("none"), Totals::default());
    }
}
