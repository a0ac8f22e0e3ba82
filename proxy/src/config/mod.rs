//! The configuration: what was typed (TOML) becomes what it means ([`Config`]) in one step, with
//! every mistake reported at once. No other part of the program sees raw input.

mod acme;
mod dns;
mod external_account;
mod health_check;
mod mistake;
mod nearest;
mod reader;
mod route_options;
mod sections;
mod upstream;
mod value;

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use acme::{Acme, ChallengeKind, Directory, KeyKind, Proof, is_email};
pub use dns::{Dns, DnsProvider, DnsUpdate, Secret, TsigAlgorithm, decode_secret};
pub use external_account::ExternalAccount;
pub use health_check::HealthCheck;
pub use mistake::{Mistake, Mistakes, Position};
pub use upstream::UpstreamError;
pub use value::time_span;

use crate::protocol::options::Options;
use crate::protocol::pattern::{HostPattern, PathPattern};
use crate::protocol::settings::WorkerSettings;
use crate::protocol::snapshot::UpstreamProtocol;

/// Read when no file is named; it need not be there.
pub const DEFAULT_PATH: &str = "/etc/baton/baton.toml";

/// Reads the configuration; None is [`DEFAULT_PATH`], where a missing file means defaults.
///
/// # Errors
/// Every mistake of the file, or the one that it cannot be read. A named file must be there.
pub fn load(path: Option<&Path>) -> Result<Config, Mistakes> {
    parse(&read(path)?, file(path))
}

/// The text that [`load`] parses; empty where the default file does not exist.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: Option<&Path>) -> Result<String, Mistakes> {
    match std::fs::read_to_string(file(path)) {
        Ok(text) => Ok(text),
        Err(error) if path.is_none() && error.kind() == io::ErrorKind::NotFound => {
            Ok(String::new())
        }
        Err(error) => Err(unreadable(file(path), &error)),
    }
}

/// The file that `path` means.
pub fn file(path: Option<&Path>) -> &Path {
    path.unwrap_or(Path::new(DEFAULT_PATH))
}

/// What the text means. Nothing is looked up, opened or bound; `file` is for the mistakes.
///
/// # Errors
/// Every mistake of the text.
pub fn parse(text: &str, file: &Path) -> Result<Config, Mistakes> {
    reader::Reader::read(text, file, sections::config).map(|(config, _keys)| config)
}

fn unreadable(file: &Path, error: &io::Error) -> Mistakes {
    Mistakes::new(vec![Mistake {
        file: file.to_owned(),
        position: None,
        key: String::new(),
        problem: format!("cannot be read: {error}"),
        nearest: None,
    }])
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub handoff: HandoffWish,
    pub state_dir: PathBuf,
    pub control_socket: PathBuf,
    pub listen: Listen,
    pub docker: Docker,
    /// Everything that a worker is started with: threads, timeouts, limits, TLS policy, log.
    pub worker: WorkerSettings,
    /// `log.access` is there: baton's environment has no say.
    pub access_log_is_set: bool,
    pub drain: Drain,
    pub metrics: Metrics,
    pub acme: Acme,
    /// Where `<host>.ca.crt` and `ca.crt` are, as nginx-proxy has them.
    pub client_ca_dir: Option<PathBuf>,
    /// htpasswd files, named by the host that they are for.
    pub htpasswd_dir: Option<PathBuf>,
    /// With pages for errors.
    pub error_pages: Option<PathBuf>,
    /// `[[tls.certificate]]`
    pub certificates: Vec<CertificateFiles>,
    /// Directories of certificates that others keep.
    pub certificate_dirs: Vec<PathBuf>,
    /// Answers for names that no host has.
    pub default_host: Option<HostPattern>,
    /// `[[route]]`
    pub routes: Vec<StaticRoute>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            handoff: HandoffWish::default(),
            state_dir: "/var/lib/baton".into(),
            control_socket: "/run/baton/control.sock".into(),
            listen: Listen::default(),
            docker: Docker::default(),
            worker: default_worker(),
            access_log_is_set: false,
            drain: Drain::default(),
            metrics: Metrics::default(),
            acme: Acme::default(),
            client_ca_dir: None,
            htpasswd_dir: None,
            error_pages: None,
            certificates: Vec::new(),
            certificate_dirs: Vec::new(),
            default_host: None,
            routes: Vec::new(),
        }
    }
}

