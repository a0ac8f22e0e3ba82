//! The controller from start to stop: reads as a table of contents.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::admin::answers::{Refused, Reloaded};
use super::admin::control_socket::{ClaimError, ControlSocket};
use super::admin::server::{ReloadRequest, Server, Sources};
use super::certificates::{CertificateError, Certificates};
use super::docker::{Containers, Watch};
use super::generations::{Event, FirstError, Generations};
use super::probe::{Prober, Target};
use super::publisher::Publisher;
use super::reload;
use super::signals::{Signal, Signals};
use super::worker_process::Executable;
use crate::config::{self, Config, Mistakes};
use crate::{log, sys};

/// How long systemd waits for Docker's first list before it is told that we serve.
const FIRST_LIST_LIMIT: Duration = Duration::from_secs(2);
/// Reloads that wait their turn.
const RELOADS: usize = 4;
/// Between two looks at certificates whose time has come: a renewal that fails is tried again then.
const CERTIFICATES_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Config(#[from] Mistakes),
    #[error("runtime: {0}")]
    Runtime(#[source] io::Error),
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

/// Runs until a signal ends it.
///
/// # Errors
/// [`RunError`] when something that it needs cannot be had; nothing is left behind then.
pub fn run(config_path: Option<&Path>) -> Result<(), RunError> {
    let config = config::load(config_path)?;
    log::start(&config.worker.log_level);
    // What our parent left open is not for workers.
    sys::seal_descriptors().map_err(RunError::Descriptors)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    runtime.block_on(control(config_path, config))
}

async fn control(config_path: Option<&Path>, config: Config) -> Result<(), RunError> {
    let started = SystemTime::now();
    let mut signals = Signals::catch().map_err(RunError::Signals)?;
    let executable = Executable::of_this_process().map_err(RunError::Executable)?;

    make_state_dir(&config.state_dir)?;
    let control_socket = ControlSocket::claim(&config.control_socket)?;
    let certificates = open_certificates(&config)?;

    let (docker, containers) = Watch::start(&config.docker);
    let (prober, reachable) = Prober::start();
    let mut publisher = Publisher::new(certificates, config.routes.clone(), prefers_ipv6());
    // The configuration's own routes serve before Docker has said anything.
    publisher.publish(&Containers::default(), &HashSet::new());

    let generations = Generations::first(executable, &config, publisher.snapshots()).await?;
    announce(&generations);

    let (reload_requests, reloads) = mpsc::channel(RELOADS);
    let sources = Sources {
        started,
        steering: generations.steering(),
        fleet: generations.fleet(),
        handoffs: generations.journal().follow(),
        view: publisher.views(),
        reloads: reload_requests,
    };
    let admin = Server::start(control_socket, sources);

    let mut controller = Controller {
        config_path,
        config,
        publisher,
        prober,
        containers,
        reachable,
        reloads,
        generations,
        pending: None,
        stop: Stop::NotAsked,
    };
    controller.serve(&mut signals).await;

    let Controller { generations, prober, .. } = controller;
    generations.join().await;
    admin.stop().await;
    prober.stop().await;
    docker.stop().await;
    tracing::info!("stopped");
    Ok(())
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
    config: Config,
    publisher: Publisher,
    prober: Prober,
    containers: watch::Receiver<Arc<Containers>>,
    reachable: watch::Receiver<Arc<HashSet<Target>>>,
    reloads: mpsc::Receiver<ReloadRequest>,
    generations: Generations,
    pending: Option<Pending>,
    stop: Stop,
}

/// A configuration that a handoff makes live, and who waits for it.
struct Pending {
    config: Config,
    reply: Option<ReloadRequest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    NotAsked,
    Draining,
    AtOnce,
}

impl Controller<'_> {
    /// Follows containers, probes, reloads and signals until the worker is gone. A draining worker
    /// is kept up to date too: what it still serves may last.
    async fn serve(&mut self, signals: &mut Signals) {
        let first_list_limit = Instant::now() + FIRST_LIST_LIMIT;
        let mut ready = false;
        loop {
            tokio::select! {
                event = self.generations.next() => match event {
                    Event::HandedOver => self.handed_over(),
                    Event::Failed { error } => self.handoff_failed(error),
                    Event::AllGone => return,
                },
                signal = signals.next() => self.obey(signal).await,
                Some(request) = self.reloads.recv() => self.reload(Some(request)),
                Ok(()) = self.containers.changed() => { self.publish(); }
                Ok(()) = self.reachable.changed() => { self.publish(); }
                () = sleep(until_due(self.publisher.due())) => { self.publish(); }
                () = sleep_until(first_list_limit), if !ready => {}
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
        !self.config.docker.enabled || status.connected || status.error.is_some()
    }

    async fn obey(&mut self, signal: Signal) {
        match (signal, self.stop) {
            (Signal::Reload, _) => self.reload(None),
            (Signal::Stop, Stop::NotAsked) => {
                tracing::info!("draining; a second signal stops at once");
                self.stop = Stop::Draining;
                notify(&[NotifyState::Stopping]);
                self.generations.drain_all(&self.config.drain).await;
            }
            (Signal::Stop, Stop::Draining) => {
                self.stop = Stop::AtOnce;
                self.generations.kill_all().await;
            }
            (Signal::Stop, Stop::AtOnce) => {}
            (Signal::Upgrade, _) => {
                tracing::warn!(
                    "upgrade is not in this version: restart baton to change the binary"
                );
            }
        }
    }

    /// Rebuilds from what Docker and the prober say now.
    fn publish(&mut self) -> Vec<String> {
        let containers = self.containers.borrow_and_update().clone();
        let reachable = self.reachable.borrow_and_update().clone();
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
    fn reload(&mut self, reply: Option<ReloadRequest>) {
        match self.try_reload() {
            Ok(Plan::InPlace(config)) => {
                let reloaded = self.take(config);
                answer(reply, Ok(reloaded));
            }
            Ok(Plan::Handoff(config)) => self.pending = Some(Pending { config, reply }),
            Err(refused) => answer(reply, Err(refused)),
        }
    }

    fn try_reload(&mut self) -> Result<Plan, Refused> {
        if self.stop != Stop::NotAsked {
            return Err(Refused::because("baton is stopping".to_owned()));
        }
        let config = config::load(self.config_path).map_err(|mistakes| Refused {
            error: "configuration is invalid: nothing changed".to_owned(),
            reasons: mistakes.iter().map(ToString::to_string).collect(),
        })?;
        let keys = reload::needs_restart(&self.config, &config);
        if !keys.is_empty() {
            return Err(Refused::because(reload::refusal(&keys)));
        }
        let keys = reload::needs_generation(&self.config, &config);
        if keys.is_empty() {
            return Ok(Plan::InPlace(config));
        }
        tracing::info!("{} changed: a new generation of workers takes over", keys.join(", "));
        self.generations.begin("reload", &config)?;
        Ok(Plan::Handoff(config))
    }

    /// Makes a configuration the one that holds: what goes live in place does so now.
    fn take(&mut self, config: Config) -> Reloaded {
        let problems = self.publisher.configure(config.routes.clone(), &config.certificates);
        self.config = config;
        let changes = self.publish();
        let warnings = problems.iter().map(ToString::to_string).collect();
        Reloaded { changes, warnings, snapshot: self.publisher.version(), handoff: None }
    }

    fn handed_over(&mut self) {
        announce(&self.generations);
        if let Some(Pending { config, reply }) = self.pending.take() {
            let reloaded =
                Reloaded { handoff: self.generations.journal().last(), ..self.take(config) };
            answer(reply, Ok(reloaded));
        }
    }

    fn handoff_failed(&mut self, error: String) {
        if let Some(Pending { reply, .. }) = self.pending.take() {
            answer(reply, Err(Refused::because(error)));
        }
    }
}

/// How a configuration goes live.
enum Plan {
    InPlace(Config),
    Handoff(Config),
}

/// Tells whoever asked, or the log where a signal did.
fn answer(reply: Option<ReloadRequest>, result: Result<Reloaded, Refused>) {
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
    due.duration_since(SystemTime::now()).unwrap_or_default().max(CERTIFICATES_PAUSE)
}

/// Tells systemd; does nothing under anything else.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::warn!("systemd: {e}");
    }
}
