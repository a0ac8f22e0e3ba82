//! The worker of a generation: keeps one process serving until it is told to drain.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use super::listeners::Listeners;
use super::metrics::{Load, Tally};
use super::orphans::Orphan;
use super::rendezvous::Rendezvous;
use super::respawn::Backoff;
use super::worker_process::{
    Event, Executable, Generation, Process, ProcessState, SandboxState, StartError,
};
use crate::config::Drain;
use crate::protocol::frame::{ToWorker, WorkerStats};
use crate::protocol::snapshot::Snapshot;

/// Added to the drain limits before a worker that does not keep them is killed.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// For idle connections of a worker that has no successor: nothing will serve these clients better.
const IDLE_LIMIT: Duration = Duration::from_secs(1);
/// How long nobody must have connected to a listener that has a successor before it closes: longer
/// than a round trip, so that handshakes that had begun end here.
const QUIET: Duration = Duration::from_secs(1);
/// From the drain to the close of the listeners; more than a worker that does not hang takes.
const QUIESCE_LIMIT: Duration = Duration::from_secs(15);
/// Between two looks at the counters of a worker: what it counted after the last one is lost where it
/// dies unasked.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// Orders that wait for the supervisor.
const ORDERS: usize = 16;

/// The worker of a generation: one process, and after it dies unasked the next one.
#[derive(Debug)]
pub struct Worker {
    handle: Handle,
    supervisor: JoinHandle<Option<Box<Frozen>>>,
}

/// A worker that nobody watches over for a moment: it serves on by itself. What crosses exec is made
/// from it, and it is thawed where exec fails.
#[derive(Debug)]
pub struct Frozen {
    process: Process,
    generation: Generation,
    status: Status,
    backoff: Backoff,
    draining: Option<tokio::time::Instant>,
}

/// A frozen worker as it crosses exec.
#[derive(Debug, Serialize, Deserialize)]
pub struct WorkerState {
    pub process: ProcessState,
    pub deaths: u64,
    pub last_death: Option<String>,
    /// Time left to a worker that drains.
    pub draining: Option<Duration>,
}

/// Looks at a worker, and asks it for its counters.
#[derive(Debug, Clone)]
pub struct Handle {
    generation: u64,
    threads: usize,
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<Status>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub state: State,
    pub pid: Option<u32>,
    pub started: SystemTime,
    /// From spawn to the answered readiness question.
    pub ready_after: Duration,
    /// Version of the snapshot that requests see.
    pub applied: u64,
    pub sandbox: SandboxState,
    /// Processes of this generation that died unasked.
    pub deaths: u64,
    /// Why the last of them did.
    pub last_death: Option<String>,
    /// How long the next start waits, when deaths have become a habit.
    pub respawn_delay: Duration,
    /// Its listeners are closed, and what waited in their queues has moved on.
    pub quiesced: bool,
    /// What it had to do at the last look.
    pub load: Load,
}

impl Status {
    fn of(process: &Process) -> Self {
        Status {
            state: State::Active,
            pid: Some(process.pid),
            started: process.started,
            ready_after: process.ready_after,
            applied: process.applied,
            sandbox: process.sandbox.clone(),
            deaths: 0,
            last_death: None,
            respawn_delay: Duration::ZERO,
            quiesced: false,
            load: Load::default(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Starting,
    Active,
    Draining,
    Gone,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Active => "active",
            State::Draining => "draining",
            State::Gone => "gone",
        }
    }
}

#[derive(Debug)]
enum Order {
    Stats(oneshot::Sender<WorkerStats>),
    Sweep,
    Follow { host: String, socket: OwnedFd },
    Drain(DrainOrder),
    Freeze,
    Kill,
}

/// How a worker is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainOrder {
    pub limit: Duration,
    pub tunnel_limit: Duration,
    pub after: After,
}

/// What comes after a drained worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Nobody: who connects from now on is refused.
    Nobody,
    /// A worker that has the very same sockets.
    SameSockets,
    /// A worker with sockets of its own, to which the selector sends everybody. Those who are in the
    /// middle of a handshake with this one still arrive here.
    OtherSockets,
}

