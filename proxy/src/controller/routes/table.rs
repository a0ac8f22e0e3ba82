//! The route table: what `baton routes` shows, and what a worker's snapshot is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use super::claim::key;
use crate::config::{Hsts, RouteTls, VerifyClient};
use crate::controller::certificates::{Named, Trust, Wish};
use crate::controller::environment::Defaults;
use crate::controller::probe;
use crate::protocol::default_root::DefaultRoot;
use crate::protocol::options::Options;
use crate::protocol::pattern::{HostPattern, PathPattern};
use crate::protocol::snapshot::{self, HttpsMethod, Snapshot, UpstreamProtocol};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Sorted by pattern, each once.
    pub hosts: Vec<HostEntry>,
    /// The running containers that nothing is routed to. Sorted by name.
    pub unrouted: Vec<Unrouted>,
    /// What containers say wrongly. Sorted by container and setting.
    pub diagnoses: Vec<Diagnosis>,
    /// Whom to probe: containers in rotation, or waiting for it, without a HEALTHCHECK, and whoever has
    /// a health path.
    pub probes: BTreeSet<probe::Target>,
    pub incumbents: Incumbents,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    pub pattern: HostPattern,
    pub policy: Policy,
    pub tls: RouteTls,
    /// What containers say of its certificate.
    pub wish: Wish,
    pub clients: Clients,
    /// What a person has told it to do.
    pub intervention: Option<snapshot::Intervention>,
    /// Sorted by path as it is written, each once.
    pub routes: Vec<RouteEntry>,
}

/// How plain HTTP and HTTPS of a host relate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub https: HttpsMethod,
    /// That a redirect to HTTPS names; `None`: the one that is listened on.
    pub https_port: Option<u16>,
    pub hsts: Hsts,
    /// 301, 307 or 308.
    pub non_get_redirect: u16,
    /// Plain HTTP is served while there is no certificate.
    pub http_on_missing: bool,
    /// For paths that nobody claims.
    pub default_root: DefaultRoot,
}

impl From<&Defaults> for Policy {
    fn from(defaults: &Defaults) -> Self {
        Policy {
            https: defaults.https,
            https_port: None,
            hsts: defaults.hsts.clone(),
            non_get_redirect: defaults.non_get_redirect,
            http_on_missing: defaults.http_on_missing,
            default_root: defaults.default_root.clone(),
        }
    }
}

/// What is said of certificates that clients have to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clients {
    /// The configuration's file with their CAs.
    pub ca: Option<PathBuf>,
    pub verify: Option<VerifyClient>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteEntry {
    pub path: PathPattern,
    pub replace_prefix: Option<String>,
    pub options: Options,
    /// The configuration's in its order, or containers, the oldest first.
    pub upstreams: Vec<UpstreamEntry>,
    /// Somebody is up, or was a moment ago: where nobody answers, requests wait.
    pub hold: bool,
}

/// Someone who answers for a route, in rotation or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamEntry {
    /// The container's name, or the address as the configuration has it.
    pub name: String,
    /// `None` when the container has none that can be reached.
    pub address: Option<SocketAddr>,
    pub protocol: UpstreamProtocol,
    pub weight: u32,
    /// Name of the container; `None` for an upstream of the configuration.
    pub container: Option<String>,
    /// The path that it has to answer; `None`: it is not asked.
    pub health: Option<String>,
    pub state: UpstreamState,
}

/// Why an upstream is in rotation, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UpstreamState {
    Up,
    /// Its HEALTHCHECK has not passed yet.
    Starting,
    /// Its HEALTHCHECK fails.
    Unhealthy,
    /// It was sent its stop signal.
    Stopping,
    /// It has no HEALTHCHECK, and its port does not accept yet.
    Waiting,
    /// It has not passed its health check often enough, or not any more.
    Unready,
    Paused,
    /// It ended, and the daemon waits before it starts it again.
    Restarting,
    /// No network of it has an address.
    NoAddress,
    /// It has ended, and may come back or be replaced.
    Gone,
}

