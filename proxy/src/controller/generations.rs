//! The generations of workers that live: one that gets new connections, those that drain, and the
//! handoff from one to the next.

use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::admin::answers::Refused;
use super::canary::Plan;
use super::journal::{Entry, Journal};
use super::listeners::Listeners;
use super::orphans::Orphan;
use super::rendezvous::Rendezvous;
use super::steering::{Steering, SteeringError};
use super::supervisor::{self, After, DrainOrder, Handle, Worker, WorkerState};
use super::trial::{Outcome, Trial};
use super::upgrade::state::State;
use super::worker_process::{Executable, Generation, StartError};
use crate::config::{Config, Drain};
use crate::protocol::fault::Fault;
use crate::protocol::settings::{ListenerKind, WorkerSettings};
use crate::protocol::snapshot::Snapshot;

/// Generations that may be alive at a time. One more, and the oldest is told to hurry.
const MOST_ALIVE: usize = 4;
/// For a worker that is ready to take the newest snapshot.
const CATCH_UP_LIMIT: std::time::Duration = std::time::Duration::from_secs(2);
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
    /// Gets a share of new connections.
    pub canary: Option<Handle>,
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
    ground: Ground,
    listeners: Arc<Listeners>,
    last_id: u64,
    journal: Journal,
    fleet: watch::Sender<Arc<Fleet>>,
}

/// What every generation stands on.
struct Ground {
    steering: Arc<Steering>,
    programs: Programs,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    rendezvous: Rendezvous,
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

/// How the next generation is to begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Launch {
    /// Tried on a share of connections first.
    pub canary: Option<Plan>,
    pub fault: Option<Fault>,
}

type Starting = JoinHandle<Result<Worker, StartError>>;

/// A handoff that has not come to its end.
struct UnderWay {
    phase: Phase,
    listeners: Arc<Listeners>,
    canary: Option<Plan>,
    entry: Entry,
    drain: Drain,
}

enum Phase {
    Starting(Starting),
    OnTrial(Box<Trial>),
}

/// What a phase ended with.
#[derive(Debug)]
pub enum Progress {
    Started(Result<Worker, String>),
    Tried(Outcome),
}

/// What there is to do.
#[derive(Debug)]
pub enum Step {
    Handoff(Progress),
    /// The draining worker of this index.
    Gone(usize),
    Swept,
    NobodyLeft,
}

/// What became of the generations.
#[derive(Debug)]
pub enum Event {
    /// The new generation is active.
    HandedOver,
    /// The old generation stays active. The handoff's entry is still open.
    Failed { entry: Entry, error: String },
    /// After [`Generations::drain_all`] or [`Generations::kill_all`]: nobody is left.
    AllGone,
}

