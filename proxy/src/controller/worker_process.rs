//! One worker process: spawn, hand over sockets, check, talk.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::child::Child;
use super::listeners::{BoundState, Listeners};
use super::metrics::Tally;
use super::orphans::Orphan;
use super::rendezvous::{Place, Rendezvous};
use super::unix_http::{self, RequestError};
use crate::protocol::channel::{self, ChannelError, MAX_DESCRIPTORS};
use crate::protocol::fault::Fault;
use crate::protocol::frame::{FromWorker, ToWorker, WorkerStats};
use crate::protocol::settings::{ListenerKind, WorkerSettings};
use crate::protocol::snapshot::Snapshot;
use crate::protocol::{self, READY_PATH};
use crate::sys;

/// From spawn to the answered readiness question.
const START_LIMIT: Duration = Duration::from_secs(10);
/// For a worker to take one frame; a longer wait means that it hangs.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// Between the end of the channel and the exit of the process.
const EXIT_LIMIT: Duration = Duration::from_secs(1);
/// The number of a question for counters that nobody waits for.
const LOOK: u64 = 0;
const READY_HOST: &str = "baton.invalid";
const READY_BODY: &str = "ready";

/// What of the controller's environment a worker may see: it could hold secrets.
const ENVIRONMENT: [&str; 3] = ["NO_COLOR", "RUST_BACKTRACE", "TZ"];

/// The executable that this process runs, whatever has become of its file since.
#[derive(Debug)]
pub struct Executable(File);

impl AsRawFd for Executable {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Executable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Executable {
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Executable)
    }

    /// Takes over a descriptor that crossed exec.
    pub fn resume(descriptor: RawFd) -> Self {
        Executable(sys::own_inherited(descriptor).into())
    }

    /// # Errors
    /// When /proc is not mounted.
    pub fn of_this_process() -> io::Result<Self> {
        File::open("/proc/self/exe").map(Executable)
    }

    pub fn command(&self) -> Command {
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
    pub executable: Arc<Executable>,
    pub settings: WorkerSettings,
    pub listeners: Arc<Listeners>,
    /// The newest one is what a worker routes by.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub fault: Option<Fault>,
    /// The selector sends connections to its sockets.
    pub steered: bool,
    pub rendezvous: Rendezvous,
    /// Where counters are added up.
    pub tally: Tally,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("spawn: {0}")]
    Spawn(#[source] io::Error),
    #[error("rendezvous: {0}")]
    Rendezvous(#[source] io::Error),
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

type Received = (FromWorker, Vec<OwnedFd>);

/// One process that became ready.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pub pid: u32,
    sender: channel::Sender<ToWorker>,
    receiver: channel::Receiver<FromWorker>,
    pub born: Instant,
    pub started: SystemTime,
    /// From spawn to the answered readiness question.
    pub ready_after: Duration,
    /// Version of the snapshot that requests see.
    pub applied: u64,
    /// Its listeners are closed, as far as it is concerned.
    pub quiesced: bool,
    /// As it has told.
    pub sandbox: SandboxState,
    /// Who waits for which Stats frame.
    asked: HashMap<u64, oneshot::Sender<WorkerStats>>,
    questions: u64,
    /// The last look at its counters was not answered yet.
    is_looked_at: bool,
    /// It knows [`ToWorker::Follow`]: it is of this program. Another one's may not.
    is_ours: bool,
    tally: Tally,
    /// How it ended, once it has.
    ended: Option<String>,
    /// What it has told, and the tally has. None of a process whose first controller has told of what
    /// it did until now: that must not be counted twice.
    counted: Option<Box<WorkerStats>>,
    /// Where the next controller finds it; none before it serves.
    place: Option<Place>,
}

/// A process that crosses exec, with what it was started with.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProcessState {
    pub generation: u64,
    pub pid: u32,
    pub executable: RawFd,
    pub settings: WorkerSettings,
    pub listeners: Vec<BoundState>,
    pub channel: RawFd,
    /// What was read of a frame that is not complete.
    pub unread: Vec<u8>,
    pub started: SystemTime,
    pub ready_after: Duration,
    pub applied: u64,
    pub quiesced: bool,
    #[serde(default)]
    pub fault: Option<Fault>,
    #[serde(default)]
    pub steered: bool,
    #[serde(default)]
    pub sandbox: SandboxState,
    /// What the totals that cross with it hold of its counters.
    #[serde(default)]
    pub counted: Option<Box<WorkerStats>>,
}