impl DrainOrder {
    pub fn new(limits: &Drain, after: After) -> Self {
        DrainOrder { limit: limits.limit, tunnel_limit: limits.tunnel_limit, after }
    }

    fn quiet(&self) -> Duration {
        match self.after {
            After::Nobody | After::SameSockets => Duration::ZERO,
            After::OtherSockets => QUIET,
        }
    }

    /// Idle connections stay as long as requests may, since one may be on the wire; without a
    /// successor nothing will serve these clients better.
    fn idle_limit(&self) -> Duration {
        match self.after {
            After::Nobody => self.limit.min(IDLE_LIMIT),
            After::SameSockets | After::OtherSockets => self.limit,
        }
    }
}

impl Worker {
    /// Starts the first process of a generation, and watches over it and its successors.
    ///
    /// # Errors
    /// [`StartError`] when the first process does not become ready; nothing of it is left then.
    pub async fn start(mut generation: Generation) -> Result<Self, StartError> {
        let snapshot = generation.snapshot.borrow_and_update().clone();
        let process = Process::start(&generation, &snapshot).await?;
        let status = Status::of(&process);
        let backoff = Backoff::default();
        Ok(Worker::thaw(Frozen { process, generation, status, backoff, draining: None }))
    }

    /// Watches over the worker of a controller that died. `generation` is what its next process is
    /// started with, should it die.
    ///
    /// # Errors
    /// When it is gone.
    pub fn adopt(orphan: Orphan, generation: Generation) -> std::io::Result<Self> {
        let process = Process::adopt(orphan, &generation.rendezvous, generation.tally.clone())?;
        let status = Status { quiesced: process.quiesced, ..Status::of(&process) };
        let backoff = Backoff::default();
        Ok(Worker::thaw(Frozen { process, generation, status, backoff, draining: None }))
    }

    /// Watches over a worker.
    pub fn thaw(frozen: Frozen) -> Self {
        let Frozen { process, generation, status, backoff, draining } = frozen;
        let (orders, order_queue) = mpsc::channel(ORDERS);
        // A drain that was in its first moments closes its listeners now at the latest.
        let open = draining.is_some() && !status.quiesced;
        let quiesce_limit = open.then(|| tokio::time::Instant::now() + QUIESCE_LIMIT);
        let (status_tx, status) = watch::channel(status);
        let handle = Handle {
            generation: generation.id,
            threads: generation.settings.threads,
            orders,
            status,
        };
        let supervisor = Supervisor {
            generation,
            status: status_tx,
            orders: order_queue,
            backoff,
            draining,
            quiesce_limit,
            looks: looks(),
            freeze: false,
        };
        Worker { handle, supervisor: tokio::spawn(supervisor.supervise(process)) }
    }

    /// Stops watching over the worker, between two frames; one whose next process is just being
    /// started is waited for. None when it is gone.
    pub async fn freeze(self) -> Option<Frozen> {
        let _ = self.handle.orders.send(Order::Freeze).await;
        self.supervisor.await.ok().flatten().map(|frozen| *frozen)
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stop accepting, finish what is in progress within the limits, then exit. A second order
    /// replaces the limits of the first.
    pub async fn drain(&self, order: DrainOrder) {
        self.handle.drain(order).await;
    }

    /// At once, whatever is in progress.
    pub async fn kill(&self) {
        let _ = self.handle.orders.send(Order::Kill).await;
    }

    /// Returns when the worker is gone after [`Worker::drain`] or [`Worker::kill`]. Cancel safe.
    pub async fn gone(&mut self) {
        let _ = self.handle.status.wait_for(|status| status.state == State::Gone).await;
    }

    /// Waits for the supervisor itself, after [`Worker::gone`].
    pub async fn join(self) {
        if let Err(e) = self.supervisor.await {
            tracing::error!("worker supervisor: {e}");
        }
    }
}

impl Handle {
    pub async fn drain(&self, order: DrainOrder) {
        // A closed queue means that the supervisor has ended, and the worker with it.
        let _ = self.orders.send(Order::Drain(order)).await;
    }

