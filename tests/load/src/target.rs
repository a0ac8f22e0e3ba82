//! Where the load goes: an address, the host to ask for, and whom to trust.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::failure::{Cause, Failure};
use crate::sessions::Sessions;

/// From SYN to the last message of the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Target {
    pub address: SocketAddr,
    /// Host field, `:authority`, and SNI where TLS is spoken. May carry a port.
    pub host: String,
    /// Roots to verify the server by; `None` is plain HTTP.
    pub tls: Option<Arc<RootCertStore>>,
    /// Sessions to resume; `None` is a full handshake each time.
    sessions: Option<Arc<Sessions>>,
    one_suite: bool,
}

/// A byte stream in the clear or not.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}
pub type Stream = Box<dyn Duplex>;

impl Target {
    pub fn plain(address: SocketAddr, host: impl Into<String>) -> Self {
        Target { address, host: host.into(), tls: None, sessions: None, one_suite: false }
    }

    pub fn tls(address: SocketAddr, host: impl Into<String>, roots: Arc<RootCertStore>) -> Self {
        Target { address, host: host.into(), tls: Some(roots), sessions: None, one_suite: false }
    }

    /// Offers TLS 1.3 with AES-128-GCM and X25519, and nothing else: the same work whatever a server
    /// would prefer.
    #[must_use]
    pub fn one_suite(self) -> Self {
        Target { one_suite: true, ..self }
    }

    /// The same, but every connection after the first one resumes a session. Of this protocol alone.
    pub(crate) fn resuming(&self, alpn: &str) -> Self {
        let sessions = |roots| Arc::new(Sessions::new(self.config(roots, alpn)));
        Target { sessions: self.tls.clone().map(sessions), ..self.clone() }
    }

    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Connects, and does the TLS handshake where one is due, offering this one protocol by ALPN.
    ///
    /// # Errors
    /// As a client feels it: refused, reset, timeout, TLS; or a server that chose another protocol.
    pub async fn connect(&self, alpn: &str) -> Result<Stream, Failure> {
        tokio::time::timeout(CONNECT_TIMEOUT, self.connect_unbounded(alpn))
            .await
            .unwrap_or_else(|_| Err(Failure::timeout("connection")))
    }

    async fn connect_unbounded(&self, alpn: &str) -> Result<Stream, Failure> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let Some(roots) = &self.tls else { return Ok(Box::new(stream)) };
        let config = match &self.sessions {
            Some(sessions) => sessions.config.clone(),
            None => Arc::new(self.config(roots.clone(), alpn)),
        };
        let connector = TlsConnector::from(config);
        let name = self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, _)| name);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|e| Failure::new(Cause::Tls, format!("{name}: {e}")))?;
        let stream = connector.connect(name, stream).await?;
        if let Some(sessions) = &self.sessions {
            sessions.check(stream.get_ref().1.handshake_kind())?;
        }
        match stream.get_ref().1.alpn_protocol() {
            Some(chosen) if chosen != alpn.as_bytes() => Err(Failure::new(
                Cause::Tls,
                format!("ALPN chose {} and not {alpn}", chosen.escape_ascii()),
            )),
            None if alpn == "h2" => Err(Failure::new(Cause::Tls, "ALPN chose nothing, not h2")),
            _ => Ok(Box::new(stream)),
        }
    }

    fn config(&self, roots: Arc<RootCertStore>, alpn: &str) -> ClientConfig {
        let mut provider = aws_lc_rs::default_provider();
        if self.one_suite {
            provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
            provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        }
        let versions = if self.one_suite { &[&TLS13][..] } else { rustls::DEFAULT_VERSIONS };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .expect("the provider has suites for these versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        // Every connection is a full handshake: load is not to depend on the order of its clients.
        config.resumption = Resumption::disabled();
        config
    }
}

/// Roots from a PEM file's content, such as the local CA's.
///
/// # Errors
/// When there is no certificate in it, or one that cannot be read.
pub fn roots_from_pem(pem: &[u8]) -> io::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    if roots.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no certificate in the PEM"));
    }
    Ok(Arc::new(roots))
}