/// What stands between a worker and the host; both empty where it has not told us.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxState {
    pub active: Vec<String>,
    /// With the reason.
    pub missing: Vec<String>,
}

/// What a process did.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// It said something, which is noted.
    Heard,
    /// It is gone; how it went.
    Ended(String),
    /// It cannot be talked to any more, and is there still; why.
    Lost(String),
}

impl Process {
    /// Spawns a process and makes sure that it serves.
    ///
    /// # Errors
    /// [`StartError`]; nothing of the process is left then.
    pub async fn start(generation: &Generation, snapshot: &Snapshot) -> Result<Self, StartError> {
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

    pub fn state(&self, generation: &Generation) -> ProcessState {
        ProcessState {
            generation: generation.id,
            pid: self.pid,
            executable: generation.executable.as_raw_fd(),
            settings: generation.settings.clone(),
            listeners: generation.listeners.state(),
            channel: self.receiver.socket().as_raw_fd(),
            unread: self.receiver.unread().to_vec(),
            started: self.started,
            ready_after: self.ready_after,
            applied: self.applied,
            quiesced: self.quiesced,
            fault: generation.fault,
            steered: generation.steered,
            sandbox: self.sandbox.clone(),
            counted: self.counted.clone(),
        }
    }

    /// Takes over a process that an earlier program in this process had. `executable` is the one of
    /// its state, which several may share.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resume(
        state: ProcessState,
        executable: Arc<Executable>,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        rendezvous: Rendezvous,
        tally: Tally,
    ) -> io::Result<(Self, Generation)> {
        let socket = std::os::unix::net::UnixStream::from(sys::own_inherited(state.channel));
        socket.set_nonblocking(true)?;
        let (sender, receiver) = channel::resume(UnixStream::from_std(socket)?, &state.unread);
        let process = Process {
            child: Child::adopt(state.pid)?,
            pid: state.pid,
            sender,
            receiver,
            born: Instant::now(),
            started: state.started,
            ready_after: state.ready_after,
            applied: state.applied,
            quiesced: state.quiesced,
            sandbox: state.sandbox,
            asked: HashMap::new(),
            questions: 0,
            is_looked_at: false,
            is_ours: false,
            ended: None,
            tally: tally.clone(),
            counted: state.counted,
            place: Some(rendezvous.place(state.generation, state.pid)),
        };
        let generation = Generation {
            id: state.generation,
            executable,
            settings: state.settings,
            listeners: Arc::new(Listeners::resume(state.listeners)),
            snapshot,
            fault: state.fault,
            steered: state.steered,
            rendezvous,
            tally,
        };
        Ok((process, generation))
    }

    /// Takes over the worker of a controller that died.
    ///
    /// # Errors
    /// When it is gone.
    pub fn adopt(orphan: Orphan, rendezvous: &Rendezvous, tally: Tally) -> io::Result<Self> {
        Ok(Process {
            child: Child::adopt(orphan.pid)?,
            pid: orphan.pid,
            sender: orphan.sender,
            receiver: orphan.receiver,
            born: Instant::now(),
            started: SystemTime::now(),
            ready_after: Duration::ZERO,
            // Snapshots of the controller before have numbers of its own.
            applied: 0,
            quiesced: orphan.quiesced,
            // It has told another.
            sandbox: SandboxState::default(),
            asked: HashMap::new(),
            questions: 0,
            is_looked_at: false,
            is_ours: false,
            ended: None,
            tally,
            counted: None,
            place: Some(rendezvous.place(orphan.generation, orphan.pid)),
        })
    }