    /// Accept what waits in the queues, although nothing said so.
    pub async fn sweep(&self) {
        let _ = self.orders.send(Order::Sweep).await;
    }

    /// Has its access log of a host written into a socket, too.
    pub async fn follow(&self, host: String, socket: OwnedFd) {
        let _ = self.orders.send(Order::Follow { host, socket }).await;
    }

    /// Returns when a drained worker's listeners are closed, or it is gone.
    pub async fn quiesced(&mut self) {
        let _ = self.status.wait_for(|s| s.quiesced || s.state == State::Gone).await;
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Returns when a process of this generation has died unasked, with how it went. Cancel safe.
    pub async fn died(&mut self) -> String {
        let dead = self.status.wait_for(|s| s.deaths > 0 || s.state == State::Gone).await;
        let reason = dead.ok().and_then(|status| status.last_death.clone());
        format!("it {}", reason.unwrap_or_else(|| "is gone".to_owned()))
    }

    /// Whether it serves without having been told to drain.
    pub fn is_active(&self) -> bool {
        self.status.borrow().state == State::Active
    }

    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Counters since the start of the process; none while it starts, or when it does not answer
    /// within `limit`.
    pub async fn stats(&self, limit: Duration) -> Option<WorkerStats> {
        let (reply, stats) = oneshot::channel();
        let asked = async {
            self.orders.send(Order::Stats(reply)).await.ok()?;
            stats.await.ok()
        };
        timeout(limit, asked).await.ok().flatten()
    }

    /// It ended for good.
    pub fn is_gone(&self) -> bool {
        self.status.borrow().state == State::Gone
    }

    /// Whether requests see snapshot `version` or a later one within `limit`.
    pub async fn applied(&mut self, version: u64, limit: Duration) -> bool {
        let seen = self.status.wait_for(|status| status.applied >= version);
        timeout(limit, seen).await.is_ok_and(|seen| seen.is_ok())
    }
}

#[cfg(test)]
impl Handle {
    /// Of a worker that applied snapshot 1 and tells nothing else.
    pub(super) fn silent() -> Self {
        let status = Status {
            state: State::Active,
            pid: Some(2),
            started: SystemTime::UNIX_EPOCH,
            ready_after: Duration::from_millis(3),
            applied: 1,
            sandbox: SandboxState::default(),
            deaths: 0,
            last_death: None,
            respawn_delay: Duration::ZERO,
            quiesced: false,
            load: Load::default(),
        };
        Handle {
            generation: 1,
            threads: 1,
            orders: mpsc::channel(1).0,
            status: watch::channel(status).1,
        }
    }
}

impl Frozen {
    pub fn state(&self) -> WorkerState {
        let now = tokio::time::Instant::now();
        WorkerState {
            process: self.process.state(&self.generation),
            deaths: self.status.deaths,
            last_death: self.status.last_death.clone(),
            draining: self.draining.map(|deadline| deadline.saturating_duration_since(now)),
        }
    }

    /// # Errors
    /// When the worker is gone.
    pub fn resume(
        state: WorkerState,
        executable: Arc<Executable>,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        rendezvous: Rendezvous,
        tally: Tally,
    ) -> std::io::Result<Self> {
        let (process, generation) =
            Process::resume(state.process, executable, snapshot, rendezvous, tally)?;
        let is_draining = state.draining.is_some();
        let status = Status {
            state: if is_draining { State::Draining } else { State::Active },
            deaths: state.deaths,
            last_death: state.last_death,
            quiesced: process.quiesced,
            ..Status::of(&process)
        };
        let draining = state.draining.map(|left| tokio::time::Instant::now() + left);
        Ok(Frozen { process, generation, status, backoff: Backoff::default(), draining })
    }

