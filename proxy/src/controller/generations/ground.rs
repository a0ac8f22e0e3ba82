//! What every generation stands on, and how a worker comes to stand on it.

use std::sync::Arc;

use tokio::sync::watch;

use super::FirstError;
use crate::config::Config;
use crate::controller::listeners::Listeners;
use crate::controller::metrics::Tally;
use crate::controller::orphans::Orphan;
use crate::controller::rendezvous::Rendezvous;
use crate::controller::steering::Steering;
use crate::controller::supervisor::Worker;
use crate::controller::worker_process::{Executable, Generation};
use crate::protocol::fault::Fault;
use crate::protocol::settings::{ListenerKind, WorkerSettings};
use crate::protocol::snapshot::Snapshot;

/// What every generation stands on.
pub(super) struct Ground {
    pub(super) steering: Arc<Steering>,
    pub(super) programs: Programs,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) rendezvous: Rendezvous,
    pub(super) tally: Tally,
}

/// The executables of this process: see [`Executables`].
///
/// [`Executables`]: crate::controller::upgrade::state::Executables
#[derive(Debug, Clone)]
pub struct Programs {
    pub current: Arc<Executable>,
    pub previous: Option<Arc<Executable>>,
    pub before: Option<Arc<Executable>>,
}

impl Ground {
    pub(super) async fn first(
        &self,
        id: u64,
        config: &Config,
    ) -> Result<(Worker, Arc<Listeners>, u64), FirstError> {
        let none = Listeners::default();
        let threads = config.worker.threads;
        let listeners = self.steering.listeners(id, &config.listen, threads, &none)?;
        let generation = self.generation(id, config, listeners, None);
        let listeners = generation.listeners.clone();
        Ok((Worker::start(generation).await?, listeners, id))
    }

    pub(super) fn generation(
        &self,
        id: u64,
        config: &Config,
        listeners: Listeners,
        fault: Option<Fault>,
    ) -> Generation {
        Generation {
            id,
            executable: self.programs.current.clone(),
            settings: settings(config, &listeners),
            listeners: Arc::new(listeners),
            snapshot: self.snapshots.clone(),
            fault,
            steered: self.steering.is_ebpf(),
            rendezvous: self.rendezvous.clone(),
            tally: self.tally.clone(),
        }
    }

    pub(super) fn adopt(
        &self,
        mut orphan: Orphan,
        config: &Config,
    ) -> Option<(Worker, Arc<Listeners>)> {
        let listeners = std::mem::take(&mut orphan.listeners);
        let generation = self.generation(orphan.generation, config, listeners, None);
        let (id, listeners) = (generation.id, generation.listeners.clone());
        match Worker::adopt(orphan, generation) {
            Ok(worker) => Some((worker, listeners)),
            Err(error) => {
                tracing::error!("worker {id} cannot be taken over: {error}");
                None
            }
        }
    }

    pub(super) fn adopt_all(&self, orphans: Vec<Orphan>, config: &Config) -> Vec<Worker> {
        let adopted = orphans.into_iter().filter_map(|orphan| self.adopt(orphan, config));
        adopted.map(|(worker, _)| worker).collect()
    }
}

/// What a worker is started with: the configuration, and what only the bound sockets tell.
fn settings(config: &Config, listeners: &Listeners) -> WorkerSettings {
    let https = listeners.addresses().into_iter().find(|(_, kind)| *kind == ListenerKind::Https);
    WorkerSettings { https_port: https.map(|(address, _)| address.port()), ..config.worker.clone() }
}
