//! The answers of the admin socket. Scripts read them: they only grow.
//!
//! Times are RFC 3339 in UTC; a name that ends in `_ms` is in milliseconds.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::controller::generations::Launch;
use crate::protocol::frame::WorkerStats;

/// `GET /status`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// Of the controller.
    pub pid: u32,
    pub started: String,
    pub handoff: HandoffMode,
    pub generations: Vec<Generation>,
    pub listeners: Vec<Listener>,
    pub last_handoffs: Vec<Handoff>,
    pub docker: Docker,
}

/// How listeners pass from one generation to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoffMode {
    pub mode: String,
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    pub id: u64,
    /// `starting`, `canary`, `active`, `draining` or `gone`.
    pub state: String,
    /// None between two processes.
    pub pid: Option<u32>,
    /// When the process was started.
    pub started: String,
    /// Open now; none when the worker does not say.
    pub connections: Option<u64>,
    /// Connections that the selector sent here; none without a selector.
    pub selected: Option<u64>,
    /// Connections that migrated here; none without a selector.
    pub migrated: Option<u64>,
    pub ms_to_ready: u64,
    /// Version of the snapshot that requests see.
    pub snapshot: u64,
    /// Processes of this generation that died unasked.
    pub deaths: u64,
    /// Why the last of them did.
    pub last_death: Option<String>,
    /// How long the next start waits, when workers die again and again.
    pub respawn_delay_ms: u64,
    /// What stands between its process and the host; empty where it has told another controller.
    #[serde(default)]
    pub sandbox: Vec<String>,
    /// What of it could not be had, and why.
    #[serde(default)]
    pub sandbox_missing: Vec<String>,
    /// Of the process that runs now, since its start; none when it does not say.
    pub counters: Option<WorkerStats>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// As bound: with the port that the kernel chose for port 0.
    pub address: String,
    /// `http` or `https`.
    pub kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handoff {
    pub id: u64,
    /// `reload`, `upgrade`, `rollback`, or `takeover` from a controller that died.
    pub kind: String,
    /// `under way`, `done` or `failed`.
    pub outcome: String,
    /// Why it failed.
    pub error: Option<String>,
    pub started: String,
    /// Generations.
    pub from: u64,
    pub to: u64,
    pub ms_to_ready: Option<u64>,
    /// From the start to the one switch that moves all new connections.
    pub ms_to_flip: Option<u64>,
    /// From the start until the old generation had closed its listeners.
    #[serde(default)]
    pub ms_to_close: Option<u64>,
    /// Connections that had migrated to the new generation by then; none without a selector.
    #[serde(default)]
    pub migrated: Option<u64>,
    pub steps: Vec<Step>,
}

/// A step of a handoff, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Since the start of the handoff.
    pub ms: u64,
    pub text: String,
}

impl Handoff {
    pub const UNDER_WAY: &str = "under way";
    pub const DONE: &str = "done";
    pub const FAILED: &str = "failed";

