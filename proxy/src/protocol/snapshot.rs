//! The snapshot: everything that a worker routes by. Immutable; swapped whole.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use super::default_root::DefaultRoot;
use super::options::Options;
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
    /// What TLS session tickets are sealed with, newest first: the first one seals, each one opens.
    /// Empty means no tickets.
    pub ticket_keys: Vec<TicketKey>,
    /// What cookies of sticky routes are made with; `None` where there are none.
    pub sticky_key: Option<StickyKey>,
    /// What a CA that looks is answered.
    pub challenges: Challenges,
    /// Answers for names that no host has, in place of a 503.
    pub fallback: Option<Box<Host>>,
    /// Pages for errors by status (`502`) or class (`5xx`), by the name of their set; that without a
    /// name is for the routes that name none.
    pub error_pages: BTreeMap<String, BTreeMap<String, String>>,
}

/// Answers to the challenges of orders that are under way. Every worker that shares a port has them
/// before the CA is told to look.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Challenges {
    /// HTTP-01 (RFC 8555 section 8.3): key authorization by token.
    pub http01: BTreeMap<String, String>,
    /// TLS-ALPN-01 (RFC 8737): each for the one server name that the CA asks for.
    pub tls_alpn01: Vec<Certificate>,
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
    /// 503 over plain HTTP, too, while there is no certificate.
    #[serde(default)]
    pub needs_certificate: bool,
    /// Status of a redirect to HTTPS where the method is neither GET nor HEAD: 301, 307 or 308.
    #[serde(default = "moved_permanently")]
    pub non_get_redirect: u16,
    /// Port that a redirect to HTTPS names; `None`: the one that is listened on.
    #[serde(default)]
    pub https_port: Option<u16>,
    /// Value of Strict-Transport-Security over HTTPS; `None`: no such field.
    #[serde(default)]
    pub hsts: Option<String>,
    /// What clients have to show over HTTPS; `None`: nothing.
    #[serde(default)]
    pub client_auth: Option<ClientAuth>,
    /// Its upstreams end TLS: what comes for its name goes to those of `/`, byte by byte.
    #[serde(default)]
    pub passthrough: bool,
    #[serde(default)]
    pub intervention: Option<Intervention>,
    /// For paths that nobody claims.
    #[serde(default)]
    pub default_root: DefaultRoot,
    /// Each path pattern once.
    pub routes: Vec<Route>,
}

impl Host {
    /// As it answers for names that no host has: no certificate speaks for them, so that nobody is sent
    /// to HTTPS, and whoever comes by it has put up with that.
    pub fn as_fallback(&self) -> Host {
        let https = match self.https {
            HttpsMethod::Redirect => HttpsMethod::NoRedirect,
            other => other,
        };
        Host { https, trusted: true, needs_certificate: false, hsts: None, ..self.clone() }
    }
}

#[cfg(any(test, fuzzing))]
impl Host {
    /// One of which nothing is said.
    pub fn new(pattern: &str, routes: Vec<Route>) -> Self {
        Host {
            pattern: pattern.parse().expect("pattern"),
            https: HttpsMethod::default(),
            trusted: false,
            needs_certificate: false,
            non_get_redirect: moved_permanently(),
            https_port: None,
            hsts: None,
            client_auth: None,
            passthrough: false,
            intervention: None,
            default_root: DefaultRoot::default(),
            routes,
        }
    }
}

fn moved_permanently() -> u16 {
    301
}

/// What a person has told a host to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intervention {
    /// Requests wait, until then at most: also where nobody is left to end it.
    Pause { until: SystemTime },
    /// Every request is answered 503.
    Maintenance(Maintenance),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// HTML of its own.
    pub page: Option<String>,
}

/// Certificates of clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientAuth {
    /// The CAs that may have signed them, as PEM. Without one that can be used nobody gets in.
    pub ca_pem: String,
    /// `false`: a client may come without one.
    pub required: bool,
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