/// One thread for each CPU that this process may use.
fn default_worker() -> WorkerSettings {
    WorkerSettings {
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        log_level: "info".to_owned(),
        ..WorkerSettings::default()
    }
}

/// How listeners shall pass from one generation of workers to the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HandoffWish {
    /// By the selector where it can be had, else the same sockets are passed on.
    #[default]
    Auto,
    /// By the selector; without one baton does not start.
    Ebpf,
    Inherit,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub http: Vec<SocketAddr>,
    pub https: Vec<SocketAddr>,
}

impl Default for Listen {
    fn default() -> Self {
        let any = |port| vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))];
        Listen { http: any(80), https: any(443) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Docker {
    pub enabled: bool,
    /// `unix:///path` or `tcp://host:port`. Default: `DOCKER_HOST`, else Docker's usual socket,
    /// else Podman's.
    pub endpoint: Option<String>,
}

impl Default for Docker {
    fn default() -> Self {
        Docker { enabled: true, endpoint: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Requests in progress may take this long after a drain begins.
    pub limit: Duration,
    /// Tunnels (WebSocket) may take this long.
    pub tunnel_limit: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Drain { limit: Duration::from_secs(600), tunnel_limit: Duration::from_secs(3600) }
    }
}

/// The listener that tells metrics and has the status page, in plain HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// None: there is none.
    pub listen: Option<SocketAddr>,
    /// Names that it may be asked by, beside addresses and `localhost`; lower case.
    pub hosts: Vec<String>,
    /// Whether there is a status page; `None`: on a loopback address alone.
    pub page: Option<bool>,
}

impl Metrics {
    pub fn has_page(&self) -> bool {
        self.page.unwrap_or(self.listen.is_some_and(|address| address.ip().is_loopback()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    pub options: Options,
    pub upstreams: Vec<StaticUpstream>,
    /// They are in rotation while they pass it; `None`: always.
    pub health: Option<HealthCheck>,
    pub tls: RouteTls,
    /// Of its host. `None`: the default.
    pub hsts: Option<Hsts>,
    /// A file with the CAs whose clients its host takes.
    pub client_ca: Option<PathBuf>,
    pub client_auth: Option<VerifyClient>,
}

/// Strict-Transport-Security (RFC 6797) of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hsts {
    Off,
    /// The value of the field.
    Value(String),
}

impl Hsts {
    /// `off`, or a value: it is sent as it is.
    ///
    /// # Errors
    /// The sentence for what no browser would understand.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Hsts::Off);
        }
        let mut directives = text.split(';').map(str::trim);
        let has_age = directives.any(|directive| {
            let age = directive.split_once('=').filter(|(n, _)| n.eq_ignore_ascii_case("max-age"));
            age.is_some_and(|(_, seconds)| seconds.trim_matches('"').parse::<u64>().is_ok())
        });
        if has_age && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Ok(Hsts::Value(text.to_owned()));
        }
        Err("is neither `off` nor a value with `max-age=SECONDS`".to_owned())
    }
}

/// Whether clients have to show a certificate, where there is a CA for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyClient {
    Off,
    /// They may come without one.
    Optional,
    Required,
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
    /// signs, else one that is ordered where `[acme]` says so, else none.
    #[default]
    Auto,
    /// Ordered, whatever the name, unless a certificate file covers it.
    Acme,
    /// The local CA, whatever the name.
    Local,
    /// Plain HTTP alone.
    Off,
    /// The upstreams end TLS.
    Passthrough,
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