impl Generations {
    /// The generations of a controller that starts: one that it makes, on sockets that nobody else
    /// has, or the workers of a controller that died, which serve on until the first handoff.
    ///
    /// # Errors
    /// [`FirstError`]; nothing is left then.
    pub async fn start(
        executable: Executable,
        config: &Config,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        orphans: Vec<Orphan>,
    ) -> Result<Self, FirstError> {
        let last_id = orphans.last().map_or(0, |newest| newest.generation);
        let (mut serving, draining): (Vec<_>, Vec<_>) =
            orphans.into_iter().partition(|orphan| !orphan.listeners.is_empty());
        let newest = serving.pop();
        let mut steering = Steering::choose(config.handoff)?;
        if let Some(newest) = &newest {
            steering = steering.take_over(newest.steered);
        }
        tracing::info!("handoff mode {}: {}", steering.mode(), steering.why());
        let ground = Ground {
            steering: Arc::new(steering),
            programs: Programs { current: Arc::new(executable), previous: None, before: None },
            snapshots,
            rendezvous: Rendezvous::beside(&config.control_socket),
        };
        let mut others = ground.adopt_all(draining, config);
        for worker in &others {
            worker.drain(DrainOrder::new(&config.drain, ground.steering.after())).await;
        }
        // Beside the newest one only the other half of a canary serves: the first handoff drains it.
        others.extend(ground.adopt_all(serving, config));
        let adopted = newest.and_then(|newest| ground.adopt(newest, config));
        let (active, listeners, last_id) = match adopted {
            Some((worker, listeners)) => (worker, listeners, last_id),
            None => ground.first(last_id + 1, config).await?,
        };
        let journal = Journal::new(Vec::new());
        Ok(Generations::of(active, others, |fleet| Common {
            ground,
            listeners,
            last_id,
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
        config: &Config,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> io::Result<Self> {
        let rendezvous = Rendezvous::beside(&config.control_socket);
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
            supervisor::Frozen::resume(worker, executable, snapshots.clone(), rendezvous.clone())
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
            ground: Ground { steering, programs, snapshots, rendezvous },
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
            canary: None,
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
            generations.sweep_after(old, None);
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
        self.common.ground.steering.clone()
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
        match self.go_on(entry, config, Launch::default()) {
            Ok(()) => Ok(id),
            Err((entry, error)) => {
                entry.failed(&error);
                Err(Refused::because(error))
            }
        }
    }

    /// Goes on with a handoff that has been announced.
    ///
    /// # Errors
    /// When an address cannot be had: its entry, still open, and why. Nothing has changed then.
    pub fn go_on(
        &mut self,
        entry: Entry,
        config: &Config,
        launch: Launch,
    ) -> Result<(), (Entry, String)> {
        match self.start_next(config, launch.fault) {
            Ok((task, listeners)) => {
                let (phase, drain) = (Phase::Starting(task), config.drain.clone());
                let canary = launch.canary;
                self.under_way = Some(UnderWay { phase, listeners, canary, entry, drain });
                Ok(())
            }
            Err(error) => Err((entry, error.to_string())),
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
        &self.common.ground.programs
    }

    fn start_next(
        &mut self,
        config: &Config,
        fault: Option<Fault>,
    ) -> Result<(Starting, Arc<Listeners>), SteeringError> {
        let Common { ground, listeners: ours, last_id, .. } = &mut self.common;
        let id = *last_id + 1;
        let threads = config.worker.threads;
        let listeners = ground.steering.listeners(id, &config.listen, threads, ours)?;
        *last_id = id;
        let generation = ground.generation(id, config, listeners, fault);
        let listeners = generation.listeners.clone();
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

    /// Waits until there is something to do: see [`Generations::follow`]. Cancel safe.
    pub async fn next(&mut self) -> Step {
        tokio::select! {
            progress = progress(&mut self.under_way) => Step::Handoff(progress),
            gone = first_gone(&mut self.draining) => Step::Gone(gone),
            Some(_) = self.sweeps.join_next() => Step::Swept,
            () = self.active.gone(), if self.draining.is_empty() => Step::NobodyLeft,
        }
    }

    /// Does what there is to do. Not cancel safe: between its steps a worker is nobody's.
    pub async fn follow(&mut self, step: Step) -> Option<Event> {
        match step {
            Step::Handoff(progress) => {
                let under_way = self.under_way.take()?;
                self.advance(under_way, progress).await
            }
            Step::Gone(gone) => {
                self.draining.remove(gone).join().await;
                self.publish();
                None
            }
            Step::Swept => None,
            Step::NobodyLeft => Some(Event::AllGone),
        }
    }

    /// The next phase of a handoff, or its end.
    async fn advance(&mut self, under_way: UnderWay, progress: Progress) -> Option<Event> {
        let UnderWay { phase, listeners, canary, entry, drain } = under_way;
        let worker = match (progress, phase) {
            (Progress::Started(Err(error)), _) => return Some(self.failed(entry, &error)),
            (Progress::Started(Ok(worker)), _) => {
                self.note_ready(&worker, &entry);
                self.catch_up(&worker).await;
                if let Some(plan) = canary {
                    let phase = self.try_out(worker, &plan, &entry);
                    self.under_way = Some(UnderWay { phase, listeners, canary, entry, drain });
                    self.publish();
                    return None;
                }
                worker
            }
            (Progress::Tried(Outcome::Passed(did)), Phase::OnTrial(trial)) => {
                entry.step(format!("the canary did well: {did}"));
                trial.worker
            }
            (Progress::Tried(Outcome::Failed(why)), Phase::OnTrial(trial)) => {
                drop(listeners);
                self.take_back(trial.worker, &drain, &entry).await;
                return Some(self.failed(entry, &format!("canary: {why}")));
            }
            (Progress::Tried(_), Phase::Starting(_)) => unreachable!("only canaries are tried"),
        };
        self.switch(worker, listeners, entry, &drain).await;
        Some(Event::HandedOver)
    }

    fn failed(&self, entry: Entry, error: &str) -> Event {
        let (new, old) = (self.common.last_id, self.active.handle().generation());
        let error = format!("generation {new}: {error}; generation {old} goes on");
        Event::Failed { entry, error }
    }

    fn note_ready(&self, worker: &Worker, entry: &Entry) {
        let status = worker.handle().status();
        entry.ready();
        entry.step(format!(
            "generation {} (pid {}) is ready after {} ms",
            self.common.last_id,
            status.pid.unwrap_or_default(),
            status.ready_after.as_millis()
        ));
    }

    /// What was published while it started is there before its first connection: a CA may have been
    /// told to look.
    async fn catch_up(&self, worker: &Worker) {
        let newest = self.common.ground.snapshots.borrow().version;
        if !worker.handle().applied(newest, CATCH_UP_LIMIT).await {
            tracing::warn!("generation {} does not take snapshot {newest}", self.common.last_id);
        }
    }

    fn try_out(&self, worker: Worker, plan: &Plan, entry: &Entry) -> Phase {
        let active = self.active.handle();
        self.common.ground.steering.share(&active, &worker.handle(), plan.share.share());
        entry.step(format!(
            "canary: {} of new connections go to generation {} for {} s",
            plan.share,
            self.common.last_id,
            plan.time().as_secs()
        ));
        Phase::OnTrial(Box::new(Trial::begin(worker, active, plan)))
    }

    /// A canary gets nothing more, and finishes what it has begun.
    async fn take_back(&mut self, canary: Worker, drain: &Drain, entry: &Entry) {
        self.common.ground.steering.flip(&self.active.handle());
        entry.step("the canary is taken back: it gets no new connections".to_owned());
        let handle = canary.handle();
        self.retire(canary, drain).await;
        self.sweep_after(handle, None);
    }

    /// Everything that can fail lies behind: it is one switch.
    async fn switch(
        &mut self,
        worker: Worker,
        listeners: Arc<Listeners>,
        entry: Entry,
        drain: &Drain,
    ) {
        self.common.ground.steering.flip(&worker.handle());
        entry.flipped();
        entry.step(format!("new connections go to generation {}", self.common.last_id));
        self.common.listeners = listeners;
        let old = std::mem::replace(&mut self.active, worker);
        for other in self.draining.iter().filter(|other| other.handle().is_active()) {
            other.drain(DrainOrder::new(drain, self.common.ground.steering.after())).await;
        }
        let handle = old.handle();
        self.retire(old, drain).await;
        // Not before everybody can see who serves.
        entry.done();
        self.sweep_after(handle, Some(entry));
    }

    /// Drains a worker to which nobody is sent any more.
    async fn retire(&mut self, old: Worker, drain: &Drain) {
        old.drain(DrainOrder::new(drain, self.common.ground.steering.after())).await;
        self.draining.push(old);
        self.hurry_oldest().await;
        self.publish();
    }

    /// Connections that migrate may not wake who gets them: see [`ToWorker::Sweep`].
    ///
    /// [`ToWorker::Sweep`]: crate::protocol::frame::ToWorker::Sweep
    fn sweep_after(&mut self, mut old: Handle, entry: Option<Entry>) {
        let fleet = self.common.fleet.subscribe();
        let steering = self.common.ground.steering.clone();
        self.sweeps.spawn(async move {
            old.quiesced().await;
            let active = fleet.borrow().active.clone();
            active.sweep().await;
            if let Some(entry) = entry {
                let counted = steering.counted(active.generation());
                entry.closed(old.generation(), counted.map(|counted| counted.migrated));
            }
        });
    }

    async fn hurry_oldest(&mut self) {
        if self.draining.len() < MOST_ALIVE {
            return;
        }
        if let Some(oldest) = self.draining.first() {
            let after = self.common.ground.steering.after();
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
        let canary = self.under_way.as_ref().and_then(|under_way| match &under_way.phase {
            Phase::OnTrial(trial) => Some(trial.worker.handle()),
            Phase::Starting(_) => None,
        });
        self.common.fleet.send_replace(Arc::new(Fleet {
            active: self.active.handle(),
            canary,
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
        let Some(UnderWay { phase, entry, .. }) = self.under_way.take() else { return };
        match phase {
            // The process that starts dies with its task.
            Phase::Starting(task) => task.abort(),
            Phase::OnTrial(trial) => self.draining.push(trial.worker),
        }
        entry.failed("baton was told to stop");
    }

    pub async fn join(self) {
        self.active.join().await;
        for worker in self.draining {
            worker.join().await;
        }
    }
}

impl Ground {
    async fn first(
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

    fn generation(
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
        }
    }

    fn adopt(&self, mut orphan: Orphan, config: &Config) -> Option<(Worker, Arc<Listeners>)> {
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

    fn adopt_all(&self, orphans: Vec<Orphan>, config: &Config) -> Vec<Worker> {
        let adopted = orphans.into_iter().filter_map(|orphan| self.adopt(orphan, config));
        adopted.map(|(worker, _)| worker).collect()
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
        state.steering = self.common.ground.steering.state();
        state.handoffs = self.common.journal.follow().borrow().to_vec();
    }

    pub fn programs(&self) -> &Programs {
        &self.common.ground.programs
    }
}

async fn progress(under_way: &mut Option<UnderWay>) -> Progress {
    match under_way.as_mut().map(|under_way| &mut under_way.phase) {
        Some(Phase::Starting(task)) => Progress::Started(match task.await {
            Ok(started) => started.map_err(|error| error.to_string()),
            Err(panicked) => Err(panicked.to_string()),
        }),
        Some(Phase::OnTrial(trial)) => Progress::Tried(trial.over().await),
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
