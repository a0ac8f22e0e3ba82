//! Answers for a CA that looks whether its challenge was met: over plain HTTP by token, and in a TLS
//! handshake by name. They come with the snapshot and before any routing.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_acme::acme::ACME_TLS_ALPN_NAME;

use super::table::Table;
use super::tls::{chain_and_key, provider};
use crate::protocol::snapshot;

/// Before the token (RFC 8555 section 8.3).
const PATH: &[u8] = b"/.well-known/acme-challenge/";

pub use rustls_acme::is_tls_alpn_challenge;

#[derive(Debug, Default)]
pub struct Challenges {
    http01: HashMap<Box<[u8]>, Bytes>,
    tls_alpn01: HashMap<Box<str>, Arc<CertifiedKey>>,
}

impl Challenges {
    /// Loads what can be loaded.
    pub fn load(challenges: snapshot::Challenges, problems: &mut Vec<String>) -> Self {
        let http01 = challenges.http01.into_iter();
        let mut loaded = Challenges {
            http01: http01
                .map(|(token, answer)| (token.into_bytes().into(), answer.into()))
                .collect(),
            tls_alpn01: HashMap::new(),
        };
        for certificate in challenges.tls_alpn01 {
            match certified_key(&certificate) {
                Ok(key) => {
                    let key = Arc::new(key);
                    let names = certificate.names.into_iter();
                    loaded.tls_alpn01.extend(names.map(|name| (name.into(), key.clone())));
                }
                Err(error) => {
                    let names = certificate.names.join(", ");
                    problems.push(format!("challenge certificate {names}: {error}"));
                }
            }
        }
        loaded
    }

    /// The key authorization for a request of this path. A token that is not ours may be that of
    /// another ACME client, in a container: its request is routed like any other.
    pub fn http01(&self, path: &[u8]) -> Option<Bytes> {
        if self.http01.is_empty() {
            return None;
        }
        self.http01.get(path.strip_prefix(PATH)?).cloned()
    }
}

/// Unchecked: to rustls a critical extension that it does not know makes a certificate invalid, and
/// the CA looks at that very extension.
fn certified_key(certificate: &snapshot::Certificate) -> Result<CertifiedKey, String> {
    let (chain, key) = chain_and_key(certificate)?;
    let key = provider().key_provider.load_private_key(key).map_err(|error| error.to_string())?;
    Ok(CertifiedKey::new(chain, key))
}

/// Answers by the certificate of the challenge, and with nothing where there is none for the name.
#[derive(Debug)]
struct FromChallenges(Arc<ArcSwap<Table>>);

impl ResolvesServerCert for FromChallenges {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.to_ascii_lowercase();
        self.0.load().challenges.tls_alpn01.get(name.as_str()).cloned()
    }
}

/// For handshakes that offer `acme-tls/1` alone (RFC 8737 section 3); the CA closes after it.
pub fn server_config(table: Arc<ArcSwap<Table>>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has a cipher suite for each version")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(FromChallenges(table)));
    config.alpn_protocols = vec![ACME_TLS_ALPN_NAME.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_and_nothing_else_is_answered() {
        let http01 = [("token".to_owned(), "token.thumbprint".to_owned())].into();
        let sent = snapshot::Challenges { http01, tls_alpn01: Vec::new() };
        let challenges = Challenges::load(sent, &mut Vec::new());
        for (path, want) in [
            ("/.well-known/acme-challenge/token", Some("token.thumbprint")),
            ("/.well-known/acme-challenge/token/", None),
            ("/.well-known/acme-challenge/", None),
            ("/.well-known/acme-challenge/other", None),
            ("/token", None),
        ] {
            let got = challenges.http01(path.as_bytes());
            assert_eq!(got.as_deref(), want.map(str::as_bytes), "{path}");
        }
    }
}
