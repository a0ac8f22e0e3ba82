//! A container as routing needs it, and nothing more of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The environment variables that containers speak to baton with. Any other may be a secret and is
/// dropped as it is read.
pub const VARIABLES: &[&str] = &[
    "ACME_CA_URI",
    "ACME_CERT_PROFILE",
    "ACME_CHALLENGE",
    "ACME_EAB_HMAC_KEY",
    "ACME_EAB_KID",
    "ACME_EMAIL",
    "ACME_HOST",
    "ACME_KEYSIZE",
    "ACME_PREFERRED_CHAIN",
    "ACME_SINGLE_DOMAIN_CERTS",
    "CERT_NAME",
    "DEFAULT_ROOT",
    "ENABLE_HTTP_ON_MISSING_CERT",
    "EXTERNAL_HTTPS_PORT",
    "EXTERNAL_HTTP_PORT",
    "HSTS",
    "HTTPS_METHOD",
    "LETSENCRYPT_EMAIL",
    "LETSENCRYPT_HOST",
    "LETSENCRYPT_KEYSIZE",
    "LETSENCRYPT_SINGLE_DOMAIN_CERTS",
    "LETSENCRYPT_TEST",
    "NETWORK_ACCESS",
    "NON_GET_REDIRECT",
    "SSL_POLICY",
    "VIRTUAL_DEST",
    "VIRTUAL_HOST",
    "VIRTUAL_HOST_MULTIPORTS",
    "VIRTUAL_PATH",
    "VIRTUAL_PORT",
    "VIRTUAL_PROTO",
];

/// Prefix of baton's own labels.
pub const LABEL_PREFIX: &str = "baton.";
/// Prefix of the labels of nginx-proxy.
pub const NGINX_PROXY_PREFIX: &str = "com.github.nginx-proxy.nginx-proxy.";
/// The compose project of a container, as compose itself sets it.
pub const PROJECT_LABEL: &str = "com.docker.compose.project";

/// Whether a label is baton's, nginx-proxy's or the compose project; others are dropped.
pub fn is_kept_label(name: &str) -> bool {
    name == PROJECT_LABEL || name.starts_with(LABEL_PREFIX) || name.starts_with(NGINX_PROXY_PREFIX)
}

/// A container that the daemon calls running.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    pub id: String,
    /// Without the leading slash.
    pub name: String,
    /// Unix time in nanoseconds: two containers of one compose file share the second.
    pub created: i64,
    /// As the daemon writes it: tells one run of a container from the next.
    pub started_at: String,
    pub image: Option<String>,
    /// Those of [`VARIABLES`] that are set.
    pub env: BTreeMap<String, String>,
    /// baton's, nginx-proxy's and the compose project.
    pub labels: BTreeMap<String, String>,
    /// Sorted by name.
    pub networks: Vec<Network>,
    /// Shares the network namespace of the host.
    pub host_network: bool,
    pub exposed: BTreeSet<Port>,
    pub state: State,
    pub health: Health,
    /// Was sent the signal that stops it.
    pub stopping: bool,
    /// What stops it beside the usual signals.
    pub stop_signal: Option<i32>,
    /// How long the daemon waits after that signal before it kills, in seconds; `None`: 10.
    pub stop_timeout: Option<u32>,
}

impl Container {
    /// The compose project that it belongs to.
    pub fn project(&self) -> Option<&str> {
        self.labels.get(PROJECT_LABEL).map(String::as_str).filter(|project| !project.is_empty())
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub name: String,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    pub number: u16,
    pub udp: bool,
}

/// The kinds of running.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    #[default]
    Running,
    /// Frozen: its kernel accepts connections that nobody answers.
    Paused,
    /// Ended, and the daemon waits before it starts it again.
    Restarting,
    /// Not any more: it has ended, or the daemon does not know it. Only in the memory of those who
    /// remember it (`vacancies`).
    Gone,
}

/// What the container's HEALTHCHECK says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It has none.
    #[default]
    None,
    Starting,
    Healthy,
    Unhealthy,
}