impl HttpsMethod {
    /// As nginx-proxy's HTTPS_METHOD has it.
    pub fn as_str(self) -> &'static str {
        match self {
            HttpsMethod::Redirect => "redirect",
            HttpsMethod::NoRedirect => "noredirect",
            HttpsMethod::NoHttp => "nohttp",
            HttpsMethod::NoHttps => "nohttps",
        }
    }
}

/// One path of one host, and who answers for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub path: PathPattern,
    /// Replaces the matched prefix in the request that goes upstream. Never set with a regular
    /// expression.
    #[serde(default)]
    pub replace_prefix: Option<String>,
    /// What it does beside forwarding.
    #[serde(default, skip_serializing_if = "Options::is_off")]
    pub options: Options,
    /// The pool: those in rotation now. Empty means that the route is known and nobody is up.
    pub upstreams: Vec<Upstream>,
    /// Somebody is up, or was a moment ago: where nobody answers, requests wait for the next one.
    #[serde(default)]
    pub hold: bool,
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
    /// With or without TLS.
    pub fn is_http1(self) -> bool {
        matches!(self, UpstreamProtocol::Http | UpstreamProtocol::Https)
    }

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

/// An AES-256 key for session tickets. Every worker has the same ones, so that a session resumes
/// with whichever process accepts the next connection.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKey {
    /// Stands in the clear in front of each ticket, and says nothing of the secret.
    #[serde(with = "base64_bytes")]
    pub name: [u8; 16],
    #[serde(with = "base64_bytes")]
    pub secret: [u8; 32],
    /// From then on it neither seals nor opens, even where no newer snapshot has taken it away.
    pub not_after: SystemTime,
}

impl std::fmt::Debug for TicketKey {
    // The secret must never reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TicketKey").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// A key that all workers share, over handoffs, upgrades and boots.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StickyKey {
    #[serde(with = "base64_bytes")]
    pub secret: [u8; 32],
}

impl std::fmt::Debug for StickyKey {
    // The secret must never reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StickyKey").finish_non_exhaustive()
    }
}

/// Bytes of a fixed number, as base64 in the frames.
mod base64_bytes {
    use base64::prelude::{BASE64_STANDARD, Engine};
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(deserializer)?;
        // The text may be a secret: no error repeats it.
        let bytes = BASE64_STANDARD.decode(text).map_err(|_| D::Error::custom("not base64"))?;
        bytes.try_into().map_err(|_| D::Error::custom(format_args!("expected {N} bytes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn with_a_ticket_key() -> Snapshot {
        let key = TicketKey {
            name: [1; 16],
            secret: [222; 32],
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        };
        Snapshot { version: 1, ticket_keys: vec![key], ..Snapshot::default() }
    }

    #[test]
    fn ticket_keys_cross_the_channel() {
        let sent = with_a_ticket_key();
        let frame = serde_json::to_string(&sent).expect("it serialises");
        let received: Snapshot = serde_json::from_str(&frame).expect("it parses");
        assert_eq!(received, sent);
    }

    #[test]
    fn a_controller_without_ticket_keys_is_understood() {
        let received: Snapshot =
            serde_json::from_str(r#"{"version":1,"hosts":[],"certificates":[]}"#).expect("parses");
        assert_eq!(received.ticket_keys, []);
    }

    #[test]
    fn key_bytes_reach_neither_logs_nor_errors() {
        let sent = with_a_ticket_key();
        for shown in [format!("{sent:?}"), format!("{sent:#?}")] {
            assert!(!shown.contains("222"), "{shown}");
        }
        // 32 bytes of 222 begin with this.
        let mangled = serde_json::to_string(&sent).expect("it serialises").replace("3t7e", "3t7e!");
        let error = serde_json::from_str::<Snapshot>(&mangled).expect_err("it is mangled");
        assert!(!error.to_string().contains("3t7e"), "{error}");
        assert!(error.to_string().contains("not base64"), "{error}");
    }
}