    fn spawn(generation: &Generation) -> io::Result<Self> {
        let (near, far) = std::os::unix::net::UnixStream::pair()?;
        near.set_nonblocking(true)?;
        let mut command = generation.executable.command();
        command
            .args(["worker", "--control-fd", "0"])
            .args(generation.fault.iter().flat_map(|fault| ["--fault".into(), fault.as_argument()]))
            .env_clear()
            .envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            // Huge pages double what a worker takes up, and most of them are empty.
            .env("MIMALLOC_ALLOW_THP", "0")
            .current_dir("/")
            // The channel becomes descriptor 0: the one that crosses exec.
            .stdin(Stdio::from(OwnedFd::from(far)))
            // Ctrl-C is for the controller, which then drains the worker.
            .process_group(0)
            // A process that does not become ready must not stay behind.
            .kill_on_drop(true);
        let child = command.spawn()?;
        let (sender, receiver) = channel::channel(UnixStream::from_std(near)?);
        Ok(Process {
            pid: child.id().unwrap_or_default(),
            child: Child::Spawned(child),
            sender,
            receiver,
            born: Instant::now(),
            started: SystemTime::now(),
            ready_after: Duration::ZERO,
            applied: 0,
            quiesced: false,
            sandbox: SandboxState::default(),
            asked: HashMap::new(),
            questions: 0,
            is_looked_at: false,
            is_ours: true,
            ended: None,
            tally: generation.tally.clone(),
            counted: Some(Box::default()),
            place: None,
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
                steered: generation.steered,
                settings: Box::new(generation.settings.clone()),
            })
            .await?;
        self.send_listeners(&generation.listeners).await?;
        self.sender.send(&ToWorker::Snapshot(Box::new(snapshot.clone()))).await?;
        self.await_applied(snapshot.version).await?;
        // Before it accepts anybody: it may have the very sockets of the generation before, and those
        // whom it accepts would be torn if it is not ready.
        self.ask_ready().await?;
        let (place, rendezvous) =
            generation.rendezvous.open(generation.id, self.pid).map_err(StartError::Rendezvous)?;
        self.place = Some(place);
        self.sender.send_with(&ToWorker::Serve, &[rendezvous.as_fd()]).await?;
        self.await_serving().await
    }

