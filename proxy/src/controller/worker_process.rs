//! One worker process: spawn, hand over sockets, check, supervise.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use nix::sys::signal::Signal;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};

use super::listeners::Listeners;
use super::respawn::Backoff;
use super::unix_http::{self, RequestError};
use crate::config::Drain;
use crate::protocol;
use crate::protocol::channel::{self, ChannelError, MAX_DESCRIPTORS};
use crate::protocol::frame::{FromWorker, ToWorker, WorkerStats};
use crate::protocol::settings::{ListenerKind, WorkerSettings};
use crate::protocol::snapshot::Snapshot;

/// From spawn to the answered readiness question.
const START_LIMIT: Duration = Duration::from_secs(10);
/// For a worker to take one frame; a longer wait means that it hangs.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// Between the end of the channel and the exit of the process.
const EXIT_LIMIT: Duration = Duration::from_secs(1);
/// Added to the drain limits before a worker that does not keep them is killed.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// Orders that wait for the supervisor.
const ORDERS: usize = 16;

/// The worker answers this path on a handed-over connection alone, so the public never sees it.
const READY_PATH: &str = "/.well-known/baton/ready";
const READY_HOST: &str = "baton.invalid";
const READY_BODY: &str = "ready";

/// What of the controller's environment a worker may see: it could hold secrets.
const ENVIRONMENT: [&str; 3] = ["NO_COLOR", "RUST_BACKTRACE", "TZ"];

/// The executable that this process runs, whatever has become of its file since.
#[derive(Debug)]
pub struct Executable(File);

impl Executable {
    /// # Errors
    /// When /proc is not mounted.
    pub fn of_this_process() -> io::Result<Self> {
        File::open("/proc/self/exe").map(Executable)
    }

    fn command(&self) -> Command {
        // The child resolves the path in its own descriptor table, a copy of ours, before exec
        // closes what is marked CLOEXEC.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        command.arg0("baton");
        command
    }
}

/// What every process of one generation is started with.
#[derive(Debug)]
pub struct Generation {
    pub id: u64,
    pub executable: Executable,
    pub settings: WorkerSettings,
    pub listeners: Listeners,
    /// The newest one is what a worker routes by.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
}

/// The worker of a generation: one process, and after it dies unasked the next one.
#[derive(Debug)]
pub struct Worker {
    handle: Handle,
    supervisor: JoinHandle<()>,
}