    pub fn begin(id: u64, kind: &str, from: u64, to: u64, started: &str) -> Self {
        Handoff {
            id,
            kind: kind.to_owned(),
            outcome: Self::UNDER_WAY.to_owned(),
            error: None,
            started: started.to_owned(),
            from,
            to,
            ms_to_ready: None,
            ms_to_flip: None,
            ms_to_close: None,
            migrated: None,
            steps: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Docker {
    pub connected: bool,
    /// None when it is not asked at all.
    pub endpoint: Option<String>,
    pub containers: usize,
    /// The last complete list.
    pub last_sync: Option<String>,
    /// Why it is not connected.
    pub error: Option<String>,
}

/// `POST /intervene`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterventionOrder {
    /// As `baton routes` writes it.
    pub host: String,
    #[serde(flatten)]
    pub wanted: Wanted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Wanted {
    Pause {
        max: Duration,
    },
    Resume,
    /// With HTML of its own.
    Maintenance {
        page: Option<String>,
    },
    EndMaintenance,
}

/// What has become of such an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intervened {
    pub done: String,
    /// Version of the snapshot that carries it.
    pub snapshot: u64,
}

/// `GET /routes`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    pub routes: Vec<Route>,
    pub unrouted: Vec<Unrouted>,
    pub diagnoses: Vec<Diagnosis>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub host: String,
    pub path: String,
    /// Takes the place of the matched prefix in the request that goes upstream.
    pub replace_prefix: Option<String>,
    pub upstreams: Vec<Upstream>,
    /// `file`, `acme` or `local`; none when the host has no certificate of its own.
    pub certificate: Option<String>,
    /// `maintenance`, or `paused until` a time; none when the host serves as usual.
    #[serde(default)]
    pub intervention: Option<String>,
    /// What it does beside forwarding, by the names of the labels.
    #[serde(default)]
    pub options: Vec<String>,
}

impl Route {
    /// It answers by static files, and needs nobody.
    pub fn has_files(&self) -> bool {
        self.options.iter().any(|option| option == "root")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// None when the container has no address that can be reached.
    pub address: Option<String>,
    pub protocol: String,
    pub weight: u32,
    /// None for an upstream from the configuration file.
    pub container: Option<String>,
    /// The path of its health check; none when it has no such check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// `up`, or why it is out of rotation: `starting`, `unhealthy`, `stopping`, `waiting`, `unready`,
    /// `paused`, `restarting`, `no_address`, `gone`.
    pub state: String,
}

/// A running container without a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unrouted {
    pub container: String,
    pub reason: String,
}

/// A setting of a container that is wrong, and so has no effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    pub container: String,
    pub setting: String,
    pub value: String,
    pub problem: String,
}

/// One of the answer to `GET /certs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Empty for the default certificate, and for files that could not be read.
    pub names: Vec<String>,
    /// `file`, `acme`, `local` or `default`.
    pub kind: String,
    pub issuer: String,
    pub not_after: Option<String>,
    /// None for a certificate that baton does not renew.
    pub next_renewal: Option<String>,
    /// `valid`, `expired`, `failed`, or `pending` while a first order is under way.
    pub state: String,
    pub last_error: Option<String>,
    /// Of an order that failed.
    pub next_try: Option<String>,
}

/// `POST /reload` that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// One line for each change.
    pub changes: Vec<String>,
    /// What works less well than the configuration asks for.
    pub warnings: Vec<String>,
    /// Version of the snapshot that holds the changes.
    pub snapshot: u64,
    /// The handoff that makes the rest live; none where everything went live in place.
    #[serde(default)]
    pub handoff: Option<Handoff>,
}

/// `POST /upgrade`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpgradeOrder {
    /// Absolute; none is the file that the running program was started from.
    pub binary: Option<PathBuf>,
    #[serde(flatten)]
    pub launch: Launch,
}

/// `POST /upgrade` or `POST /rollback` that has begun: what becomes of it is in
/// [`Status::last_handoffs`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// [`Handoff::id`]
    pub handoff: u64,
}

/// Any answer that is not a 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// In one line, with what to do.
    pub error: String,
    /// Each of what is wrong, where that is more than one thing.
    pub reasons: Vec<String>,
}

/// What a renewal, another try or a revocation is asked for: a name of the certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateOrder {
    pub name: String,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateOutcome {
    /// `done`, or `under way` where the CA takes longer than anybody wants to wait.
    pub outcome: String,
    /// In one line.
    pub text: String,
}

impl CertificateOutcome {
    pub fn done(text: String) -> Self {
        CertificateOutcome { outcome: "done".to_owned(), text }
    }

    pub fn under_way(name: &str) -> Self {
        let text = format!("certificate {name}: under way: `baton certs` says what becomes of it");
        CertificateOutcome { outcome: "under way".to_owned(), text }
    }
}

impl Refused {
    pub fn because(error: String) -> Self {
        Refused { error, reasons: Vec::new() }
    }
}