    pub fn listeners(&self) -> Arc<Listeners> {
        self.generation.listeners.clone()
    }
}

/// Why [`Supervisor::serve`] returned.
enum Served {
    Ended(String),
    Frozen,
}

/// Owns the process that serves, and replaces it when it dies unasked.
struct Supervisor {
    generation: Generation,
    status: watch::Sender<Status>,
    orders: mpsc::Receiver<Order>,
    backoff: Backoff,
    /// When a draining worker is killed.
    draining: Option<tokio::time::Instant>,
    /// When the listeners of a draining worker that hangs are closed under it.
    quiesce_limit: Option<tokio::time::Instant>,
    /// When the counters are looked at.
    looks: Interval,
    /// To be frozen as soon as there is a process.
    freeze: bool,
}

impl Supervisor {
    async fn supervise(mut self, mut process: Process) -> Option<Box<Frozen>> {
        let id = self.generation.id;
        loop {
            let reason = match self.serve(&mut process).await {
                Served::Ended(reason) => reason,
                Served::Frozen => return Some(Box::new(self.frozen(process))),
            };
            if self.draining.is_some() {
                tracing::info!("worker {id} (pid {}) {reason}", process.pid);
                break;
            }
            tracing::error!("worker {id} (pid {}) {reason}: starting another", process.pid);
            self.note_death(reason, process.born.elapsed());
            drop(process);
            match self.respawn().await {
                Some(next) => process = next,
                None => break,
            }
            let (pid, ready) = (process.pid, process.ready_after.as_millis());
            tracing::info!("worker {id} (pid {pid}) ready after {ready} ms");
        }
        // Before anybody hears of it: what migrates from its queues is swept then.
        self.close_listeners();
        self.status.send_modify(|status| {
            status.state = State::Gone;
            status.pid = None;
        });
        None
    }

    fn frozen(self, process: Process) -> Frozen {
        let status = self.status.borrow().clone();
        let Supervisor { generation, backoff, draining, .. } = self;
        Frozen { process, generation, status, backoff, draining }
    }

    /// Serves until the process is gone, and says how it went.
    async fn serve(&mut self, process: &mut Process) -> Served {
        loop {
            if self.freeze {
                return Served::Frozen;
            }
            let deadline = self.draining;
            let step = tokio::select! {
                event = process.next() => match event {
                    Event::Heard => {
                        self.note_applied(process.applied);
                        self.note_load(process);
                        if process.quiesced {
                            self.close_listeners();
                        }
                        Ok(())
                    }
                    Event::Ended(how) => return Served::Ended(how),
                    Event::Lost(reason) => Err(reason),
                },
                // Newer ones than that a process was started with, or had before it was frozen.
                Ok(()) = self.generation.snapshot.changed() => {
                    let snapshot = self.generation.snapshot.borrow_and_update().clone();
                    process.send(&ToWorker::Snapshot(Box::new(Snapshot::clone(&snapshot)))).await
                }
                order = self.orders.recv() => self.obey(order, process).await,
                _ = self.looks.tick() => process.look().await,
                () = at(self.quiesce_limit) => {
                    tracing::warn!("worker (pid {}) does not close its listeners", process.pid);
                    self.generation.listeners.shut_down();
                    self.close_listeners();
                    Ok(())
                }
                () = at(deadline) => Err("is still busy".to_owned()),
            };
            if let Err(reason) = step {
                tracing::warn!("worker (pid {}) {reason}: killing it", process.pid);
                return Served::Ended(process.end().await);
            }
        }
    }

    async fn obey(&mut self, order: Option<Order>, process: &mut Process) -> Result<(), String> {
        match order {
            Some(Order::Stats(reply)) => process.ask_stats(reply).await,
            Some(Order::Sweep) => process.send(&ToWorker::Sweep).await,
            Some(Order::Follow { host, socket }) => process.follow(host, &socket).await,
            Some(Order::Drain(order)) => self.begin_drain(&order, process).await,
            // Without anybody who could order a drain, nobody wants the worker.
            Some(Order::Freeze) => {
                self.freeze = true;
                Ok(())
            }
            Some(Order::Kill) | None => {
                self.draining = Some(tokio::time::Instant::now());
                Ok(())
            }
        }
    }