/// Looks at a worker, and asks it for its counters.
#[derive(Debug, Clone)]
pub struct Handle {
    generation: u64,
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
    /// Processes of this generation that died unasked.
    pub deaths: u64,
    /// Why the last of them did.
    pub last_death: Option<String>,
    /// How long the next start waits, when deaths have become a habit.
    pub respawn_delay: Duration,
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

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("spawn: {0}")]
    Spawn(#[source] io::Error),
    #[error("{0} before it was ready")]
    Died(String),
    #[error("not ready within {} s", START_LIMIT.as_secs())]
    TimedOut,
    #[error("it speaks protocol {theirs}, this controller {}", protocol::VERSION)]
    Protocol { theirs: u32 },
    #[error("readiness: {0}")]
    Readiness(#[from] RequestError),
    #[error("readiness: it answered {status} {body:?}")]
    NotReady { status: StatusCode, body: String },
    #[error("{0}")]
    Channel(#[from] ChannelError),
}

#[derive(Debug)]
enum Order {
    Stats(oneshot::Sender<WorkerStats>),
    Drain(Drain),
    Kill,
}

impl Worker {
    /// Starts the first process of a generation, and watches over it and its successors.
    ///
    /// # Errors
    /// [`StartError`] when the first process does not become ready; nothing of it is left then.
    pub async fn start(mut generation: Generation) -> Result<Self, StartError> {
        let snapshot = generation.snapshot.borrow_and_update().clone();
        let process = Process::start(&generation, &snapshot).await?;
        let (orders, order_queue) = mpsc::channel(ORDERS);
        let (status_tx, status) = watch::channel(process.status());
        let handle = Handle { generation: generation.id, orders, status };
        let supervisor = Supervisor {
            generation,
            status: status_tx,
            orders: order_queue,
            backoff: Backoff::default(),
            draining: None,
        };
        Ok(Worker { handle, supervisor: tokio::spawn(supervisor.supervise(process)) })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stop accepting, finish what is in progress within the limits, then exit.
    pub async fn drain(&self, limits: &Drain) {
        // A closed queue means that the supervisor has ended, and the worker with it.
        let _ = self.handle.orders.send(Order::Drain(limits.clone())).await;
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
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn status(&self) -> Status {
        self.status.borrow().clone()
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

    /// Whether requests see snapshot `version` or a later one within `limit`.
    pub async fn applied(&mut self, version: u64, limit: Duration) -> bool {
        let seen = self.status.wait_for(|status| status.applied >= version);
        timeout(limit, seen).await.is_ok_and(|seen| seen.is_ok())
    }
}

/// One process that became ready.
#[derive(Debug)]
struct Process {
    child: Child,
    pid: u32,
    sender: channel::Sender<ToWorker>,
    receiver: channel::Receiver<FromWorker>,
    born: Instant,
    started: SystemTime,
    ready_after: Duration,
    applied: u64,
    /// Who waits for which Stats frame.
    asked: HashMap<u64, oneshot::Sender<WorkerStats>>,
    questions: u64,
}

impl Process {
    async fn start(generation: &Generation, snapshot: &Snapshot) -> Result<Self, StartError> {
        let mut process = Process::spawn(generation).map_err(StartError::Spawn)?;
        match timeout(START_LIMIT, process.introduce(generation, snapshot)).await {
            Ok(Ok(())) => {
                process.ready_after = process.born.elapsed();
                Ok(process)
            }
            Ok(Err(error)) => Err(process.start_error(error).await),
            Err(_) => {
                process.end().await;
                Err(StartError::TimedOut)
            }
        }
    }

    fn spawn(generation: &Generation) -> io::Result<Self> {
        let (near, far) = std::os::unix::net::UnixStream::pair()?;
        near.set_nonblocking(true)?;
        let mut command = generation.executable.command();
        command
            .args(["worker", "--control-fd", "0"])
            .env_clear()
            .envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .current_dir("/")
            // The channel becomes descriptor 0: the one that crosses exec.
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(far)))
            // Ctrl-C is for the controller, which then drains the worker.
            .process_group(0)
            // A process that does not become ready must not stay behind.
            .kill_on_drop(true);
        let child = command.spawn()?;
        let (sender, receiver) = channel::channel(UnixStream::from_std(near)?);
        Ok(Process {
            pid: child.id().unwrap_or_default(),
            child,
            sender,
            receiver,
            born: Instant::now(),
            started: SystemTime::now(),
            ready_after: Duration::ZERO,
            applied: 0,
            asked: HashMap::new(),
            questions: 0,
        })
    }

    /// Everything between spawn and ready, in the order of [`ToWorker`].
    async fn introduce(
        &mut self,
        generation: &Generation,
        snapshot: &Snapshot,
    ) -> Result<(), StartError> {
        self.sender
            .send(&ToWorker::Hello {
                protocol: protocol::VERSION,
                generation: generation.id,
                settings: Box::new(generation.settings.clone()),
            })
            .await?;
        self.send_listeners(&generation.listeners).await?;
        self.sender.send(&ToWorker::Snapshot(Box::new(snapshot.clone()))).await?;
        self.sender.send(&ToWorker::Serve).await?;
        self.await_serving(snapshot.version).await?;
        self.ask_ready().await
    }

    async fn send_listeners(&mut self, listeners: &Listeners) -> Result<(), ChannelError> {
        let all: Vec<_> = listeners.slots().collect();
        for chunk in all.chunks(MAX_DESCRIPTORS) {
            let (slots, sockets): (Vec<_>, Vec<BorrowedFd<'_>>) = chunk.iter().copied().unzip();
            self.sender.send_with(&ToWorker::Listeners { slots }, &sockets).await?;
        }
        Ok(())
    }

    async fn await_serving(&mut self, version: u64) -> Result<(), StartError> {
        let (mut hello, mut serving) = (false, false);
        while !(hello && serving && self.applied >= version) {
            match self.receiver.receive().await?.0 {
                FromWorker::Hello { protocol, .. } if protocol != protocol::VERSION => {
                    return Err(StartError::Protocol { theirs: protocol });
                }
                FromWorker::Hello { .. } => hello = true,
                FromWorker::Applied { snapshot } => self.applied = snapshot,
                FromWorker::Serving => serving = true,
                FromWorker::Stats { .. } | FromWorker::Drained => {}
            }
        }
        Ok(())
    }

    /// Asks a real request through a connection of its own: frames alone do not prove that the
    /// worker's threads serve.
    async fn ask_ready(&mut self) -> Result<(), StartError> {
        let (near, far) = UnixStream::pair().map_err(ChannelError::Io)?;
        let connection = ToWorker::Connection { kind: ListenerKind::Http };
        self.sender.send_with(&connection, &[far.as_fd()]).await?;
        drop(far);
        let request = Request::get(READY_PATH)
            .header(header::HOST, READY_HOST)
            .body(Empty::<Bytes>::new())
            .expect("constants make a request");
        let (status, body) = unix_http::ask(near, request).await?;
        if status == StatusCode::OK && body.trim_ascii() == READY_BODY.as_bytes() {
            return Ok(());
        }
        let body = String::from_utf8_lossy(&body).chars().take(200).collect();
        Err(StartError::NotReady { status, body })
    }

    /// A channel that breaks during the start most often means that the process died: that says
    /// more than "closed".
    async fn start_error(mut self, error: StartError) -> StartError {
        let exited = timeout(EXIT_LIMIT, self.child.wait()).await;
        match (error, exited) {
            (StartError::Channel(_) | StartError::Readiness(_), Ok(Ok(status))) => {
                StartError::Died(describe(status))
            }
            (error, _) => {
                self.end().await;
                error
            }
        }
    }

    /// Sends one frame to a worker that may hang.
    async fn send(&mut self, frame: &ToWorker) -> Result<(), String> {
        match timeout(SEND_LIMIT, self.sender.send(frame)).await {
            Ok(sent) => sent.map_err(|e| e.to_string()),
            Err(_) => Err(format!("hung: it took no frame for {} s", SEND_LIMIT.as_secs())),
        }
    }

    async fn ask_stats(&mut self, reply: oneshot::Sender<WorkerStats>) -> Result<(), String> {
        self.questions += 1;
        self.asked.retain(|_, waiting| !waiting.is_closed());
        self.asked.insert(self.questions, reply);
        self.send(&ToWorker::Stats { id: self.questions }).await
    }

    fn heard(&mut self, frame: FromWorker) {
        match frame {
            FromWorker::Applied { snapshot } => self.applied = snapshot,
            FromWorker::Stats { id, stats } => {
                if let Some(reply) = self.asked.remove(&id) {
                    // Whoever asked may have gone.
                    let _ = reply.send(*stats);
                }
            }
            FromWorker::Drained => tracing::info!("worker (pid {}) has drained", self.pid),
            FromWorker::Hello { .. } | FromWorker::Serving => {}
        }
    }

    /// Makes sure that the process is gone, and says how it went.
    async fn end(&mut self) -> String {
        // An error means that it has exited already.
        let _ = self.child.start_kill();
        self.exit().await
    }

    async fn exit(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => describe(status),
            Err(e) => format!("is gone ({e})"),
        }
    }

    fn status(&self) -> Status {
        Status {
            state: State::Active,
            pid: Some(self.pid),
            started: self.started,
            ready_after: self.ready_after,
            applied: self.applied,
            deaths: 0,
            last_death: None,
            respawn_delay: Duration::ZERO,
        }
    }
}

/// Owns the process that serves, and replaces it when it dies unasked.
struct Supervisor {
    generation: Generation,
    status: watch::Sender<Status>,
    orders: mpsc::Receiver<Order>,
    backoff: Backoff,
    /// When a draining worker is killed.
    draining: Option<tokio::time::Instant>,
}

impl Supervisor {
    async fn supervise(mut self, mut process: Process) {
        let id = self.generation.id;
        loop {
            let reason = self.serve(&mut process).await;
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
        self.status.send_modify(|status| {
            status.state = State::Gone;
            status.pid = None;
        });
    }

    /// Serves until the process is gone, and says how it went.
    async fn serve(&mut self, process: &mut Process) -> String {
        loop {
            let deadline = self.draining;
            let step = tokio::select! {
                status = process.child.wait() => {
                    return status.map_or_else(|e| format!("is gone ({e})"), describe);
                }
                frame = process.receiver.receive() => match frame {
                    Ok((frame, _)) => {
                        process.heard(frame);
                        self.status.send_modify(|status| status.applied = process.applied);
                        Ok(())
                    }
                    Err(ChannelError::Closed) => return hung_up(process).await,
                    Err(e) => Err(e.to_string()),
                },
                Ok(()) = self.generation.snapshot.changed() => {
                    let snapshot = self.generation.snapshot.borrow_and_update().clone();
                    process.send(&ToWorker::Snapshot(Box::new(Snapshot::clone(&snapshot)))).await
                }
                order = self.orders.recv() => self.obey(order, process).await,
                () = at(deadline) => {
                    tracing::warn!("worker (pid {}) is still busy: killing it", process.pid);
                    return process.end().await;
                }
            };
            if let Err(reason) = step {
                tracing::error!("worker (pid {}): {reason}: killing it", process.pid);
                return process.end().await;
            }
        }
    }

    async fn obey(&mut self, order: Option<Order>, process: &mut Process) -> Result<(), String> {
        match order {
            Some(Order::Stats(reply)) => process.ask_stats(reply).await,
            Some(Order::Drain(limits)) => self.begin_drain(&limits, process).await,
            // Without anybody who could order a drain, nobody wants the worker.
            Some(Order::Kill) | None => {
                self.draining = Some(tokio::time::Instant::now());
                Ok(())
            }
        }
    }

    async fn begin_drain(&mut self, limits: &Drain, process: &mut Process) -> Result<(), String> {
        if self.draining.is_some() {
            return Ok(());
        }
        // Whoever connects once the worker has closed its sockets is refused, and does not wait in
        // a queue that nobody reads.
        self.generation.listeners = Listeners::default();
        let longest = limits.limit.max(limits.tunnel_limit);
        self.draining = Some(tokio::time::Instant::now() + longest + DRAIN_GRACE);
        self.status.send_modify(|status| status.state = State::Draining);
        let (limit_ms, tunnel_limit_ms) = (millis(limits.limit), millis(limits.tunnel_limit));
        process.send(&ToWorker::Drain { limit_ms, tunnel_limit_ms }).await
    }

    fn note_death(&mut self, reason: String, lived: Duration) {
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
                () = stop_ordered(&mut self.orders) => {
                    self.draining = Some(tokio::time::Instant::now());
                    return None;
                }
            };
            match started {
                Ok(process) => {
                    self.status.send_modify(|status| {
                        let (deaths, last_death) = (status.deaths, status.last_death.take());
                        *status = Status { deaths, last_death, ..process.status() };
                    });
                    return Some(process);
                }
                Err(e) => {
                    tracing::error!("worker {} failed to start: {e}", self.generation.id);
                    self.note_death(format!("failed to start: {e}"), begun.elapsed() - delay);
                }
            }
        }
    }
}

/// The channel ended: the process is about to exit, or has lost its mind.
async fn hung_up(process: &mut Process) -> String {
    match timeout(EXIT_LIMIT, process.exit()).await {
        Ok(reason) => reason,
        Err(_) => format!("closed its channel and stayed: {}", process.end().await),
    }
}

/// Returns at the first order that ends a worker; nobody can answer the others meanwhile.
async fn stop_ordered(orders: &mut mpsc::Receiver<Order>) {
    while let Some(Order::Stats(_)) = orders.recv().await {}
}

async fn at(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn describe(status: ExitStatus) -> String {
    let signal = status.signal().map(|number| {
        Signal::try_from(number).map_or(format!("signal {number}"), |s| s.as_str().to_owned())
    });
    match (signal, status.code()) {
        (Some(signal), _) => format!("was killed by {signal}"),
        (None, Some(code)) => format!("exited with status {code}"),
        (None, None) => "is gone".to_owned(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(executable: &str) -> Generation {
        Generation {
            id: 1,
            executable: Executable(File::open(executable).expect("executable")),
            settings: WorkerSettings::default(),
            listeners: Listeners::default(),
            snapshot: watch::channel(Arc::default()).1,
        }
    }

    #[tokio::test]
    async fn an_early_exit_is_a_failed_start_and_says_how() {
        match Worker::start(generation("/bin/false")).await {
            Err(StartError::Died(reason)) => assert_eq!(reason, "exited with status 1"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ends_are_described() {
        for (raw, want) in [
            (0, "exited with status 0"),
            (3 << 8, "exited with status 3"),
            (9, "was killed by SIGKILL"),
            (11, "was killed by SIGSEGV"),
        ] {
            assert_eq!(describe(ExitStatus::from_raw(raw)), want);
        }
    }
}
