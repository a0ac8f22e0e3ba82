//! TLS towards clients: one server configuration whose certificates and ticket keys come from the
//! snapshot.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::table::Table;
use super::tickets::Tickets;
use crate::protocol::settings::{TlsProfile, TlsSettings};
use crate::protocol::snapshot::Certificate;
use crate::protocol::upstream_tls::{ALPN_HTTP1, ALPN_HTTP2};

/// After each TLS 1.3 handshake. A client uses a ticket once (RFC 8446 appendix C.4), and Chromium
/// keeps two for each server: with one, the second of two connections opened together would be a
/// full handshake. More would be sealed and sent to be thrown away.
const TLS13_TICKETS: usize = 2;

/// Index of a certificate in [`Certificates`]; 0 is the default one.
pub type CertificateIndex = usize;

/// Certificates by name.
#[derive(Debug, Default)]
pub struct Certificates {
    keys: Vec<Arc<CertifiedKey>>,
    exact: HashMap<Box<str>, CertificateIndex>,
    /// By parent name: `*.example.com` stands under `example.com`.
    wildcard: HashMap<Box<str>, CertificateIndex>,
    /// The first one for an IP address: clients that ask for one name nothing (RFC 6066 section 3).
    nameless: Option<CertificateIndex>,
}

impl Certificates {
    /// Loads what can be loaded. The first certificate of a name stands.
    pub fn load(certificates: Vec<Certificate>, problems: &mut Vec<String>) -> Self {
        let mut loaded = Certificates::default();
        for certificate in certificates {
            let key = match certified_key(&certificate) {
                Ok(key) => Arc::new(key),
                Err(error) => {
                    problems.push(format!("certificate {}: {error}", certificate.names.join(", ")));
                    continue;
                }
            };
            let index = loaded.keys.len();
            loaded.keys.push(key);
            if index == 0 {
                // The default certificate answers for what no other one covers; its own names are
                // of no interest.
                continue;
            }
            if certificate.names.iter().any(|name| name.parse::<IpAddr>().is_ok()) {
                loaded.nameless.get_or_insert(index);
            }
            for name in certificate.names {
                match name.strip_prefix("*.") {
                    Some(parent) => loaded.wildcard.entry(parent.into()).or_insert(index),
                    None => loaded.exact.entry(name.into()).or_insert(index),
                };
            }
        }
        loaded
    }

    /// The certificate for a normal host name: exact, else its parent's wildcard (RFC 9525 section
    /// 6.3: one label), else the default.
    pub fn find(&self, name: &str) -> CertificateIndex {
        if name.is_empty() {
            return self.nameless.unwrap_or(0);
        }
        let exact = self.exact.get(name);
        exact
            .or_else(|| name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent)))
            .copied()
            .unwrap_or(0)
    }

    fn key(&self, index: CertificateIndex) -> Option<Arc<CertifiedKey>> {
        self.keys.get(index).cloned()
    }
}

fn certified_key(certificate: &Certificate) -> Result<CertifiedKey, String> {
    let (chain, key) = chain_and_key(certificate)?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|e| e.to_string())
}

pub fn chain_and_key(
    certificate: &Certificate,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain = CertificateDer::pem_slice_iter(certificate.chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| e.to_string())?;
    let key =
        PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes()).map_err(|e| e.to_string())?;
    Ok((chain, key))
}

/// Looks certificates up in the snapshot that is current when the handshake comes.
#[derive(Debug)]
struct FromTable(Arc<ArcSwap<Table>>);

impl ResolvesServerCert for FromTable {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.0.load();
        let name = hello.server_name().map(str::to_ascii_lowercase).unwrap_or_default();
        table.certificates.key(table.certificates.find(&name))
    }
}

/// The one configuration of all handshakes with the public.
pub fn server_config(settings: &TlsSettings, table: Arc<ArcSwap<Table>>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(settings.profile))
        .expect("the provider has a cipher suite for each version")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(FromTable(table.clone())));
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
    // The order of suites is ours where the client has no preference that matters (no AES).
    config.ignore_client_order = false;
    config.ticketer = Arc::new(Tickets::new(table));
    config.send_tls13_tickets = TLS13_TICKETS;
    // Sessions are in tickets or nowhere: what a process remembers ends with it, and rustls' own
    // store is a lock that all threads share.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}

static MODERN: [&SupportedProtocolVersion; 1] = [&TLS13];
static INTERMEDIATE: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

fn versions(profile: TlsProfile) -> &'static [&'static SupportedProtocolVersion] {
    match profile {
        TlsProfile::Modern => &MODERN,
        TlsProfile::Intermediate => &INTERMEDIATE,
    }
}

/// As `usual`, for a host whose clients have to show a certificate. It knows no tickets: a session
/// that was begun without a certificate, or with one of a CA that is not asked for any more, must not
/// be resumed past the verification.
pub fn verifying(
    usual: &ServerConfig,
    profile: TlsProfile,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(usual.crypto_provider().clone())
        .with_protocol_versions(versions(profile))
        .expect("the provider has a cipher suite for each version")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(usual.cert_resolver.clone());
    config.alpn_protocols.clone_from(&usual.alpn_protocols);
    config.ignore_client_order = usual.ignore_client_order;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