    async fn begin_drain(
        &mut self,
        order: &DrainOrder,
        process: &mut Process,
    ) -> Result<(), String> {
        let now = tokio::time::Instant::now();
        match order.after {
            // Whoever connects once the worker has closed its sockets is refused, and does not wait
            // in a queue that nobody reads.
            After::Nobody => self.close_listeners(),
            // Ours alone: the worker accepts until it says that it does no more.
            After::SameSockets => self.generation.listeners = Arc::default(),
            After::OtherSockets if !process.quiesced => {
                self.quiesce_limit = Some(now + QUIESCE_LIMIT);
            }
            After::OtherSockets => {}
        }
        let longest = order.limit.max(order.tunnel_limit);
        self.draining = Some(now + longest + DRAIN_GRACE);
        self.status.send_modify(|status| status.state = State::Draining);
        let drain = ToWorker::Drain {
            quiet_ms: millis(order.quiet()),
            limit_ms: millis(order.limit),
            idle_limit_ms: millis(order.idle_limit()),
            tunnel_limit_ms: millis(order.tunnel_limit),
        };
        process.send(&drain).await
    }

    /// Lets go of the sockets. Where the worker has done so too, the kernel migrates what is left in
    /// their queues.
    fn close_listeners(&mut self) {
        self.generation.listeners = Arc::default();
        self.quiesce_limit = None;
        self.status.send_if_modified(|status| !std::mem::replace(&mut status.quiesced, true));
    }

    fn note_applied(&self, version: u64) {
        self.status.send_if_modified(|status| {
            let news = status.applied != version;
            status.applied = version;
            news
        });
    }

    /// Nobody waits for it: whoever looks sees it.
    fn note_load(&self, process: &Process) {
        self.status.send_if_modified(|status| {
            status.load = process.counted().map(Load::of).unwrap_or_default();
            false
        });
    }

    fn note_death(&mut self, reason: String, lived: Duration) {
        self.generation.tally.worker_died();
        let delay = self.backoff.after_death(Instant::now(), lived);
        self.status.send_modify(|status| {
            status.state = State::Starting;
            status.pid = None;
            status.deaths += 1;
            status.last_death = Some(reason);
            status.respawn_delay = delay;
        });
        if !delay.is_zero() {
            tracing::error!("workers die again and again: next start in {} ms", delay.as_millis());
        }
    }

    /// The next process on the same sockets; none when there is to be none any more.
    async fn respawn(&mut self) -> Option<Process> {
        loop {
            let delay = self.status.borrow().respawn_delay;
            let snapshot = self.generation.snapshot.borrow_and_update().clone();
            let begun = Instant::now();
            let start = async {
                sleep(delay).await;
                Process::start(&self.generation, &snapshot).await
            };
            let started = tokio::select! {
                started = start => started,
                () = stop_ordered(&mut self.orders, &mut self.freeze) => {
                    self.draining = Some(tokio::time::Instant::now());
                    return None;
                }
            };
            match started {
                Ok(process) => {
                    self.status.send_modify(|status| {
                        let (deaths, last_death) = (status.deaths, status.last_death.take());
                        *status = Status { deaths, last_death, ..Status::of(&process) };
                    });
                    return Some(process);
                }
                Err(e) => {
                    tracing::error!("worker {} failed to start: {e}", self.generation.id);
                    self.note_death(
                        format!("failed to start: {e}"),
                        begun.elapsed().saturating_sub(delay),
                    );
                }
            }
        }
    }
}

/// Returns at the first order that ends a worker; nobody can answer the others meanwhile.
async fn stop_ordered(orders: &mut mpsc::Receiver<Order>, freeze: &mut bool) {
    loop {
        match orders.recv().await {
            Some(Order::Stats(_) | Order::Sweep | Order::Follow { .. }) => {}
            Some(Order::Freeze) => *freeze = true,
            Some(Order::Drain(_) | Order::Kill) | None => return,
        }
    }
}

fn looks() -> Interval {
    let mut looks = interval(LOOK_PAUSE);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

async fn at(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
