//! The listener of `[metrics]`: bound before anything depends on it, kept across reloads and upgrades.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::server::{Server, Sources, Terms};
use crate::config;
use crate::sys;

/// A socket for an address of a configuration that is not live yet.
#[derive(Debug)]
pub struct Bound(StdListener);

/// What tells metrics, as the configuration that is live has it.
#[derive(Debug)]
pub struct Metrics {
    sources: Arc<Sources>,
    terms: watch::Sender<Arc<Terms>>,
    serving: Option<Serving>,
}

#[derive(Debug)]
struct Serving {
    /// As the configuration has it: the port may be 0.
    wanted: SocketAddr,
    socket: StdListener,
    /// None while it is paused.
    server: Option<Server>,
}

impl Bound {
    /// # Errors
    /// The one line for people.
    pub fn bind(address: SocketAddr) -> Result<Self, String> {
        // The standard library sets SO_REUSEADDR: what a controller before left does not matter.
        let bound = StdListener::bind(address);
        bound.map(Bound).map_err(|error| format!("metrics.listen {address}: {error}"))
    }

    /// The socket of the program that this process was.
    pub fn resume(socket: RawFd) -> Self {
        Bound(sys::own_inherited(socket).into())
    }
}

impl Metrics {
    /// Serves nobody yet.
    pub fn new(sources: Sources) -> Self {
        let terms = watch::Sender::new(Arc::default());
        Metrics { sources: Arc::new(sources), terms, serving: None }
    }

    /// The socket that a configuration needs and that is not there: the one step that can fail.
    ///
    /// # Errors
    /// The one line for people.
    pub fn prepare(&self, config: &config::Metrics) -> Result<Option<Bound>, String> {
        let serving = self.serving.as_ref().map(|serving| serving.wanted);
        match config.listen {
            Some(wanted) if serving != Some(wanted) => Bound::bind(wanted).map(Some),
            _ => Ok(None),
        }
    }

    /// Makes a configuration live. Without a new socket the one that is there serves on.
    pub async fn configure(&mut self, config: &config::Metrics, bound: Option<Bound>) {
        let terms = Terms { names: config.hosts.clone(), page: config.has_page() };
        self.terms.send_replace(Arc::new(terms));
        let is_over = config.listen.is_none() || bound.is_some();
        if is_over {
            self.pause().await;
            self.serving = None;
        }
        if let (Some(wanted), Some(Bound(socket))) = (config.listen, bound) {
            announce(&socket);
            self.serving = Some(Serving { wanted, socket, server: None });
            self.go_on();
        }
    }

    /// Answers what was asked and nothing more, so that exec cuts nothing off: whoever connects waits in
    /// the kernel's queue, where the next program finds them.
    pub async fn pause(&mut self) {
        if let Some(server) = self.serving.as_mut().and_then(|serving| serving.server.take()) {
            server.stop().await;
        }
    }

    /// Answers again, after [`Metrics::pause`].
    pub fn go_on(&mut self) {
        let Some(serving) = &mut self.serving else { return };
        match watched(&serving.socket) {
            Ok(socket) => {
                let (terms, sources) = (self.terms.subscribe(), self.sources.clone());
                serving.server = Some(Server::start(socket, terms, sources));
            }
            Err(error) => tracing::error!("metrics: {error}"),
        }
    }

    /// For the next program of this process.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.serving.as_ref().map(|serving| serving.socket.as_raw_fd())
    }

    pub async fn stop(mut self) {
        self.pause().await;
    }
}

/// As the runtime can wait for it. The socket listens on when that is dropped.
fn watched(socket: &StdListener) -> io::Result<TcpListener> {
    let socket = socket.try_clone()?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

fn announce(listener: &StdListener) {
    let Ok(address) = listener.local_addr() else { return };
    tracing::info!("metrics at http://{address}/metrics");
    if !address.ip().is_loopback() {
        tracing::warn!("{}", exposed(address));
    }
}

/// What to say of an address that others may reach.
pub fn exposed(address: SocketAddr) -> String {
    format!(
        "metrics.listen {address}: whoever reaches it reads the names of all hosts and how much they \
         are asked: see to it that only your monitoring does"
    )
}
