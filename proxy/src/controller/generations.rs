//! The generations of workers that live: one that gets new connections, those that drain, and the
//! handoff from one to the next.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::admin::answers::Refused;
use super::journal::{Entry, Journal};
use super::listeners::{BindError, Listeners};
use super::steering::Steering;
use super::supervisor::{After, DrainOrder, Handle, Worker};
use super::worker_process::{Executable, Generation, StartError};
use crate::config::{Config, Drain};
use crate::protocol::settings::{ListenerKind, WorkerSettings};
use crate::protocol::snapshot::Snapshot;

/// Generations that may be alive at a time. One more, and the oldest is told to hurry.
const MOST_ALIVE: usize = 4;
/// What the oldest may take then.
const HURRY: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum FirstError {
    #[error("{0}")]
    Listeners(#[from] BindError),
    #[error("worker: {0}")]
    Worker(#[from] StartError),
}

/// What others may see of the generations; swapped whole.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// Gets new connections.
    pub active: Handle,
    /// Oldest first.
    pub draining: Vec<Handle>,
    pub listeners: Arc<Listeners>,
}

pub struct Generations {
    steering: Arc<Steering>,
    executable: Arc<Executable>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    active: Worker,
    listeners: Arc<Listeners>,
    draining: Vec<Worker>,
    last_id: u64,
    journal: Journal,
    under_way: Option<UnderWay>,
    fleet: watch::Sender<Arc<Fleet>>,
    /// Wait for old listeners to close, and then have the active worker sweep its own.
    sweeps: JoinSet<()>,
}

struct UnderWay {
    task: JoinHandle<Result<Worker, StartError>>,
    listeners: Arc<Listeners>,
    entry: Entry,
    drain: Drain,
}

/// What became of the generations.
#[derive(Debug)]
pub enum Event {
    /// The new generation is active.
    HandedOver,
    /// The handoff of this number failed: the old generation stays active.
    Failed { error: String },
    /// After [`Generations::drain_all`] or [`Generations::kill_all`]: nobody is left.
    AllGone,
}

impl Generations {
    /// The first generation, on sockets that nobody else has.
    ///
    /// # Errors
    /// [`FirstError`]; nothing is left then.
    pub async fn first(
        executable: Executable,
        config: &Config,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> Result<Self, FirstError> {
        let steering = Arc::new(Steering::choose());
        tracing::info!("handoff mode {}: {}", steering.mode(), steering.why());
        let executable = Arc::new(executable);
        let none = Listeners::default();
        let listeners = steering.listeners(&config.listen, config.worker.threads, &none)?;
        let listeners = Arc::new(listeners);
        let generation = Generation {
            id: 1,
            executable: executable.clone(),
            settings: settings(config, &listeners),
            listeners: listeners.clone(),
            snapshot: snapshots.clone(),
        };
        let active = Worker::start(generation).await?;
        let fleet =
            Fleet { active: active.handle(), draining: vec![], listeners: listeners.clone() };
        Ok(Generations {
            steering,
            executable,
            snapshots,
            active,
            listeners,
            draining: Vec::new(),
            last_id: 1,
            journal: Journal::new(Vec::new()),
            under_way: None,
            fleet: watch::Sender::new(Arc::new(fleet)),
            sweeps: JoinSet::new(),
        })
    }

    pub fn steering(&self) -> Arc<Steering> {
        self.steering.clone()
    }

    pub fn fleet(&self) -> watch::Receiver<Arc<Fleet>> {
        self.fleet.subscribe()
    }

    pub fn journal(&self) -> Journal {
        self.journal.clone()
    }

    /// Begins a handoff to a generation with this configuration. Returns its number in the journal.
    ///
    /// # Errors
    /// When another handoff is under way, or an address cannot be had. Nothing has changed then.
    pub fn begin(&mut self, kind: &str, config: &Config) -> Result<u64, Refused> {
        self.refuse_second()?;
        let threads = config.worker.threads;
        let listeners = self
            .steering
            .listeners(&config.listen, threads, &self.listeners)
            .map_err(|error| Refused::because(error.to_string()))?;
        let listeners = Arc::new(listeners);
        self.last_id += 1;
        let entry = self.journal.begin(kind, self.active.handle().generation(), self.last_id);
        entry.step(format!("starting generation {} with {threads} threads", self.last_id));
        let generation = Generation {
            id: self.last_id,
            executable: self.executable.clone(),
            settings: settings(config, &listeners),
            listeners: listeners.clone(),
            snapshot: self.snapshots.clone(),
        };
        let id = entry.id();
        self.under_way = Some(UnderWay {
            task: tokio::spawn(Worker::start(generation)),
            listeners,
            entry,
            drain: config.drain.clone(),
        });
        Ok(id)
    }

    fn refuse_second(&self) -> Result<(), Refused> {
        match self.journal.under_way() {
            None => Ok(()),
            Some(other) => Err(Refused::because(format!(
                "handoff {} ({}) is under way: try again when it is over",
                other.id, other.kind
            ))),
        }
    }

    /// Drives a handoff and the drains until there is something to say. Cancel safe.
    pub async fn next(&mut self) -> Event {
        loop {
            tokio::select! {
                started = started(&mut self.under_way) => {
                    // `started` returns only with a handoff under way.
                    if let Some(under_way) = self.under_way.take() {
                        return self.finish(under_way, started).await;
                    }
                }
                gone = first_gone(&mut self.draining) => {
                    self.draining.remove(gone).join().await;
                    self.publish();
                }
                Some(_) = self.sweeps.join_next() => {}
                () = self.active.gone(), if self.draining.is_empty() => return Event::AllGone,
            }
        }
    }

    async fn finish(
        &mut self,
        UnderWay { listeners, entry, drain, .. }: UnderWay,
        started: Result<Worker, String>,
    ) -> Event {
        let worker = match started {
            Ok(worker) => worker,
            Err(error) => {
                let (new, old) = (self.last_id, self.active.handle().generation());
                let error = format!("generation {new}: {error}; generation {old} goes on");
                entry.failed(&error);
                return Event::Failed { error };
            }
        };
        let status = worker.handle().status();
        entry.ready();
        entry.step(format!(
            "generation {} (pid {}) is ready after {} ms",
            self.last_id,
            status.pid.unwrap_or_default(),
            status.ready_after.as_millis()
        ));
        // Everything that can fail lies behind: from here on it is one switch.
        entry.flipped();
        entry.step(format!("new connections go to generation {}", self.last_id));
        self.listeners = listeners;
        let old = std::mem::replace(&mut self.active, worker);
        old.drain(DrainOrder::new(&drain, self.steering.after())).await;
        self.sweep_after(old.handle());
        self.draining.push(old);
        self.hurry_oldest().await;
        self.publish();
        entry.done();
        Event::HandedOver
    }

    /// Connections that migrate may not wake who gets them: see [`ToWorker::Sweep`].
    ///
    /// [`ToWorker::Sweep`]: crate::protocol::frame::ToWorker::Sweep
    fn sweep_after(&mut self, mut old: Handle) {
        let fleet = self.fleet.subscribe();
        self.sweeps.spawn(async move {
            old.quiesced().await;
            let active = fleet.borrow().active.clone();
            active.sweep().await;
        });
    }

    async fn hurry_oldest(&mut self) {
        if self.draining.len() < MOST_ALIVE {
            return;
        }
        if let Some(oldest) = self.draining.first() {
            let after = self.steering.after();
            let order = DrainOrder { limit: HURRY, tunnel_limit: HURRY, after };
            tracing::warn!(
                "more than {MOST_ALIVE} generations: generation {} has {} s left",
                oldest.handle().generation(),
                HURRY.as_secs()
            );
            oldest.drain(order).await;
        }
    }

    fn publish(&self) {
        self.fleet.send_replace(Arc::new(Fleet {
            active: self.active.handle(),
            draining: self.draining.iter().map(Worker::handle).collect(),
            listeners: self.listeners.clone(),
        }));
    }

    /// Drains every generation, with nobody after it.
    pub async fn drain_all(&mut self, limits: &Drain) {
        self.abandon_handoff();
        self.listeners = Arc::default();
        self.publish();
        let order = DrainOrder::new(limits, After::Nobody);
        for worker in self.draining.iter().chain([&self.active]) {
            worker.drain(order).await;
        }
    }

    /// Ends every generation at once.
    pub async fn kill_all(&mut self) {
        self.abandon_handoff();
        self.active.kill().await;
        for worker in &self.draining {
            worker.kill().await;
        }
    }

    fn abandon_handoff(&mut self) {
        if let Some(UnderWay { task, entry, .. }) = self.under_way.take() {
            // The process that starts dies with its task.
            task.abort();
            entry.failed("baton was told to stop");
        }
    }

    pub async fn join(self) {
        self.active.join().await;
        for worker in self.draining {
            worker.join().await;
        }
    }
}

async fn started(under_way: &mut Option<UnderWay>) -> Result<Worker, String> {
    match under_way {
        Some(under_way) => match (&mut under_way.task).await {
            Ok(started) => started.map_err(|error| error.to_string()),
            Err(panicked) => Err(panicked.to_string()),
        },
        None => std::future::pending().await,
    }
}

/// The first of several workers that is gone.
async fn first_gone(workers: &mut [Worker]) -> usize {
    if workers.is_empty() {
        return std::future::pending().await;
    }
    let gone = workers.iter_mut().map(|worker| Box::pin(worker.gone()));
    futures_util::future::select_all(gone).await.1
}

/// What a worker is started with: the configuration, and what only the bound sockets tell.
fn settings(config: &Config, listeners: &Listeners) -> WorkerSettings {
    let https = listeners.addresses().into_iter().find(|(_, kind)| *kind == ListenerKind::Https);
    WorkerSettings { https_port: https.map(|(address, _)| address.port()), ..config.worker.clone() }
}