impl UpstreamState {
    pub fn as_str(self) -> &'static str {
        match self {
            UpstreamState::Up => "up",
            UpstreamState::Starting => "starting",
            UpstreamState::Unhealthy => "unhealthy",
            UpstreamState::Stopping => "stopping",
            UpstreamState::Waiting => "waiting",
            UpstreamState::Unready => "unready",
            UpstreamState::Paused => "paused",
            UpstreamState::Restarting => "restarting",
            UpstreamState::NoAddress => "no_address",
            UpstreamState::Gone => "gone",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unrouted {
    pub container: String,
    pub reason: String,
}

/// Something that a container says and that baton does not do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnosis {
    pub container: String,
    /// The variable or label.
    pub setting: String,
    /// As it is set; empty where the setting may hold a secret.
    pub value: String,
    pub problem: String,
}

/// Which compose project holds a host and path, so that another one that claims it later does not
/// take it away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Incumbents(pub(super) BTreeMap<RouteKey, String>);

/// A host and a path as it is written: a textual prefix and one of segments are the same route.
pub type RouteKey = (HostPattern, String);

impl Table {
    /// Tells containers that the certificate that they name (CERT_NAME) is not there.
    pub fn diagnose_missing(&mut self, missing: &[(HostPattern, Named)]) {
        self.diagnoses.extend(missing.iter().map(|(host, named)| Diagnosis {
            container: named.by.clone(),
            setting: "CERT_NAME".to_owned(),
            value: named.name.clone(),
            problem: format!("is not a certificate that there is: no HTTPS for {host}"),
        }));
        self.diagnoses.sort();
    }

    /// What a worker routes by: upstreams in rotation alone. `served` says for each host, in the same
    /// order, what else a snapshot has for it; a missing one means nothing.
    pub fn snapshot_hosts(&self, served: Vec<Served>) -> Vec<snapshot::Host> {
        let served = served.into_iter().chain(std::iter::repeat_with(Served::default));
        self.hosts.iter().zip(served).map(|(host, served)| host.snapshot(served)).collect()
    }
}

/// The routes of a snapshot whose requests wait when nobody answers them.
pub fn held(snapshot: &Snapshot) -> BTreeSet<RouteKey> {
    let routes_of = |host: &snapshot::Host| {
        let held = host.routes.iter().filter(|route| route.hold);
        Vec::from_iter(held.map(|route| key(&host.pattern, &route.path)))
    };
    snapshot.hosts.iter().flat_map(routes_of).collect()
}

/// What a host is served with beside its routes.
#[derive(Debug, Clone, Default)]
pub struct Served {
    pub trust: Trust,
    pub client_auth: Option<snapshot::ClientAuth>,
}

#[cfg(test)]
impl HostEntry {
    /// One of which nothing is said.
    pub fn new(pattern: &str) -> Self {
        HostEntry {
            pattern: pattern.parse().expect("pattern"),
            policy: Policy::from(&Defaults::default()),
            tls: RouteTls::default(),
            wish: Wish::default(),
            clients: Clients::default(),
            intervention: None,
            routes: Vec::new(),
        }
    }
}

impl HostEntry {
    fn snapshot(&self, served: Served) -> snapshot::Host {
        snapshot::Host {
            pattern: self.pattern.clone(),
            https: self.policy.https,
            trusted: served.trust != Trust::None,
            needs_certificate: !self.policy.http_on_missing,
            non_get_redirect: self.policy.non_get_redirect,
            https_port: self.policy.https_port,
            hsts: self.hsts(served.trust),
            client_auth: served.client_auth,
            passthrough: self.tls == RouteTls::Passthrough,
            intervention: self.intervention.clone(),
            default_root: self.policy.default_root.clone(),
            routes: self.routes.iter().map(RouteEntry::snapshot).collect(),
        }
    }

    /// Browsers that were told hold on to it for the time that it names: only where everybody can be
    /// expected to trust the certificate, and nobody was promised plain HTTP.
    fn hsts(&self, trust: Trust) -> Option<String> {
        let is_https = matches!(self.policy.https, HttpsMethod::Redirect | HttpsMethod::NoHttp);
        match &self.policy.hsts {
            Hsts::Value(value) if is_https && trust == Trust::Public => Some(value.clone()),
            Hsts::Value(_) | Hsts::Off => None,
        }
    }
}

impl RouteEntry {
    fn snapshot(&self) -> snapshot::Route {
        snapshot::Route {
            path: self.path.clone(),
            replace_prefix: self.replace_prefix.clone(),
            options: self.options.clone(),
            upstreams: self.upstreams.iter().filter_map(UpstreamEntry::in_rotation).collect(),
            hold: self.hold,
        }
    }
}

impl UpstreamEntry {
    fn in_rotation(&self) -> Option<snapshot::Upstream> {
        if self.state != UpstreamState::Up {
            return None;
        }
        Some(snapshot::Upstream {
            name: self.name.clone(),
            address: self.address?,
            protocol: self.protocol,
            weight: self.weight,
        })
    }
}
