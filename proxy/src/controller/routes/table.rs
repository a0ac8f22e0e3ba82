//! The route table: what `baton routes` shows, and what a worker's snapshot is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::config::RouteTls;
use crate::controller::probe;
use crate::protocol::pattern::{HostPattern, PathPattern};
use crate::protocol::snapshot::{self, HttpsMethod, UpstreamProtocol};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Sorted by pattern, each once.
    pub hosts: Vec<HostEntry>,
    /// The running containers that nothing is routed to. Sorted by name.
    pub unrouted: Vec<Unrouted>,
    /// What containers say wrongly. Sorted by container and setting.
    pub diagnoses: Vec<Diagnosis>,
    /// Ports to probe: of containers in rotation, or waiting for it, without a HEALTHCHECK.
    pub probes: BTreeSet<probe::Target>,
    pub incumbents: Incumbents,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    pub pattern: HostPattern,
    pub https: HttpsMethod,
    pub tls: RouteTls,
    /// Sorted by path as it is written, each once.
    pub routes: Vec<RouteEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteEntry {
    pub path: PathPattern,
    pub replace_prefix: Option<String>,
    /// The configuration's in its order, or containers, the oldest first.
    pub upstreams: Vec<UpstreamEntry>,
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
    Paused,
    /// It ended, and the daemon waits before it starts it again.
    Restarting,
    /// No network of it has an address.
    NoAddress,
}

impl UpstreamState {
    pub fn as_str(self) -> &'static str {
        match self {
            UpstreamState::Up => "up",
            UpstreamState::Starting => "starting",
            UpstreamState::Unhealthy => "unhealthy",
            UpstreamState::Stopping => "stopping",
            UpstreamState::Waiting => "waiting",
            UpstreamState::Paused => "paused",
            UpstreamState::Restarting => "restarting",
            UpstreamState::NoAddress => "no_address",
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
pub(super) type RouteKey = (HostPattern, String);

impl Table {
    /// What a worker routes by: upstreams in rotation alone. `trusted` says for each host, in the
    /// same order, whether clients can be expected to trust its certificate; a missing one means no.
    pub fn snapshot_hosts(&self, trusted: &[bool]) -> Vec<snapshot::Host> {
        let trusted = trusted.iter().copied().chain(std::iter::repeat(false));
        self.hosts.iter().zip(trusted).map(|(host, trusted)| host.snapshot(trusted)).collect()
    }
}

impl HostEntry {
    fn snapshot(&self, trusted: bool) -> snapshot::Host {
        snapshot::Host {
            pattern: self.pattern.clone(),
            https: self.https,
            trusted,
            routes: self.routes.iter().map(RouteEntry::snapshot).collect(),
        }
    }
}

impl RouteEntry {
    fn snapshot(&self) -> snapshot::Route {
        snapshot::Route {
            path: self.path.clone(),
            replace_prefix: self.replace_prefix.clone(),
            upstreams: self.upstreams.iter().filter_map(UpstreamEntry::in_rotation).collect(),
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
