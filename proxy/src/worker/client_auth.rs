//! Certificates that clients have to show, by host: the handshake for a name is held with the
//! verification of that name's host, and a request for a host is served only over a connection that
//! was verified as that host asks.

use std::sync::{Arc, OnceLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::tls;
use crate::protocol::settings::TlsProfile;
use crate::protocol::snapshot;

#[derive(Debug)]
pub struct ClientAuth {
    /// What is asked for, as the snapshot has it: equal in both, a connection of the one host is good
    /// for the other, and for the same host in a newer snapshot.
    pub asked: snapshot::ClientAuth,
    /// None: nobody gets in.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// Made at the first handshake.
    config: OnceLock<Option<Arc<ServerConfig>>>,
}

impl ClientAuth {
    /// Where the CAs cannot be loaded nobody gets in.
    pub fn load(asked: snapshot::ClientAuth, problems: &mut Vec<String>) -> Self {
        let verifier = match asked.ca_pem.is_empty() {
            // The controller knows, and has said so.
            true => None,
            false => verifier(&asked)
                .map_err(|error| problems.push(format!("CAs of clients: {error}")))
                .ok(),
        };
        ClientAuth { asked, verifier, config: OnceLock::new() }
    }

    /// For handshakes with the names of this host; `usual` is what the other ones are held with.
    /// `None`: it is refused.
    pub fn config(&self, usual: &ServerConfig, profile: TlsProfile) -> Option<Arc<ServerConfig>> {
        let make = || Some(tls::verifying(usual, profile, self.verifier.clone()?));
        self.config.get_or_init(make).clone()
    }
}

fn verifier(asked: &snapshot::ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(asked.ca_pem.as_bytes()) {
        let der = der.map_err(|error| error.to_string())?;
        roots.add(der).map_err(|error| error.to_string())?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider());
    let builder = if asked.required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| error.to_string())
}
