//! The controller from start to stop: reads as a table of contents.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::admin::answers::{Begun, Refused, Reloaded};
use super::admin::control_socket::{ClaimError, ControlSocket};
use super::admin::server::{BegunReply, Order, ReloadReply, Server, Sources};
use super::certificates::{CertificateError, Certificates};
use super::docker::{Containers, Watch};
use super::generations::{Event, FirstError, Generations};
use super::journal::Entry;
use super::probe::{Prober, Target};
use super::publisher::Publisher;
use super::reload;
use super::signals::{Signal, Signals};
use super::steering::SteeringState;
use super::ticket_keys::TicketKeys;
use super::upgrade;
use super::upgrade::state::{Executables, Next, State, StateError};
use super::worker_process::Executable;
use crate::config::{self, Config, Mistakes};
use crate::protocol::snapshot::Snapshot;
use crate::{log, sys};

/// How long systemd waits for Docker's first list before it is told that we serve.
const FIRST_LIST_LIMIT: Duration = Duration::from_secs(2);
/// Orders that wait their turn.
const ORDERS: usize = 4;
/// Between two looks at what time alone changes (certificates, ticket keys): a renewal that fails is
/// tried again then.
const DUE_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Config(#[from] Mistakes),
    #[error("runtime: {0}")]
    Runtime(#[source] io::Error),
    #[error("{0}")]
    State(#[from] StateError),
    #[error("taking over from the program before: {0}")]
    Resume(#[source] io::Error),
    #[error("/proc/self/fd: {0}")]
    Descriptors(#[source] io::Error),
    #[error("signals: {0}")]
    Signals(#[source] io::Error),
    #[error("/proc/self/exe: {0}")]
    Executable(#[source] io::Error),
    #[error("state directory {path}: {source}: run as root, or set `state_dir` to a directory that \
        this user may write", path = path.display())]
    StateDir { path: PathBuf, source: io::Error },
    #[error("{0}")]
    ControlSocket(#[from] ClaimError),
    #[error("certificates: {0}")]
    Certificates(#[from] CertificateError),
    #[error("{0}")]
    First(#[from] FirstError),
}

/// Runs until a signal ends it. `resume` is the state of the program that this process was before.
///
/// # Errors
/// [`RunError`] when something that it needs cannot be had; nothing is left behind then.
pub fn run(config_path: Option<&Path>, resume: Option<RawFd>) -> Result<(), RunError> {
    let before = resume.map(State::take).transpose()?;
    let text = match &before {
        Some(state) => state.config_text.clone(),
        None => config::read(config_path)?,
    };
    let config = config::parse(&text, config::file(config_path))?;
    log::start(&config.worker.log_level);
    // What our parent left open is not for workers.
    sys::seal_descriptors().map_err(RunError::Descriptors)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    runtime.block_on(control(config_path, Live { config, text }, before))
}

/// The configuration in force, and its text, which crosses an upgrade.
struct Live {
    config: Config,
    text: String,
}

async fn control(
    config_path: Option<&Path>,
    live: Live,
    before: Option<State>,
) -> Result<(), RunError> {
    let mut signals = Signals::catch().map_err(RunError::Signals)?;
    upgrade::let_signals_through();
    let config = &live.config;

    make_state_dir(&config.state_dir)?;
    let certificates = open_certificates(config)?;
    let (docker, containers) = Watch::start(&config.docker);
    let (snapshot, ticket_keys) = match &before {
        Some(state) => (state.snapshot.clone(), state.ticket_keys.clone()),
        None => (Snapshot::default(), TicketKeys::new(SystemTime::now())),
    };
    let routes = config.routes.clone();
    let mut publisher = Publisher::new(certificates, ticket_keys, routes, prefers_ipv6(), snapshot);

    let begun = match before {
        None => Begin::anew(config, &mut publisher).await?,
        Some(state) => Begin::resume(config, &publisher, state)?,
    };
    announce(&begun.generations);

    let (orders_sender, orders) = mpsc::channel(ORDERS);
    let control_socket = begun.control_socket.descriptor();
    let admin = Server::start(
        begun.control_socket,
        Sources {
            started: begun.started,
            steering: begun.generations.steering(),
            fleet: begun.generations.fleet(),
            handoffs: begun.generations.journal().follow(),
            view: publisher.views(),
            orders: orders_sender,
        },
    );
    let mut controller = Controller {
        config_path,
        live,
        started: begun.started,
        control_socket,
        publisher,
        prober: begun.prober,
        containers,
        reachable: begun.reachable,
        holding: begun.holding,
        orders,
        generations: begun.generations,
        pending: None,
        stop: Stop::NotAsked,
    };
    let mut becoming = begun.next.and_then(|next| controller.go_on(next));
    loop {
        if let Some(becoming) = becoming {
            // Returns when this process stays what it is.
            controller = controller.become_program(becoming).await?;
        }
        match controller.serve(&mut signals).await {
            Leave::Become(other) => becoming = Some(other),
            Leave::Stopped => break,
        }
    }

    let Controller { generations, prober, .. } = controller;
    generations.join().await;
    admin.stop().await;
    prober.stop().await;
    docker.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// What a controller begins with.
struct Begin {
    started: SystemTime,
    control_socket: ControlSocket,
    prober: Prober,
    reachable: watch::Receiver<Arc<HashSet<Target>>>,
    generations: Generations,
    /// Workers have a snapshot that is better than one without containers.
    holding: bool,
    next: Option<Next>,
}

impl Begin {
    async fn anew(config: &Config, publisher: &mut Publisher) -> Result<Self, RunError> {
        let executable = Executable::of_this_process().map_err(RunError::Executable)?;
        let control_socket = ControlSocket::claim(&config.control_socket)?;
        let (prober, reachable) = Prober::start(vec![]);
        // The configuration's own routes serve before Docker has said anything.
        publisher.publish(&Containers::default(), &HashSet::new());
        Ok(Begin {
            started: SystemTime::now(),
            control_socket,
            prober,
            reachable,
            generations: Generations::first(executable, config, publisher.snapshots()).await?,
            holding: false,
            next: None,
        })
    }

    /// Everything that the program before had.
    fn resume(config: &Config, publisher: &Publisher, mut state: State) -> Result<Self, RunError> {
        let control_socket = ControlSocket::resume(&config.control_socket, state.control_socket)
            .map_err(RunError::Resume)?;
        let (prober, reachable) = Prober::start(std::mem::take(&mut state.reachable));
        let generations = Generations::resume(&mut state, publisher.snapshots());
        Ok(Begin {
            started: state.started,
            control_socket,
            prober,
            reachable,
            generations: generations.map_err(RunError::Resume)?,
            holding: config.docker.enabled,
            next: Some(state.next),
        })
    }
}

fn make_state_dir(path: &Path) -> Result<(), RunError> {
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| RunError::StateDir { path: path.to_owned(), source })
}

fn open_certificates(config: &Config) -> Result<Certificates, RunError> {
    let mut certificates = Certificates::open(&config.state_dir)?;
    for problem in certificates.set_files(&config.certificates) {
        tracing::error!("{problem}");
    }
    Ok(certificates)
}

/// nginx-proxy's name for it.
fn prefers_ipv6() -> bool {
    std::env::var("PREFER_IPV6_NETWORK").is_ok_and(|value| value == "true")
}

fn announce(generations: &Generations) {
    for (address, kind) in generations.fleet().borrow().listeners.addresses() {
        tracing::info!("listening on {address} ({})", kind.as_str());
    }
}

/// What the loop owns.
struct Controller<'a> {
    config_path: Option<&'a Path>,
    live: Live,
    started: SystemTime,
    control_socket: RawFd,
    publisher: Publisher,
    prober: Prober,
    containers: watch::Receiver<Arc<Containers>>,
    reachable: watch::Receiver<Arc<HashSet<Target>>>,
    /// Until Docker has answered this program, workers route by what the one before it published.
    holding: bool,
    orders: mpsc::Receiver<Order>,
    generations: Generations,
    pending: Option<Pending>,
    stop: Stop,
}

/// What a handoff that is under way leads to.
enum Pending {
    /// A configuration that it makes live, and who waits for it.
    Reload { live: Box<Live>, reply: Option<ReloadReply> },
    /// Workers of this program in place of those of the one before it.
    Upgrade { journal: u64 },
}

/// Why the loop ends.
enum Leave {
    Stopped,
    Become(Becoming),
}

/// Another program that this process shall be.
struct Becoming {
    executables: Executables,
    program: Arc<Executable>,
    next: Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    NotAsked,
    Draining,
    AtOnce,
}

impl Controller<'_> {
    /// Follows containers, probes, orders and signals until every worker is gone, or this process is
    /// to become another program. A draining worker is kept up to date too: what it still serves may
    /// last.
    async fn serve(&mut self, signals: &mut Signals) -> Leave {
        let first_list_limit = Instant::now() + FIRST_LIST_LIMIT;
        let mut ready = false;
        loop {
            let becoming = tokio::select! {
                event = self.generations.next() => match event {
                    Event::HandedOver => { self.handed_over(); None }
                    Event::Failed { error } => self.handoff_failed(error),
                    Event::AllGone => return Leave::Stopped,
                },
                signal = signals.next() => self.obey(signal).await,
                Some(order) = self.orders.recv() => self.follow(order),
                Ok(()) = self.containers.changed() => { self.publish(); None }
                Ok(()) = self.reachable.changed() => { self.publish(); None }
                () = sleep(until_due(self.publisher.due())) => { self.publish(); None }
                () = sleep_until(first_list_limit), if !ready => None,
            };
            if let Some(becoming) = becoming {
                return Leave::Become(becoming);
            }
            let heard_of_docker = self.docker_has_spoken();
            if !ready && (heard_of_docker || Instant::now() >= first_list_limit) {
                ready = true;
                notify(&[NotifyState::Ready]);
            }
        }
    }

    fn docker_has_spoken(&self) -> bool {
        let status = &self.containers.borrow().status;
        !self.live.config.docker.enabled || status.connected || status.error.is_some()
    }

    async fn obey(&mut self, signal: Signal) -> Option<Becoming> {
        match (signal, self.stop) {
            (Signal::Reload, _) => self.reload(None),
            (Signal::Stop, Stop::NotAsked) => {
                tracing::info!("draining; a second signal stops at once");
                self.stop = Stop::Draining;
                notify(&[NotifyState::Stopping]);
                self.generations.drain_all(&self.live.config.drain).await;
            }
            (Signal::Stop, Stop::Draining) => {
                self.stop = Stop::AtOnce;
                self.generations.kill_all().await;
            }
            (Signal::Stop, Stop::AtOnce) => {}
            (Signal::Upgrade, _) => match self.upgrade(None) {
                Ok(becoming) => return Some(becoming),
                Err(Refused { error, .. }) => tracing::error!("upgrade refused: {error}"),
            },
        }
        None
    }

    fn follow(&mut self, order: Order) -> Option<Becoming> {
        match order {
            Order::Reload(reply) => {
                self.reload(Some(reply));
                None
            }
            Order::Upgrade { binary, reply } => tell(reply, self.upgrade(binary.as_deref())),
            Order::Rollback { reply } => tell(reply, self.rollback()),
        }
    }

    /// Rebuilds from what Docker and the prober say now.
    fn publish(&mut self) -> Vec<String> {
        let containers = self.containers.borrow_and_update().clone();
        let reachable = self.reachable.borrow_and_update().clone();
        if self.holding && !containers.status.connected {
            return Vec::new();
        }
        self.holding = false;
        let changes = self.publisher.publish(&containers, &reachable);
        let table = self.publisher.table();
        self.prober.want(table.probes.clone());
        if !changes.is_empty() && self.stop == Stop::NotAsked {
            let hosts = table.hosts.len();
            notify(&[NotifyState::Status(&format!("serving {hosts} hosts"))]);
        }
        changes
    }

    /// All or nothing: a configuration that cannot go live as a whole changes nothing.
    fn reload(&mut self, reply: Option<ReloadReply>) {
        match self.try_reload() {
            Ok(Plan::InPlace(live)) => {
                let reloaded = self.take(*live);
                answer(reply, Ok(reloaded));
            }
            Ok(Plan::Handoff(live)) => self.pending = Some(Pending::Reload { live, reply }),
            Err(refused) => answer(reply, Err(refused)),
        }
    }

    fn try_reload(&mut self) -> Result<Plan, Refused> {
        self.refuse_when_stopping()?;
        let read = config::read(self.config_path).and_then(|text| {
            let config = config::parse(&text, config::file(self.config_path))?;
            Ok(Live { config, text })
        });
        let live = read.map_err(|mistakes| Refused {
            error: "configuration is invalid: nothing changed".to_owned(),
            reasons: mistakes.iter().map(ToString::to_string).collect(),
        })?;
        let (old, new) = (&self.live.config, &live.config);
        let keys = reload::needs_restart(old, new);
        if !keys.is_empty() {
            return Err(Refused::because(reload::refusal(&keys)));
        }
        let keys = reload::needs_generation(old, new);
        if keys.is_empty() {
            return Ok(Plan::InPlace(Box::new(live)));
        }
        tracing::info!("{} changed: a new generation of workers takes over", keys.join(", "));
        self.generations.begin("reload", &live.config)?;
        Ok(Plan::Handoff(Box::new(live)))
    }

    fn refuse_when_stopping(&self) -> Result<(), Refused> {
        if self.stop == Stop::NotAsked {
            return Ok(());
        }
        Err(Refused::because("baton is stopping".to_owned()))
    }

    /// Makes a configuration the one that holds: what goes live in place does so now.
    fn take(&mut self, live: Live) -> Reloaded {
        let config = &live.config;
        let problems = self.publisher.configure(config.routes.clone(), &config.certificates);
        self.live = live;
        let changes = self.publish();
        let mut warnings: Vec<_> = problems.iter().map(ToString::to_string).collect();
        if self.holding {
            warnings.push("changes of routes wait until Docker answers".to_owned());
        }
        Reloaded { changes, warnings, snapshot: self.publisher.version(), handoff: None }
    }

    fn handed_over(&mut self) {
        announce(&self.generations);
        if let Some(Pending::Reload { live, reply }) = self.pending.take() {
            let handoff = self.generations.journal().last();
            let reloaded = Reloaded { handoff, ..self.take(*live) };
            answer(reply, Ok(reloaded));
        }
    }

    /// Workers of a new program that do not come up: the program before it comes back.
    fn handoff_failed(&mut self, error: String) -> Option<Becoming> {
        match self.pending.take() {
            Some(Pending::Reload { reply, .. }) => {
                answer(reply, Err(Refused::because(error)));
                None
            }
            Some(Pending::Upgrade { journal }) => self.come_back(journal, error),
            None => None,
        }
    }

    /// An upgrade to `binary`, or to what lies where the running program was started from.
    fn upgrade(&mut self, binary: Option<&Path>) -> Result<Becoming, Refused> {
        self.refuse_when_stopping()?;
        let path = match binary {
            Some(path) => path.to_owned(),
            None => own_path().map_err(|error| Refused::because(error.to_string()))?,
        };
        let open = |error| Refused::because(format!("{}: {error}", path.display()));
        let program = Arc::new(Executable::open(&path).map_err(open)?);
        let entry = self.generations.announce("upgrade")?;
        entry.step(format!("trying {}", path.display()));
        Ok(self.becoming(program, &entry))
    }

    fn rollback(&mut self) -> Result<Becoming, Refused> {
        self.refuse_when_stopping()?;
        let Some(program) = self.generations.programs().previous.clone() else {
            let error = "there is no program to return to: none was upgraded since the start";
            return Err(Refused::because(error.to_owned()));
        };
        let entry = self.generations.announce("rollback")?;
        entry.step("returning to the program before".to_owned());
        Ok(self.becoming(program, &entry))
    }

    fn becoming(&self, program: Arc<Executable>, entry: &Entry) -> Becoming {
        let programs = self.generations.programs();
        Becoming {
            executables: Executables {
                current: program.as_raw_fd(),
                previous: Some(programs.current.as_raw_fd()),
                before: programs.previous.as_ref().map(AsRawFd::as_raw_fd),
            },
            program,
            next: Next::HandOver { journal: entry.id(), begun: entry.begun() },
        }
    }

    fn come_back(&self, journal: u64, error: String) -> Option<Becoming> {
        let programs = self.generations.programs();
        let previous = programs.previous.clone()?;
        tracing::error!("the program before this one comes back");
        Some(Becoming {
            executables: Executables {
                current: previous.as_raw_fd(),
                previous: programs.before.as_ref().map(AsRawFd::as_raw_fd),
                before: None,
            },
            program: previous,
            next: Next::GoOn { journal, error },
        })
    }

    /// Becomes another program. Returns, with everything as it was, when that failed.
    async fn become_program(mut self, becoming: Becoming) -> Result<Self, RunError> {
        let Becoming { executables, program, next } = becoming;
        let Some(frozen) = self.generations.freeze().await else {
            return Err(RunError::Resume(io::Error::other("the active worker is gone")));
        };
        let mut state = State {
            state_version: upgrade::state::VERSION,
            started: self.started,
            config_file: config::file(self.config_path).to_owned(),
            config_text: self.live.text.clone(),
            control_socket: self.control_socket,
            executables,
            steering: SteeringState::Inherit { why: String::new() },
            last_generation: 0,
            active: None,
            draining: Vec::new(),
            handoffs: Vec::new(),
            snapshot: self.publisher.snapshot(),
            ticket_keys: self.publisher.ticket_keys().clone(),
            reachable: self.reachable.borrow().iter().cloned().collect(),
            next,
        };
        frozen.describe(&mut state);
        let mut becoming = pin!(upgrade::become_program(&program, &state, self.config_path));
        // The preflight takes a moment, in which the only answer is that.
        let error = loop {
            tokio::select! {
                error = &mut becoming => break error,
                Some(order) = self.orders.recv() => refuse(order),
            }
        };
        self.generations = frozen.thaw();
        let (Next::HandOver { journal, .. } | Next::GoOn { journal, .. }) = state.next;
        let entry = self.generations.journal().resume(journal, SystemTime::now());
        entry.failed(&format!("{error}: nothing has changed"));
        Ok(self)
    }

    /// What this program was started for.
    fn go_on(&mut self, next: Next) -> Option<Becoming> {
        match next {
            Next::HandOver { journal, begun } => {
                let entry = self.generations.journal().resume(journal, begun);
                entry.step(format!("this is baton {} now", env!("CARGO_PKG_VERSION")));
                match self.generations.go_on(entry, &self.live.config) {
                    Ok(()) => {
                        self.pending = Some(Pending::Upgrade { journal });
                        None
                    }
                    Err(error) => self.come_back(journal, error),
                }
            }
            Next::GoOn { journal, error } => {
                let entry = self.generations.journal().resume(journal, SystemTime::now());
                entry.failed(&format!("{error}; the program before it is back"));
                None
            }
        }
    }
}

/// Answers what is asked of a controller that is becoming another program.
fn refuse(order: Order) {
    let refused =
        || Refused::because("an upgrade is under way: try again when it is over".to_owned());
    // Whoever asked may have gone.
    match order {
        Order::Reload(reply) => drop(reply.send(Err(refused()))),
        Order::Upgrade { reply, .. } | Order::Rollback { reply } => {
            drop(reply.send(Err(refused())));
        }
    }
}

/// Where the running program was started from, which may hold another one by now.
fn own_path() -> io::Result<PathBuf> {
    let path = fs::read_link("/proc/self/exe")?;
    // The kernel's words for a file that was replaced.
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(replaced) => Ok(PathBuf::from(replaced)),
        None => Ok(path),
    }
}

fn tell(reply: BegunReply, begun: Result<Becoming, Refused>) -> Option<Becoming> {
    let answer = match &begun {
        Ok(Becoming { next: Next::HandOver { journal, .. }, .. }) => {
            Ok(Begun { handoff: *journal })
        }
        Ok(_) => Err(Refused::because("not an upgrade".to_owned())),
        Err(refused) => Err(refused.clone()),
    };
    // Whoever asked may have gone.
    let _ = reply.send(answer);
    begun.ok()
}

/// How a configuration goes live.
enum Plan {
    InPlace(Box<Live>),
    Handoff(Box<Live>),
}

/// Tells whoever asked, or the log where a signal did.
fn answer(reply: Option<ReloadReply>, result: Result<Reloaded, Refused>) {
    if let Some(reply) = reply {
        // Whoever asked may have gone.
        let _ = reply.send(result);
        return;
    }
    match result {
        Ok(reloaded) => tracing::info!("reloaded: {} changes", reloaded.changes.len()),
        Err(Refused { error, reasons }) => {
            tracing::error!("reload refused: {error}");
            reasons.iter().for_each(|reason| tracing::error!("{reason}"));
        }
    }
}

fn until_due(due: SystemTime) -> Duration {
    // An error means that it is past.
    due.duration_since(SystemTime::now()).unwrap_or_default().max(DUE_PAUSE)
}

/// Tells systemd; does nothing under anything else.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::warn!("systemd: {e}");
    }
}
