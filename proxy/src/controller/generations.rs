//! The generations of workers that live: one that gets new connections, those that drain, and the
//! handoff from one to the next.

use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::admin::answers::Refused;
use super::journal::{Entry, Journal};
use super::listeners::Listeners;
use super::steering::{Steering, SteeringError};
use super::supervisor::{self, After, DrainOrder, Handle, Worker, WorkerState};
use super::upgrade::state::State;
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
    Steering(#[from] SteeringError),
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
    common: Common,
    active: Worker,
    draining: Vec<Worker>,
    under_way: Option<UnderWay>,
    /// Wait for old listeners to close, and then have the active worker sweep its own.
    sweeps: JoinSet<()>,
}

/// What is there whether workers are watched over or frozen.
struct Common {
    steering: Arc<Steering>,
    programs: Programs,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    listeners: Arc<Listeners>,
    last_id: u64,
    journal: Journal,
    fleet: watch::Sender<Arc<Fleet>>,
}

/// The executables of this process: see [`Executables`].
///
/// [`Executables`]: super::upgrade::state::Executables
#[derive(Debug, Clone)]
pub struct Programs {
    pub current: Arc<Executable>,
    pub previous: Option<Arc<Executable>>,
    pub before: Option<Arc<Executable>>,
}

/// Generations whose workers nobody watches over.
pub struct Frozen {
    common: Common,
    active: supervisor::Frozen,
    draining: Vec<supervisor::Frozen>,
}

type Starting = JoinHandle<Result<Worker, StartError>>;