/// RFC 3339 in UTC, to the second.
pub fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let whole = time.replace_nanosecond(0).unwrap_or(time);
    // It fails for years that have more than four digits alone.
    whole.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn times_are_rfc_3339() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_750_000_000_999);
        assert_eq!(rfc3339(time), "2025-06-15T15:06:40Z");
    }

    #[test]
    fn the_shape_of_status() {
        let status = Status {
            version: "0.1.0".into(),
            pid: 7,
            started: "2025-06-15T15:06:40Z".into(),
            handoff: HandoffMode { mode: "none".into(), why: "because".into() },
            generations: vec![Generation {
                id: 1,
                state: "active".into(),
                pid: Some(8),
                started: "2025-06-15T15:06:41Z".into(),
                connections: Some(3),
                selected: None,
                migrated: None,
                ms_to_ready: 12,
                snapshot: 4,
                deaths: 0,
                last_death: None,
                respawn_delay_ms: 0,
                sandbox: vec!["no capability".into()],
                sandbox_missing: vec![],
                counters: None,
            }],
            listeners: vec![Listener { address: "[::]:80".into(), kind: "http".into() }],
            last_handoffs: vec![],
            docker: Docker {
                connected: true,
                endpoint: Some("unix:///var/run/docker.sock".into()),
                containers: 2,
                last_sync: Some("2025-06-15T15:06:42Z".into()),
                error: None,
            },
        };
        let shape = json!({
            "version": "0.1.0",
            "pid": 7,
            "started": "2025-06-15T15:06:40Z",
            "handoff": {"mode": "none", "why": "because"},
            "generations": [{
                "id": 1,
                "state": "active",
                "pid": 8,
                "started": "2025-06-15T15:06:41Z",
                "connections": 3,
                "selected": null,
                "migrated": null,
                "ms_to_ready": 12,
                "snapshot": 4,
                "deaths": 0,
                "last_death": null,
                "respawn_delay_ms": 0,
                "sandbox": ["no capability"],
                "sandbox_missing": [],
                "counters": null,
            }],
            "listeners": [{"address": "[::]:80", "kind": "http"}],
            "last_handoffs": [],
            "docker": {
                "connected": true,
                "endpoint": "unix:///var/run/docker.sock",
                "containers": 2,
                "last_sync": "2025-06-15T15:06:42Z",
                "error": null,
            },
        });
        assert_eq!(serde_json::to_value(&status).expect("json"), shape);
        assert_eq!(serde_json::from_value::<Status>(shape).expect("status"), status);
    }

    #[test]
    fn the_shape_of_routes() {
        let routes = Routes {
            routes: vec![Route {
                host: "app.example.com".into(),
                path: "/".into(),
                replace_prefix: None,
                upstreams: vec![Upstream {
                    address: Some("172.17.0.2:80".into()),
                    protocol: "http".into(),
                    weight: 1,
                    container: Some("web-1".into()),
                    health: None,
                    state: "up".into(),
                }],
                certificate: Some("local".into()),
                intervention: None,
                options: vec!["allow".into()],
            }],
            unrouted: vec![Unrouted { container: "db".into(), reason: "no host".into() }],
            diagnoses: vec![Diagnosis {
                container: "web-1".into(),
                setting: "VIRTUAL_PORT".into(),
                value: "x".into(),
                problem: "not a port".into(),
            }],
        };
        let shape = json!({
            "routes": [{
                "host": "app.example.com",
                "path": "/",
                "replace_prefix": null,
                "upstreams": [{
                    "address": "172.17.0.2:80",
                    "protocol": "http",
                    "weight": 1,
                    "container": "web-1",
                    "state": "up",
                }],
                "intervention": null,
                "options": ["allow"], "certificate": "local",
            }],
            "unrouted": [{"container": "db", "reason": "no host"}],
            "diagnoses": [{
                "container": "web-1",
                "setting": "VIRTUAL_PORT",
                "value": "x",
                "problem": "not a port",
            }],
        });
        assert_eq!(serde_json::to_value(&routes).expect("json"), shape);
    }

    #[test]
    fn the_shape_of_certs() {
        let certificates = vec![Certificate {
            names: vec!["app.test".into()],
            kind: "local".into(),
            issuer: "baton local CA".into(),
            not_after: Some("2026-06-15T15:06:40Z".into()),
            next_renewal: None,
            state: "valid".into(),
            last_error: None,
            next_try: None,
        }];
        let shape = json!([{
            "names": ["app.test"],
            "kind": "local",
            "issuer": "baton local CA",
            "not_after": "2026-06-15T15:06:40Z",
            "next_renewal": null,
            "state": "valid",
            "last_error": null,
            "next_try": null,
        }]);
        assert_eq!(serde_json::to_value(&certificates).expect("json"), shape);
    }
}
