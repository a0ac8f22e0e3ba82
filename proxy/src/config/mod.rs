//! The configuration: what was typed (TOML) becomes what it means ([`Config`]) in one step, with
//! every mistake reported at once. No other part of the program sees raw input.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::protocol::pattern::{HostPattern, PathPattern};
use crate::protocol::settings::WorkerSettings;
use crate::protocol::snapshot::UpstreamProtocol;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub state_dir: PathBuf,
    pub control_socket: PathBuf,
    pub listen: Listen,
    pub docker: Docker,
    /// Everything that a worker is started with: threads, timeouts, limits, TLS policy, log.
    pub worker: WorkerSettings,
    pub drain: Drain,
    /// `[[tls.certificate]]`
    pub certificates: Vec<CertificateFiles>,
    /// `[[route]]`
    pub routes: Vec<StaticRoute>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub http: Vec<SocketAddr>,
    pub https: Vec<SocketAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Docker {
    pub enabled: bool,
    /// `unix:///path` or `tcp://host:port`. Default: `DOCKER_HOST`, else Docker's usual socket,
    /// else Podman's.
    pub endpoint: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Requests in progress may take this long after a drain begins.
    pub limit: Duration,
    /// Tunnels (WebSocket) may take this long.
    pub tunnel_limit: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// `[[route]]`: as a container would say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticRoute {
    pub host: HostPattern,
    pub path: PathPattern,
    /// `strip_prefix = true` is `Some("/")`.
    pub replace_prefix: Option<String>,
    pub upstreams: Vec<StaticUpstream>,
    pub tls: RouteTls,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticUpstream {
    /// As the file has it, for people.
    pub text: String,
    pub address: SocketAddr,
    pub protocol: UpstreamProtocol,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RouteTls {
    /// A certificate file that covers the name, else the local CA for names that no public CA
    /// signs, else none.
    #[default]
    Auto,
    /// The local CA, whatever the name.
    Local,
    /// Plain HTTP alone.
    Off,
}
