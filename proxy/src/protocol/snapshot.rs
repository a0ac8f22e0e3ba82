//! The snapshot: everything that a worker routes by. Immutable; swapped whole.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

use super::pattern::{HostPattern, PathPattern};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// Grows by one with each snapshot of one controller.
    pub version: u64,
    /// Each pattern once.
    pub hosts: Vec<Host>,
    /// The first one is the default certificate; never empty in a snapshot that is sent.
    pub certificates: Vec<Certificate>,
}

/// All routes of one host pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub pattern: HostPattern,
    /// How plain HTTP and HTTPS of this host relate.
    #[serde(default)]
    pub https: HttpsMethod,
    /// Clients can be expected to trust a certificate that the snapshot has for this host.
    #[serde(default)]
    pub trusted: bool,
    /// Each path pattern once.
    pub routes: Vec<Route>,
}

/// nginx-proxy's HTTPS_METHOD.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpsMethod {
    /// Plain HTTP is answered by a redirect once there is a certificate.
    #[default]
    Redirect,
    /// Both are served.
    NoRedirect,
    /// HTTPS alone; 503 over plain HTTP.
    NoHttp,
    /// Plain HTTP alone; 503 over HTTPS.
    NoHttps,
}

/// One path of one host, and who answers for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub path: PathPattern,
    /// Replaces the matched prefix in the request that goes upstream. Never set with a regular
    /// expression.
    #[serde(default)]
    pub replace_prefix: Option<String>,
    /// The pool: those in rotation now. Empty means that the route is known and nobody is up.
    pub upstreams: Vec<Upstream>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Upstream {
    /// For people: the container's name, or the address as the configuration has it.
    pub name: String,
    pub address: SocketAddr,
    #[serde(default)]
    pub protocol: UpstreamProtocol,
    /// Share of requests relative to the pool, 1 to 100.
    #[serde(default = "one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamProtocol {
    /// HTTP/1.1 in the clear.
    #[default]
    Http,
    /// HTTP/1.1 over TLS; the certificate is not verified.
    Https,
    /// HTTP/2 with prior knowledge in the clear.
    Grpc,
    /// HTTP/2 over TLS; the certificate is not verified.
    Grpcs,
}

impl UpstreamProtocol {
    pub fn as_str(self) -> &'static str {
        match self {
            UpstreamProtocol::Http => "http",
            UpstreamProtocol::Https => "https",
            UpstreamProtocol::Grpc => "grpc",
            UpstreamProtocol::Grpcs => "grpcs",
        }
    }
}

/// A certificate chain with its private key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// DNS names (wildcards as `*.example.com`) and IP addresses that it is good for, lower case.
    pub names: Vec<String>,
    /// The chain as PEM, leaf first.
    pub chain_pem: String,
    /// The key as PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Certificate {
    // The key must never reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}