    async fn send_listeners(&mut self, listeners: &Listeners) -> Result<(), ChannelError> {
        let all: Vec<_> = listeners.slots().collect();
        for chunk in all.chunks(MAX_DESCRIPTORS) {
            let (slots, sockets): (Vec<_>, Vec<BorrowedFd<'_>>) = chunk.iter().copied().unzip();
            self.sender.send_with(&ToWorker::Listeners { slots }, &sockets).await?;
        }
        Ok(())
    }

    async fn await_applied(&mut self, version: u64) -> Result<(), StartError> {
        let mut hello = false;
        while !(hello && self.applied >= version) {
            match self.receiver.receive().await?.0 {
                FromWorker::Hello { protocol, .. } if protocol != protocol::VERSION => {
                    return Err(StartError::Protocol { theirs: protocol });
                }
                FromWorker::Hello { .. } => hello = true,
                frame => self.hear(frame),
            }
        }
        Ok(())
    }

    async fn await_serving(&mut self) -> Result<(), StartError> {
        loop {
            match self.receiver.receive().await?.0 {
                FromWorker::Serving => return Ok(()),
                frame => self.hear(frame),
            }
        }
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
            .body(Full::<Bytes>::default())
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

    /// What it does next. Cancel safe.
    pub async fn next(&mut self) -> Event {
        if self.ended.is_none() {
            tokio::select! {
                ended = self.child.wait() => self.ended = Some(how(ended)),
                frame = self.receiver.receive() => return self.heard(frame).await,
            }
        }
        self.hear_the_rest().await;
        Event::Ended(self.ended.clone().unwrap_or_default())
    }

    async fn heard(&mut self, frame: Result<Received, ChannelError>) -> Event {
        match frame {
            Ok((frame, _)) => {
                self.hear(frame);
                Event::Heard
            }
            // It is about to exit, and how says more than that it hung up.
            Err(ChannelError::Closed) => match timeout(EXIT_LIMIT, self.child.wait()).await {
                Ok(ended) => Event::Ended(how(ended)),
                Err(_) => Event::Lost("closed its channel".to_owned()),
            },
            Err(e) => Event::Lost(e.to_string()),
        }
    }

    /// What a process that has ended had said before: its last counters may be among it.
    async fn hear_the_rest(&mut self) {
        while let Ok(Ok((frame, _))) = timeout(EXIT_LIMIT, self.receiver.receive()).await {
            self.hear(frame);
        }
    }

    /// Sends one frame to a worker that may hang.
    ///
    /// # Errors
    /// The reason, when it does not take it: there is no use in talking to it any more.
    pub async fn send(&mut self, frame: &ToWorker) -> Result<(), String> {
        match timeout(SEND_LIMIT, self.sender.send(frame)).await {
            // It has just ended: [`Process::next`] hears its last words, which are still to be read, and
            // how it went.
            Ok(Err(ChannelError::Closed)) => Ok(()),
            Ok(sent) => sent.map_err(|e| e.to_string()),
            Err(_) => Err(format!("hangs: it took no frame for {} s", SEND_LIMIT.as_secs())),
        }
    }

    /// Asks for the counters; `reply` is dropped when they never come.
    ///
    /// # Errors
    /// As [`Process::send`].
    pub async fn ask_stats(&mut self, reply: oneshot::Sender<WorkerStats>) -> Result<(), String> {
        self.questions += 1;
        self.asked.retain(|_, waiting| !waiting.is_closed());
        self.asked.insert(self.questions, reply);
        self.send(&ToWorker::Stats { id: self.questions }).await
    }

    /// # Errors
    /// As [`Process::send`].
    pub async fn follow(&mut self, host: String, socket: &OwnedFd) -> Result<(), String> {
        if !self.is_ours {
            return Ok(());
        }
        let sent = self.sender.send_with(&ToWorker::Follow { host }, &[socket.as_fd()]).await;
        sent.map_err(|error| error.to_string())
    }

    /// Has it tell its counters, for the tally alone. One that has not answered the last time is not
    /// asked again: it may hang, and what it is sent piles up.
    ///
    /// # Errors
    /// As [`Process::send`].
    pub async fn look(&mut self) -> Result<(), String> {
        if std::mem::replace(&mut self.is_looked_at, true) {
            return Ok(());
        }
        self.send(&ToWorker::Stats { id: LOOK }).await
    }

    /// The counters that it told last.
    pub fn counted(&self) -> Option<&WorkerStats> {
        self.counted.as_deref()
    }

    fn count(&mut self, now: &WorkerStats) {
        if let Some(before) = &self.counted {
            self.tally.workers_grew(now, before);
        }
        self.counted = Some(Box::new(now.clone()));
    }

    fn hear(&mut self, frame: FromWorker) {
        match frame {
            FromWorker::Applied { snapshot } => self.applied = snapshot,
            FromWorker::Stats { id, stats } => {
                self.count(&stats);
                self.is_looked_at &= id != LOOK;
                if let Some(reply) = self.asked.remove(&id) {
                    // Whoever asked may have gone.
                    let _ = reply.send(*stats);
                }
            }
            FromWorker::Quiesced => self.quiesced = true,
            FromWorker::Sandboxed { active, missing } => {
                for layer in &missing {
                    tracing::warn!("worker (pid {}): no sandbox for {layer}", self.pid);
                }
                self.sandbox = SandboxState { active, missing };
            }
            FromWorker::Drained { stats } => {
                if let Some(stats) = stats {
                    self.count(&stats);
                }
                tracing::info!("worker (pid {}) has drained", self.pid);
            }
            FromWorker::Hello { .. }
            | FromWorker::Serving
            | FromWorker::Orphan { .. }
            | FromWorker::Listeners { .. } => {}
        }
    }

    /// Makes sure that the process is gone, and says how it went.
    pub async fn end(&mut self) -> String {
        // An error means that it has exited already.
        let _ = self.child.kill();
        how(self.child.wait().await)
    }
}

fn how(ended: io::Result<ExitStatus>) -> String {
    ended.map_or_else(|e| format!("is gone ({e})"), describe)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(executable: &str) -> Generation {
        Generation {
            id: 1,
            executable: Arc::new(Executable(File::open(executable).expect("executable"))),
            settings: WorkerSettings::default(),
            listeners: Arc::default(),
            snapshot: watch::channel(Arc::default()).1,
            fault: None,
            steered: false,
            rendezvous: Rendezvous::beside(Path::new("/nonexistent/c.sock")),
            tally: Tally::default(),
        }
    }

    #[tokio::test]
    async fn an_early_exit_is_a_failed_start_and_says_how() {
        match Process::start(&generation("/bin/false"), &Snapshot::default()).await {
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
