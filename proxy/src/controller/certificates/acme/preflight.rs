//! Before the first order of a name: whether the CA could see what it will look for. A validation
//! that fails counts against the CA's limits, a look of our own does not.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nix::ifaddrs::getifaddrs;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::board::{Board, BoardError, server_name};
use super::dns::{DnsError, Names};
use super::record::Answer;
use super::stranger;
use crate::config::ChallengeKind;

/// From the connection to the end of the answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes; ours has 32.
const MAX_ANSWER: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error("{0} has no address in the DNS: add an A or AAAA record that leads to this host")]
    NoAddress(String),
    #[error(
        "{name} does not lead here: {seen}: the CA would see the same \
        (acme.preflight = false orders without asking)"
    )]
    Unseen { name: String, seen: String },
    #[error("{0}")]
    Dns(#[from] DnsError),
    #[error("{0}")]
    Board(#[from] BoardError),
}

pub struct Preflight {
    pub names: Names,
    pub board: Board,
    pub http_port: u16,
    pub tls_port: u16,
}

/// What stands at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sight {
    /// We do.
    Us,
    /// Nobody listens there.
    Refused,
    /// There is no way from here, which says nothing about the CA's.
    NoRoute,
    /// Nothing came in time.
    Silence,
    /// Somebody else does.
    Other(String),
}

/// One address, as seen by one challenge.
struct View {
    address: SocketAddr,
    is_ours: bool,
    sight: Sight,
}

impl Preflight {
    /// The first of these challenges that can work, for a host or an IP address.
    ///
    /// # Errors
    /// When none can, with what was seen instead.
    pub async fn look(
        &self,
        name: &str,
        challenges: &[ChallengeKind],
    ) -> Result<ChallengeKind, PreflightError> {
        let addresses = match name.parse() {
            Ok(address) => vec![address],
            Err(_) => self.names.addresses(name).await?,
        };
        if addresses.is_empty() {
            return Err(PreflightError::NoAddress(name.to_owned()));
        }
        let own = own_addresses();
        let mut seen = Vec::new();
        for kind in challenges {
            let views = self.views(name, *kind, &addresses, &own).await?;
            if is_seen(&views) {
                return Ok(*kind);
            }
            seen.extend(views);
        }
        Err(PreflightError::Unseen { name: name.to_owned(), seen: describe(&seen) })
    }

    /// Hangs a nonce up as if it were an answer, and looks for it at each address.
    async fn views(
        &self,
        name: &str,
        kind: ChallengeKind,
        addresses: &[IpAddr],
        own: &[IpAddr],
    ) -> Result<Vec<View>, PreflightError> {
        let nonce = nonce();
        let (answer, port) = match kind {
            ChallengeKind::Http01 => {
                let (token, key_authorization) = (nonce.clone(), nonce.clone());
                (Answer::Http01 { token, key_authorization }, self.http_port)
            }
            ChallengeKind::TlsAlpn01 => {
                let (identifier, key_authorization) = (name.to_owned(), nonce.clone());
                (Answer::TlsAlpn01 { identifier, key_authorization }, self.tls_port)
            }
            ChallengeKind::Dns01 => return Ok(Vec::new()),
        };
        let answers = [answer];
        let shown = self.board.show(&answers).await;
        let looked = addresses.iter().map(|ip| async {
            let address = SocketAddr::from((*ip, port));
            let is_ours = ip.is_loopback() || own.contains(ip);
            View { address, is_ours, sight: sight(kind, address, name, &nonce).await }
        });
        let views = match shown {
            Ok(()) => Ok(futures_util::future::join_all(looked).await),
            Err(error) => Err(error.into()),
        };
        self.board.take_down(&answers);
        views
    }
}

/// A CA takes any of the addresses, and comes back to none after an answer that is wrong.
fn is_seen(views: &[View]) -> bool {
    let sights = || views.iter().map(|view| &view.sight);
    sights().any(|sight| *sight == Sight::Us)
        && sights().all(|sight| matches!(sight, Sight::Us | Sight::NoRoute))
}

fn describe(views: &[View]) -> String {
    let wrong = views.iter().filter(|view| view.sight != Sight::Us).map(|view| {
        let whose = if view.is_ours { "" } else { " (no address of this host)" };
        let what = match &view.sight {
            Sight::Us => "we answer",
            Sight::Refused => "nobody listens",
            Sight::NoRoute => "there is no route to it",
            Sight::Silence => "nothing answers in time (a firewall, or no port forwarding?)",
            Sight::Other(answer) => {
                return format!(
                    "at {}{whose} port {} somebody else answers ({answer})",
                    view.address.ip(),
                    view.address.port()
                );
            }
        };
        format!("at {}{whose} port {} {what}", view.address.ip(), view.address.port())
    });
    wrong.collect::<Vec<_>>().join(", ")
}

