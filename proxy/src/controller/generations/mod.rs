//! The generations of workers that live: one that gets new connections, those that drain, and the
//! handoff from one to the next.

mod ground;
mod handoff;

use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::journal::{Entry, Journal};
use super::listeners::Listeners;
use super::metrics::Tally;
use super::orphans::Orphan;
use super::rendezvous::Rendezvous;
use super::steering::{Steering, SteeringError};
use super::supervisor::{self, After, DrainOrder, Handle, Worker, WorkerState};
use super::upgrade::state::State;
use super::worker_process::{Executable, StartError};
use crate::config::{Config, Drain};
use crate::protocol::snapshot::Snapshot;

use ground::Ground;
pub use ground::Programs;
pub use handoff::{Launch, Progress};
use handoff::{Phase, UnderWay, progress};

/// Generations that may be alive at a time. One more, and the oldest is told to hurry.
const MOST_ALIVE: usize = 4;
/// What the oldest may take then.
const HURRY: Duration = Duration::from_secs(5);

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

/// Generations whose workers nobody watches over.
pub struct Frozen {
    common: Common,
    active: supervisor::Frozen,
    draining: Vec<supervisor::Frozen>,
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
        tally: Tally,
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
            tally,
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
        let journal = Journal::new(Vec::new(), ground.tally.clone());
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
        tally: Tally,
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
            let (snapshots, rendezvous) = (snapshots.clone(), rendezvous.clone());
            supervisor::Frozen::resume(worker, executable, snapshots, rendezvous, tally.clone())
        };
        let draining: Vec<_> =
            // One that drained and went meanwhile is nobody's loss.
            std::mem::take(&mut state.draining).into_iter().filter_map(|w| resume(w).ok()).collect();
        let active = resume(state.active.take().ok_or(io::ErrorKind::NotFound)?)?;
        let listeners = active.listeners();
        let journal = Journal::new(std::mem::take(&mut state.handoffs), tally.clone());
        let last_id = state.last_generation;
        let draining = draining.into_iter().map(Worker::thaw).collect();
        Ok(Generations::of(Worker::thaw(active), draining, |fleet| Common {
            ground: Ground { steering, programs, snapshots, rendezvous, tally },
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

    pub fn tally(&self) -> Tally {
        self.common.ground.tally.clone()
    }

    pub fn journal(&self) -> Journal {
        self.common.journal.clone()
    }

    /// What a rollback would return to.
    pub fn programs(&self) -> &Programs {
        &self.common.ground.programs
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
                let gone = self.draining.remove(gone);
                let id = gone.handle().generation();
                gone.join().await;
                // Its slot may count for another generation from now on.
                let Ground { steering, tally, .. } = &self.common.ground;
                tally.generation_ended(id, steering.counted(id));
                self.publish();
                None
            }
            Step::Swept => None,
            Step::NobodyLeft => Some(Event::AllGone),
        }
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

    /// Lets go of all workers for good: they serve on until the next controller finds them.
    pub async fn leave(mut self) {
        self.abandon_handoff();
        // Dropped, it would take along the sockets at which they are found.
        std::mem::forget(self.freeze().await);
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
        state.steering = self.common.ground.steering.state();
        state.handoffs = self.common.journal.follow().borrow().to_vec();
        state.totals = self.common.ground.tally.totals();
    }

    pub fn programs(&self) -> &Programs {
        &self.common.ground.programs
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
