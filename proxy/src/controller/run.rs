//! The controller from start to stop: reads as a table of contents.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::admin::answers::{Listener, Refused, Reloaded};
use super::admin::control_socket::{ClaimError, ControlSocket};
use super::admin::server::{ReloadRequest, Server, Sources};
use super::certificates::{CertificateError, Certificates};
use super::docker::{Containers, Watch};
use super::listeners::{self, BindError, Listeners};
use super::probe::{Prober, Target};
use super::publisher::Publisher;
use super::reload;
use super::signals::{Signal, Signals};
use super::supervisor::Worker;
use super::worker_process::{Executable, Generation, StartError};
use crate::config::{self, Config, Mistakes};
use crate::protocol::settings::ListenerKind;
use crate::{log, sys};

/// How long systemd waits for Docker's first list before it is told that we serve.
const FIRST_LIST_LIMIT: Duration = Duration::from_secs(2);
/// Reloads that wait their turn.
const RELOADS: usize = 4;
/// Between two looks at certificates whose time has come: a renewal that fails is tried again then.
const CERTIFICATES_PAUSE: Duration = Duration::from_secs(60);
/// Until a handoff exists, one controller has one generation.
const FIRST_GENERATION: u64 = 1;

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
    Listeners(#[from] BindError),
    #[error("worker: {0}")]
    Worker(#[from] StartError),
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
    let listeners = listeners::bind(&config.listen, config.worker.threads)?;
    let addresses = listeners.addresses();

    let (docker, containers) = Watch::start(&config.docker);
    let (prober, reachable) = Prober::start();
    let mut publisher = Publisher::new(certificates, config.routes.clone(), prefers_ipv6());
    // The configuration's own routes serve before Docker has said anything.
    publisher.publish(&Containers::default(), &HashSet::new());

    let worker = start_worker(executable, &config, listeners, &publisher).await?;
    announce(&addresses);

    let (reload_requests, reloads) = mpsc::channel(RELOADS);
    let sources = Sources {
        started,
        listeners: addresses.iter().map(listener_answer).collect(),
        worker: worker.handle(),
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
        worker,
        stop: Stop::NotAsked,
    };
    controller.serve(&mut signals).await;

    let Controller { worker, prober, .. } = controller;
    worker.join().await;
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

async fn start_worker(
    executable: Executable,
    config: &Config,
    listeners: Listeners,
    publisher: &Publisher,
) -> Result<Worker, StartError> {
    let mut settings = config.worker.clone();
    let mut https =
        listeners.addresses().into_iter().filter(|(_, kind)| *kind == ListenerKind::Https);
    settings.https_port = https.next().map(|(address, _)| address.port());
    Worker::start(Generation {
        id: FIRST_GENERATION,
        executable,
        settings,
        listeners,
        snapshot: publisher.snapshots(),
    })
    .await
}

fn announce(addresses: &[(SocketAddr, ListenerKind)]) {
    for (address, kind) in addresses {
        tracing::info!("listening on {address} ({})", kind.as_str());
    }
}

fn listener_answer((address, kind): &(SocketAddr, ListenerKind)) -> Listener {
    Listener { address: address.to_string(), kind: kind.as_str().to_owned() }
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
    worker: Worker,
    stop: Stop,
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
                () = self.worker.gone() => return,
                signal = signals.next() => self.obey(signal).await,
                Some(request) = self.reloads.recv() => {
                    // Whoever asked may have gone.
                    let _ = request.send(self.reload());
                }
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
            (Signal::Reload, _) => match self.reload() {
                Ok(reloaded) => tracing::info!("reloaded: {} changes", reloaded.changes.len()),
                Err(Refused { error, reasons }) => {
                    tracing::error!("reload refused: {error}");
                    reasons.iter().for_each(|reason| tracing::error!("{reason}"));
                }
            },
            (Signal::Stop, Stop::NotAsked) => {
                tracing::info!("draining; a second signal stops at once");
                self.stop = Stop::Draining;
                notify(&[NotifyState::Stopping]);
                self.worker.drain(&self.config.drain).await;
            }
            (Signal::Stop, Stop::Draining) => {
                self.stop = Stop::AtOnce;
                self.worker.kill().await;
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
    fn reload(&mut self) -> Result<Reloaded, Refused> {
        let config = config::load(self.config_path).map_err(|mistakes| Refused {
            error: "configuration is invalid: nothing changed".to_owned(),
            reasons: mistakes.iter().map(ToString::to_string).collect(),
        })?;
        let keys = reload::needs_restart(&self.config, &config);
        if !keys.is_empty() {
            return Err(Refused { error: reload::refusal(&keys), reasons: Vec::new() });
        }
        let problems = self.publisher.configure(config.routes.clone(), &config.certificates);
        self.config = config;
        let changes = self.publish();
        let warnings = problems.iter().map(ToString::to_string).collect();
        Ok(Reloaded { changes, warnings, snapshot: self.publisher.version() })
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