async fn sight(kind: ChallengeKind, address: SocketAddr, name: &str, nonce: &str) -> Sight {
    let look = async {
        let stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) => return unconnected(&error),
        };
        match kind {
            ChallengeKind::TlsAlpn01 => tls_sight(stream, name, nonce).await,
            ChallengeKind::Http01 | ChallengeKind::Dns01 => http_sight(stream, name, nonce).await,
        }
    };
    timeout(LIMIT, look).await.unwrap_or(Sight::Silence)
}

fn unconnected(error: &std::io::Error) -> Sight {
    use std::io::ErrorKind;

    match error.kind() {
        ErrorKind::ConnectionRefused => Sight::Refused,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => Sight::NoRoute,
        ErrorKind::TimedOut => Sight::Silence,
        kind => Sight::Other(kind.to_string()),
    }
}

async fn http_sight(stream: TcpStream, name: &str, nonce: &str) -> Sight {
    match fetch(stream, name, nonce).await {
        Ok((StatusCode::OK, body)) if body == nonce.as_bytes() => Sight::Us,
        Ok((status, _)) => Sight::Other(format!("HTTP {}", status.as_u16())),
        Err(error) => Sight::Other(error.to_string()),
    }
}

async fn fetch(
    stream: TcpStream,
    name: &str,
    nonce: &str,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let host = match name.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => name.to_owned(),
    };
    let request = Request::get(format!("/.well-known/acme-challenge/{nonce}"))
        .header(http::header::HOST, host)
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok((head.status, Limited::new(body, MAX_ANSWER).collect().await?.to_bytes()))
    };
    // The connection is driven as long as its one answer is waited for.
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = connection => {
            ended?;
            exchange.await
        }
    }
}

async fn tls_sight(stream: TcpStream, name: &str, nonce: &str) -> Sight {
    let connector = TlsConnector::from(Arc::new(stranger::acme_tls_client()));
    let Ok(name) = ServerName::try_from(server_name(name)) else {
        return Sight::Other("a name that TLS does not know".to_owned());
    };
    let connection = match connector.connect(name, stream).await {
        Ok(connection) => connection,
        Err(error) => return Sight::Other(format!("TLS: {error}")),
    };
    let digest = digest(&SHA256, nonce.as_bytes());
    let certificates = connection.get_ref().1.peer_certificates().unwrap_or_default();
    // RFC 8737 section 3: it stands in an extension, and by chance nowhere.
    let has_it = certificates.first().is_some_and(|leaf| {
        leaf.windows(digest.as_ref().len()).any(|part| part == digest.as_ref())
    });
    if has_it { Sight::Us } else { Sight::Other("TLS with another certificate".to_owned()) }
}

/// Of the interfaces; where they cannot be listed, none is known to be ours.
fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let address = |storage: nix::sys::socket::SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    interfaces.filter_map(|interface| interface.address.and_then(address)).collect()
}

fn nonce() -> String {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).expect("the kernel has random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(address: &str, is_ours: bool, sight: Sight) -> View {
        View { address: address.parse().expect("address"), is_ours, sight }
    }

    #[test]
    fn every_address_that_can_be_reached_must_be_ours() {
        let other = || Sight::Other("HTTP 404".to_owned());
        for (sights, want) in [
            (vec![Sight::Us], true),
            (vec![Sight::Us, Sight::Us], true),
            (vec![Sight::Us, Sight::NoRoute], true),
            (vec![Sight::NoRoute], false),
            (vec![Sight::Us, Sight::Refused], false),
            (vec![Sight::Us, other()], false),
            (vec![Sight::Silence], false),
            (vec![], false),
        ] {
            let views: Vec<_> =
                sights.iter().map(|sight| view("192.0.2.1:80", true, sight.clone())).collect();
            assert_eq!(is_seen(&views), want, "{sights:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_plain_words() {
        let views = [
            view("192.0.2.1:80", true, Sight::Refused),
            view("192.0.2.2:80", false, Sight::Other("HTTP 404".to_owned())),
            view("192.0.2.3:80", true, Sight::Us),
            view("[2001:db8::1]:443", false, Sight::Silence),
        ];
        assert_eq!(
            describe(&views),
            "at 192.0.2.1 port 80 nobody listens, \
             at 192.0.2.2 (no address of this host) port 80 somebody else answers (HTTP 404), \
             at 2001:db8::1 (no address of this host) port 443 nothing answers in time \
             (a firewall, or no port forwarding?)"
        );
    }
}
