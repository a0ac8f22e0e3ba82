//! The controller from start to stop: reads as a table of contents.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};

use super::admin::control_socket::{ClaimError, ControlSocket};
use super::admin::known::Known;
use super::admin::server::{Server, Sources};
use super::certificates::acme::{self, Surroundings};
use super::certificates::{CertificateError, Certificates, Problem};
use super::control_loop::{Controller, Live, Stop, announce};
use super::docker::{Containers, Watch};
use super::environment::Environment;
use super::generations::{FirstError, Generations};
use super::interventions::Interventions;
use super::metrics::{self, Bound, Metrics, Tally};
use super::orphans;
use super::probe::{Prober, Target};
use super::publisher::Publisher;
use super::remembered::{Keeper, Remembered};
use super::rendezvous::Rendezvous;
use super::signals::Signals;
use super::sticky_key;
use super::store::{Store, StoreError, advice};
use super::ticket_keys::TicketKeys;
use super::upgrade;
use super::upgrade::state::{Next, State, StateError};
use super::worker_process::Executable;
use crate::config::{self, Config, Mistakes};
use crate::protocol::snapshot::Snapshot;
use crate::{log, sys};

/// Orders that wait their turn.
const ORDERS: usize = 4;
/// For what is being written when everything else has ended.
const LAST_WRITES: Duration = Duration::from_secs(2);
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
    #[error("state directory {path}: {source}{}", advice(.source), path = path.display())]
    StateDir { path: PathBuf, source: io::Error },
    #[error("{0}")]
    ControlSocket(#[from] ClaimError),
    #[error("certificates: {0}")]
    Certificates(#[from] CertificateError),
    #[error("{0}")]
    Store(#[from] StoreError),
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
    let mut config = config::parse(&text, config::file(config_path))?;
    log::start(&config.worker.log_level);
    let environment = read_environment();
    environment.complete(&mut config);
    // What our parent left open is not for workers.
    sys::seal_descriptors().map_err(RunError::Descriptors)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let live = Live { config, text, metrics: None };
    let ended = runtime.block_on(control(config_path, live, environment, before));
    // A write that the disk does not answer is not waited for.
    runtime.shutdown_timeout(LAST_WRITES);
    ended
}

async fn control(
    config_path: Option<&Path>,
    live: Live,
    environment: Environment,
    before: Option<State>,
) -> Result<(), RunError> {
    let mut signals = Signals::catch().map_err(RunError::Signals)?;
    upgrade::let_signals_through();
    let config = &live.config;

    make_state_dir(&config.state_dir)?;
    let certificates = Certificates::open(&config.state_dir)?;
    let acme = open_acme(config)?;
    let tally = before.as_ref().map(|state| Tally::resume(state.totals.clone()));
    let tally = tally.unwrap_or_default();
    let remembered = match &before {
        // It knows better.
        Some(_) => Remembered::default(),
        None => load_containers(&config.state_dir)?,
    };
    let known = remembered.containers().to_vec();
    let (docker, containers) = Watch::start(&config.docker, tally.clone(), remembered.in_place());
    let keeper = Keeper::start(Store::open(config.state_dir.clone())?, containers.clone());
    let (snapshot, ticket_keys) = match &before {
        Some(state) => (state.snapshot.clone(), state.ticket_keys.clone()),
        None => (Snapshot::default(), TicketKeys::new(SystemTime::now())),
    };
    let stock = acme.stock();
    let keys = (ticket_keys, sticky_key::load(&config.state_dir));
    let mut publisher = Publisher::new(certificates, stock, keys, environment, snapshot);
    for problem in publisher.configure(config) {
        tracing::error!("{problem}");
    }
    publisher.intervene(load_interventions(&config.state_dir)?);
    if config.docker.enabled {
        publisher.remember(&known);
    }

    let mut begun = match before {
        None => Begin::anew(config, &mut publisher, tally).await?,
        Some(state) => Begin::resume(config, &mut publisher, state, tally)?,
    };
    announce(&begun.generations);
    let stock = acme.stock();
    let acme = acme.start(Surroundings {
        wishes: publisher.wishes(),
        snapshots: publisher.snapshots(),
        fleet: begun.generations.fleet(),
        tally: begun.generations.tally(),
    });
    let metrics = begun.tell_metrics(config, &publisher).await;

    let (orders_sender, orders) = mpsc::channel(ORDERS);
    let control_socket = begun.control_socket.descriptor();
    let known = begun.known(&publisher);
    let admin = Server::start(
        begun.control_socket,
        Sources { known, orders: orders_sender, certificates: acme.desk() },
    );
    let controller = Controller {
        config_path,
        live,
        started: begun.started,
        control_socket,
        publisher,
        asked: begun.prober.asked(),
        prober: begun.prober,
        containers,
        reachable: begun.reachable,
        stock,
        gate: acme.gate(),
        admin: admin.pauses(),
        holding: begun.holding,
        rests_until: tokio::time::Instant::now(),
        orders,
        generations: begun.generations,
        metrics,
        pending: None,
        retry: None,
        stop: Stop::NotAsked,
    };
    let ended = controller.run(&mut signals, begun.next).await.map_err(RunError::Resume)?;

    let Controller { generations, prober, metrics, stop, .. } = ended;
    match stop {
        Stop::Leaving => generations.leave().await,
        _ => generations.join().await,
    }
    metrics.stop().await;
    admin.stop().await;
    acme.stop().await;
    prober.stop().await;
    docker.stop().await;
    keeper.stop().await;
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
    /// None where there is none to be, or none to be had.
    metrics: Option<Bound>,
    /// Workers have a snapshot that is better than one without containers.
    holding: bool,
    next: Option<Next>,
}

impl Begin {
    async fn anew(
        config: &Config,
        publisher: &mut Publisher,
        tally: Tally,
    ) -> Result<Self, RunError> {
        let executable = Executable::of_this_process().map_err(RunError::Executable)?;
        let control_socket = ControlSocket::claim(&config.control_socket)?;
        let orphans = orphans::find(&Rendezvous::beside(&config.control_socket)).await;
        // Workers that serve already have better routes than the configuration's alone.
        publisher.hold(orphans.iter().any(|orphan| !orphan.listeners.is_empty()));
        let (prober, reachable) = Prober::start(vec![]);
        // The configuration's own routes serve before Docker has said anything.
        publisher.publish(&Containers::default(), &HashSet::new());
        prober.want(publisher.table().probes.clone());
        let snapshots = publisher.snapshots();
        Ok(Begin {
            started: SystemTime::now(),
            control_socket,
            prober,
            reachable,
            generations: Generations::start(executable, config, snapshots, orphans, tally).await?,
            metrics: bind_metrics(config),
            holding: false,
            next: None,
        })
    }

    /// Everything that the program before had.
    fn resume(
        config: &Config,
        publisher: &mut Publisher,
        mut state: State,
        tally: Tally,
    ) -> Result<Self, RunError> {
        publisher.resume(std::mem::take(&mut state.containers));
        let control_socket = ControlSocket::resume(&config.control_socket, state.control_socket)
            .map_err(RunError::Resume)?;
        let (prober, reachable) = Prober::start(std::mem::take(&mut state.reachable));
        let metrics = match state.metrics_socket {
            Some(socket) => Some(Bound::resume(socket)),
            None => bind_metrics(config),
        };
        let generations = Generations::resume(&mut state, config, publisher.snapshots(), tally);
        Ok(Begin {
            started: state.started,
            control_socket,
            prober,
            reachable,
            generations: generations.map_err(RunError::Resume)?,
            metrics,
            holding: config.docker.enabled,
            next: Some(state.next),
        })
    }

    fn known(&self, publisher: &Publisher) -> Known {
        Known {
            started: self.started,
            steering: self.generations.steering(),
            fleet: self.generations.fleet(),
            handoffs: self.generations.journal().follow(),
            view: publisher.views(),
        }
    }

    async fn tell_metrics(&mut self, config: &Config, publisher: &Publisher) -> Metrics {
        let mut metrics = Metrics::new(metrics::Sources {
            known: self.known(publisher),
            tally: self.generations.tally(),
            knows_routes: self.holding || publisher.is_held() || !config.docker.enabled,
        });
        metrics.configure(&config.metrics, self.metrics.take()).await;
        metrics
    }
}

/// The public is served without it, too.
fn bind_metrics(config: &Config) -> Option<Bound> {
    let bound = config.metrics.listen.map(Bound::bind)?;
    bound.inspect_err(|error| tracing::error!("{error}: there are no metrics until a reload")).ok()
}

fn make_state_dir(path: &Path) -> Result<(), RunError> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| RunError::StateDir { path: path.to_owned(), source })
}

fn load_interventions(state_dir: &Path) -> Result<Interventions, RunError> {
    load(state_dir, Interventions::load)
}

fn load_containers(state_dir: &Path) -> Result<Remembered, RunError> {
    load(state_dir, Remembered::load)
}

fn load<T>(
    state_dir: &Path,
    read: impl FnOnce(&Store, &mut Vec<Problem>) -> Result<T, StoreError>,
) -> Result<T, RunError> {
    let mut problems = Vec::new();
    let loaded = read(&Store::open(state_dir.to_owned())?, &mut problems)?;
    for problem in problems {
        tracing::error!("{problem}");
    }
    Ok(loaded)
}

fn open_acme(config: &Config) -> Result<acme::Opened, RunError> {
    let opened = acme::open(&config.state_dir).map_err(CertificateError::from)?;
    for problem in &opened.problems {
        tracing::error!("{problem}");
    }
    Ok(opened)
}

fn read_environment() -> Environment {
    let environment = Environment::read();
    for problem in &environment.problems {
        tracing::error!("{problem}");
    }
    environment
}
