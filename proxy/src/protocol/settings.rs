//! What a worker is started with. A change of any of it needs a new generation of workers.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::access_log::AccessLog;

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerKind {
    /// HTTP/1.1, or HTTP/2 with prior knowledge, in the clear.
    Http,
    /// TLS, then HTTP/2 or HTTP/1.1 as ALPN says.
    Https,
}

impl ListenerKind {
    pub fn as_str(self) -> &'static str {
        match self {
            ListenerKind::Http => "http",
            ListenerKind::Https => "https",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerSettings {
    /// Threads, each with a runtime, a socket per listen address and upstream connections of its own.
    pub threads: usize,
    /// Where plain HTTP is redirected to; `None` without an HTTPS listener.
    pub https_port: Option<u16>,
    /// Peers whose X-Forwarded-* and Forwarded are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Peers that send a PROXY protocol header before everything else; no others may.
    pub proxy_protocol: Vec<IpNet>,
    pub timeouts: Timeouts,
    pub limits: Limits,
    pub hold: Hold,
    pub sandbox: Sandbox,
    pub tls: TlsSettings,
    pub access_log: AccessLog,
    /// Directories beneath which static files are: no others can be opened. Sorted, each once.
    pub static_roots: Vec<PathBuf>,
    /// Level filter for events on stderr, as `RUST_LOG` reads it.
    pub log_level: String,
    /// How upstreams of a pool take turns.
    pub balance: Balance,
}

impl WorkerSettings {
    /// Whether this peer sends a PROXY protocol header.
    pub fn is_balancer(&self, peer: IpAddr) -> bool {
        // A socket of IPv6 shows IPv4 peers as mapped addresses.
        let peer = peer.to_canonical();
        self.proxy_protocol.iter().any(|network| network.contains(&peer))
    }
}

/// Every wait of a worker has a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeouts {
    /// TLS handshake, from accept to the last message.
    pub handshake: Duration,
    /// From the first byte of a request head to its last (408).
    pub header_read: Duration,
    /// Between two requests of a keep-alive connection; HTTP/2 connection without a stream.
    pub keep_alive: Duration,
    /// Between two reads of a request body (408).
    pub body_idle: Duration,
    /// Between two writes that the client takes.
    pub send_idle: Duration,
    /// TCP connect to an upstream, and its TLS handshake.
    pub connect: Duration,
    /// From the sent request to the upstream's response head (504).
    pub response_head: Duration,
    /// Between two reads of an upstream's response body.
    pub response_idle: Duration,
    /// Tunnel without a byte in either direction.
    pub tunnel_idle: Duration,
    /// Kept-alive connection to an upstream without a request.
    pub upstream_keep_alive: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            handshake: Duration::from_secs(10),
            header_read: Duration::from_secs(30),
            keep_alive: Duration::from_secs(75),
            body_idle: Duration::from_secs(60),
            send_idle: Duration::from_secs(60),
            connect: Duration::from_secs(5),
            response_head: Duration::from_secs(60),
            response_idle: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(3600),
            upstream_keep_alive: Duration::from_secs(60),
        }
    }
}

/// Every table and queue of a worker has a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of a request head, request line included (431).
    pub header_bytes: usize,
    /// Fields of a request head (431).
    pub header_count: usize,
    /// Concurrent streams of one HTTP/2 connection (SETTINGS_MAX_CONCURRENT_STREAMS).
    pub streams: u32,
    /// Open connections of the whole worker; accepting pauses at it, or at half of the open files that
    /// the process may have.
    pub connections: usize,
    /// Bytes of a request body (413); 0 is no limit.
    pub body_bytes: u64,
    /// Idle connections kept for each upstream and thread.
    pub upstream_idle: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header_bytes: 32 * 1024,
            header_count: 100,
            streams: 128,
            connections: 100_000,
            body_bytes: 0,
            upstream_idle: 512,
        }
    }
}

/// What a worker may not do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    Off,
    /// System calls that the filter would refuse are logged by the kernel, and made.
    Log,
    /// Every layer that the kernel has.
    #[default]
    On,
    /// Every layer, or the worker does not start.
    Strict,
}

/// Requests whose route nobody answers for at the moment wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hold {
    /// How long one request waits; 0 is not at all.
    pub limit: Duration,
    /// Requests of one route that wait at a time; more are answered 503 at once. The bodies of those
    /// that wait stay with their clients.
    pub requests: usize,
}

impl Default for Hold {
    fn default() -> Self {
        Hold { limit: Duration::from_secs(10), requests: 1000 }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TlsSettings {
    pub profile: TlsProfile,
    /// Refuse a handshake for a name that is not routed (`unrecognized_name`) in place of answering
    /// behind the default certificate.
    pub strict_sni: bool,
}

/// Mozilla's server side TLS profiles, as far as rustls can honour them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsProfile {
    /// TLS 1.3 alone.
    Modern,
    /// TLS 1.2 with ECDHE and AEAD, and TLS 1.3.
    #[default]
    Intermediate,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    #[default]
    RoundRobin,
    /// The upstream with the fewest requests in progress on this thread, for its weight.
    LeastLoaded,
    /// The same upstream for the same client address, while it is up; those of one that goes are spread
    /// over the others, and no more move.
    ClientAddress,
}

impl Balance {
    /// By our names, or those of nginx in nginx-proxy's label `loadbalance`.
    ///
    /// # Errors
    /// The sentence for what is neither; its subject is the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim_end_matches(';').trim_end() {
            "round-robin" | "round_robin" => Ok(Balance::RoundRobin),
            "least-loaded" | "least_conn" => Ok(Balance::LeastLoaded),
            "client-address" | "ip_hash" | "hash $remote_addr" | "hash $remote_addr consistent" => {
                Ok(Balance::ClientAddress)
            }
            _ => Err("is not one of round-robin, least-loaded and client-address".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_worlds() {
        for (text, want) in [
            ("round-robin", Ok(Balance::RoundRobin)),
            ("least_conn;", Ok(Balance::LeastLoaded)),
            ("ip_hash", Ok(Balance::ClientAddress)),
            ("hash $remote_addr;", Ok(Balance::ClientAddress)),
            (
                "hash $request_uri",
                Err("is not one of round-robin, least-loaded and client-address"),
            ),
        ] {
            assert_eq!(Balance::parse(text), want.map_err(str::to_owned), "{text}");
        }
    }
}
