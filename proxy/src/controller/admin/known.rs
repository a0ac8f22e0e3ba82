//! What is known of the whole, for the admin socket and the status page.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::answers::{self, HandoffMode, Status, rfc3339};
use crate::controller::generations::Fleet;
use crate::controller::journal::Handoffs;
use crate::controller::steering::Steering;
use crate::controller::supervisor::{Handle, State};
use crate::protocol::frame::WorkerStats;

/// For a worker to tell its counters: `status` goes without them after it.
const STATS_LIMIT: Duration = Duration::from_secs(1);

/// For a worker to take the routes that are shown.
const ROUTES_LIMIT: Duration = Duration::from_secs(1);

/// What the controller shows to people; swapped whole.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub routes: answers::Routes,
    pub certificates: Vec<answers::Certificate>,
    pub docker: answers::Docker,
    /// Version of the snapshot with these routes.
    pub snapshot: u64,
}

/// Where it is known from.
#[derive(Debug, Clone)]
pub struct Known {
    pub started: SystemTime,
    pub steering: Arc<Steering>,
    pub fleet: watch::Receiver<Arc<Fleet>>,
    pub handoffs: watch::Receiver<Handoffs>,
    pub view: watch::Receiver<Arc<View>>,
}

impl Known {
    /// Once requests see them: whoever reads that a route is up may ask it.
    pub async fn routes(&self) -> answers::Routes {
        let view = self.view.borrow().clone();
        let mut active = self.fleet.borrow().active.clone();
        // A worker that does not take them is told of by `status`.
        let _ = active.applied(view.snapshot, ROUTES_LIMIT).await;
        view.routes.clone()
    }

    pub async fn status(&self) -> Status {
        // Before the generations: one whose handoff is done is among them then.
        let last_handoffs = self.handoffs.borrow().to_vec();
        let fleet = self.fleet.borrow().clone();
        let workers = fleet.draining.iter().chain([&fleet.active]).chain(&fleet.canary);
        let generations =
            futures_util::future::join_all(workers.map(|worker| self.generation(worker, &fleet)))
                .await;
        let listeners = fleet.listeners.addresses().into_iter();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: rfc3339(self.started),
            handoff: HandoffMode {
                mode: self.steering.mode().to_owned(),
                why: self.steering.why().to_owned(),
            },
            generations,
            listeners: listeners
                .map(|(address, kind)| answers::Listener {
                    address: address.to_string(),
                    kind: kind.as_str().to_owned(),
                })
                .collect(),
            last_handoffs,
            docker: self.view.borrow().docker.clone(),
        }
    }

    async fn generation(&self, worker: &Handle, fleet: &Fleet) -> answers::Generation {
        let counters = worker.stats(STATS_LIMIT).await;
        let status = worker.status();
        let counted = self.steering.counted(worker.generation());
        let on_trial = fleet.canary.as_ref().is_some_and(|c| c.generation() == worker.generation());
        let state = match status.state {
            State::Active if on_trial => "canary",
            other => other.as_str(),
        };
        answers::Generation {
            id: worker.generation(),
            state: state.to_owned(),
            pid: status.pid,
            started: rfc3339(status.started),
            connections: counters.as_ref().map(|counters| counters.connections),
            selected: counted.map(|counted| counted.selected),
            migrated: counted.map(|counted| counted.migrated),
            ms_to_ready: millis(status.ready_after),
            snapshot: status.applied,
            deaths: status.deaths,
            last_death: status.last_death,
            respawn_delay_ms: millis(status.respawn_delay),
            sandbox: status.sandbox.active,
            sandbox_missing: status.sandbox.missing,
            counters: counters.map(WorkerStats::without_hosts),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
impl Known {
    /// Nothing, of a worker behind whose handle nobody is.
    pub fn silent() -> Self {
        let fleet = Fleet {
            active: Handle::silent(),
            canary: None,
            draining: vec![],
            listeners: Arc::default(),
        };
        Known {
            started: SystemTime::UNIX_EPOCH,
            steering: Arc::new(Steering::Inherit { why: "a test".to_owned() }),
            fleet: watch::channel(Arc::new(fleet)).1,
            handoffs: watch::channel(Arc::default()).1,
            view: watch::channel(Arc::default()).1,
        }
    }
}
