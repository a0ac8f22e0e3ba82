//! The handoff from one generation to the next, phase by phase.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::{Common, Event, Generations};
use crate::config::{Config, Drain};
use crate::controller::admin::answers::Refused;
use crate::controller::canary::Plan;
use crate::controller::journal::Entry;
use crate::controller::listeners::Listeners;
use crate::controller::steering::SteeringError;
use crate::controller::supervisor::{DrainOrder, Worker};
use crate::controller::trial::{Outcome, Trial};
use crate::controller::worker_process::StartError;
use crate::protocol::fault::Fault;

/// For a worker that is ready to take the newest snapshot.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(2);

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
pub(super) struct UnderWay {
    pub(super) phase: Phase,
    listeners: Arc<Listeners>,
    canary: Option<Plan>,
    entry: Entry,
    drain: Drain,
}

pub(super) enum Phase {
    Starting(Starting),
    OnTrial(Box<Trial>),
}

/// What a phase ended with.
#[derive(Debug)]
pub enum Progress {
    Started(Result<Worker, String>),
    Tried(Outcome),
}

impl Generations {
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

    /// The next phase of a handoff, or its end.
    pub(super) async fn advance(
        &mut self,
        under_way: UnderWay,
        progress: Progress,
    ) -> Option<Event> {
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

    pub(super) fn abandon_handoff(&mut self) {
        let Some(UnderWay { phase, entry, .. }) = self.under_way.take() else { return };
        match phase {
            // The process that starts dies with its task.
            Phase::Starting(task) => task.abort(),
            Phase::OnTrial(trial) => self.draining.push(trial.worker),
        }
        entry.failed("baton was told to stop");
    }
}

pub(super) async fn progress(under_way: &mut Option<UnderWay>) -> Progress {
    match under_way.as_mut().map(|under_way| &mut under_way.phase) {
        Some(Phase::Starting(task)) => Progress::Started(match task.await {
            Ok(started) => started.map_err(|error| error.to_string()),
            Err(panicked) => Err(panicked.to_string()),
        }),
        Some(Phase::OnTrial(trial)) => Progress::Tried(trial.over().await),
        None => std::future::pending().await,
    }
}