struct UnderWay {
    task: Starting,
    listeners: Arc<Listeners>,
    threads: usize,
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
        let steering = Arc::new(Steering::choose(config.handoff)?);
        tracing::info!("handoff mode {}: {}", steering.mode(), steering.why());
        let programs = Programs { current: Arc::new(executable), previous: None, before: None };
        let none = Listeners::default();
        let listeners = steering.listeners(1, &config.listen, config.worker.threads, &none)?;
        let listeners = Arc::new(listeners);
        let generation = Generation {
            id: 1,
            executable: programs.current.clone(),
            settings: settings(config, &listeners),
            listeners: listeners.clone(),
            snapshot: snapshots.clone(),
        };
        let active = Worker::start(generation).await?;
        let journal = Journal::new(Vec::new());
        Ok(Generations::of(active, vec![], |fleet| Common {
            steering,
            programs,
            snapshots,
            listeners,
            last_id: 1,
            journal,
            fleet,
        }))
    }

    /// The generations of the program that this process was.
    ///
    /// # Errors
    /// When the active worker has been lost on the way.
    pub fn resume(
        state: &mut State,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> io::Result<Self> {
        let steering = Steering::resume(state.steering.clone()).map_err(io::Error::other)?;
        let steering = Arc::new(steering);
        let mut known = HashMap::new();
        let mut program = |descriptor: RawFd| {
            known
                .entry(descriptor)
                .or_insert_with(|| Arc::new(Executable::resume(descriptor)))
                .clone()
        };
        let programs = Programs {
            current: program(state.executables.current),
            previous: state.executables.previous.map(&mut program),
            before: state.executables.before.map(&mut program),
        };
        let mut resume = |worker: WorkerState| {
            let executable = program(worker.process.executable);
            supervisor::Frozen::resume(worker, executable, snapshots.clone())
        };
        let draining: Vec<_> =
            // One that drained and went meanwhile is nobody's loss.
            std::mem::take(&mut state.draining).into_iter().filter_map(|w| resume(w).ok()).collect();
        let active = resume(state.active.take().ok_or(io::ErrorKind::NotFound)?)?;
        let listeners = active.listeners();
        let journal = Journal::new(std::mem::take(&mut state.handoffs));
        let last_id = state.last_generation;
        let draining = draining.into_iter().map(Worker::thaw).collect();
        Ok(Generations::of(Worker::thaw(active), draining, |fleet| Common {
            steering,
            programs,
            snapshots,
            listeners,
            last_id,
            journal,
            fleet,
        }))
    }

    fn of(
        active: Worker,
        draining: Vec<Worker>,
        common: impl FnOnce(watch::Sender<Arc<Fleet>>) -> Common,
    ) -> Self {
        let fleet = watch::Sender::new(Arc::new(Fleet {
            active: active.handle(),
            draining: vec![],
            listeners: Arc::default(),
        }));
        let common = common(fleet);
        Generations::thaw_workers(common, active, draining)
    }

    fn thaw_workers(common: Common, active: Worker, draining: Vec<Worker>) -> Self {
        let sweeps = JoinSet::new();
        let mut generations = Generations { common, active, draining, under_way: None, sweeps };
        generations.publish();
        for old in generations.draining.iter().map(Worker::handle).collect::<Vec<_>>() {
            generations.sweep_after(old);
        }
        generations
    }

    /// Lets go of all workers, which serve on by themselves. Only without a handoff under way. None
    /// when the active worker is gone for good.
    pub async fn freeze(self) -> Option<Frozen> {
        let Generations { common, active, draining, .. } = self;
        let mut frozen = Vec::new();
        for worker in draining {
            frozen.extend(worker.freeze().await);
        }
        Some(Frozen { common, active: active.freeze().await?, draining: frozen })
    }

    pub fn steering(&self) -> Arc<Steering> {
        self.common.steering.clone()
    }

    pub fn fleet(&self) -> watch::Receiver<Arc<Fleet>> {
        self.common.fleet.subscribe()
    }

    pub fn journal(&self) -> Journal {
        self.common.journal.clone()
    }

    /// Begins a handoff to a generation with this configuration. Returns its number in the journal.
    ///
    /// # Errors
    /// When another handoff is under way, or an address cannot be had. Nothing has changed then.
    pub fn begin(&mut self, kind: &str, config: &Config) -> Result<u64, Refused> {
        let entry = self.announce(kind)?;
        let id = entry.id();
        self.go_on(entry, config).map_err(Refused::because)?;
        Ok(id)
    }

    /// Goes on with a handoff that the program before this one began.
    ///
    /// # Errors
    /// As [`Generations::begin`].
    pub fn go_on(&mut self, entry: Entry, config: &Config) -> Result<(), String> {
        match self.start_next(config) {
            Ok((task, listeners)) => {
                let (threads, drain) = (config.worker.threads, config.drain.clone());
                self.under_way = Some(UnderWay { task, listeners, threads, entry, drain });
                Ok(())
            }
            Err(error) => {
                entry.failed(&error.to_string());
                Err(error.to_string())
            }
        }
    }

    /// Enters a handoff into the journal.
    ///
    /// # Errors
    /// When another one is under way.
    pub fn announce(&self, kind: &str) -> Result<Entry, Refused> {
        self.refuse_second()?;
        let from = self.active.handle().generation();
        Ok(self.common.journal.begin(kind, from, self.common.last_id + 1))
    }

    /// What a rollback would return to.
    pub fn programs(&self) -> &Programs {
        &self.common.programs
    }

    fn start_next(&mut self, config: &Config) -> Result<(Starting, Arc<Listeners>), SteeringError> {
        let threads = config.worker.threads;
        let steering = &self.common.steering;
        let (id, ours) = (self.common.last_id + 1, &self.common.listeners);
        let listeners = Arc::new(steering.listeners(id, &config.listen, threads, ours)?);
        self.common.last_id = id;
        let generation = Generation {
            id: self.common.last_id,
            executable: self.common.programs.current.clone(),
            settings: settings(config, &listeners),
            listeners: listeners.clone(),
            snapshot: self.common.snapshots.clone(),
        };
        Ok((tokio::spawn(Worker::start(generation)), listeners))
    }

    fn refuse_second(&self) -> Result<(), Refused> {
        match self.common.journal.under_way() {
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
        UnderWay { listeners, threads, entry, drain, .. }: UnderWay,
        started: Result<Worker, String>,
    ) -> Event {
        let worker = match started {
            Ok(worker) => worker,
            Err(error) => {
                let (new, old) = (self.common.last_id, self.active.handle().generation());
                let error = format!("generation {new}: {error}; generation {old} goes on");
                entry.failed(&error);
                return Event::Failed { error };
            }
        };
        let status = worker.handle().status();
        entry.ready();
        entry.step(format!(
            "generation {} (pid {}) is ready after {} ms",
            self.common.last_id,
            status.pid.unwrap_or_default(),
            status.ready_after.as_millis()
        ));
        // Everything that can fail lies behind: from here on it is one switch.
        self.common.steering.flip(self.common.last_id, threads);
        entry.flipped();
        entry.step(format!("new connections go to generation {}", self.common.last_id));
        self.common.listeners = listeners;
        let old = std::mem::replace(&mut self.active, worker);
        old.drain(DrainOrder::new(&drain, self.common.steering.after())).await;
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
        let fleet = self.common.fleet.subscribe();
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
            let after = self.common.steering.after();
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
        self.common.fleet.send_replace(Arc::new(Fleet {
            active: self.active.handle(),
            draining: self.draining.iter().map(Worker::handle).collect(),
            listeners: self.common.listeners.clone(),
        }));
    }

    /// Drains every generation, with nobody after it.
    pub async fn drain_all(&mut self, limits: &Drain) {
        self.abandon_handoff();
        self.common.listeners = Arc::default();
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

impl Frozen {
    /// Watches over the workers again.
    pub fn thaw(self) -> Generations {
        let Frozen { common, active, draining } = self;
        let draining = draining.into_iter().map(Worker::thaw).collect();
        Generations::thaw_workers(common, Worker::thaw(active), draining)
    }

    /// Fills in what a state says of generations.
    pub fn describe(&self, state: &mut State) {
        state.last_generation = self.common.last_id;
        state.active = Some(self.active.state());
        state.draining = self.draining.iter().map(supervisor::Frozen::state).collect();
        state.steering = self.common.steering.state();
        state.handoffs = self.common.journal.follow().borrow().to_vec();
    }

    pub fn programs(&self) -> &Programs {
        &self.common.programs
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
