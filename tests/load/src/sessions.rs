//! TLS sessions that a client resumes, and the claim that it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustls::client::Resumption;
use rustls::{ClientConfig, HandshakeKind};

use crate::failure::{Cause, Failure};

/// Of one server.
const KEPT: usize = 1;

#[derive(Debug)]
pub(crate) struct Sessions {
    /// The same for all connections: rustls resumes with the configuration that a session began with.
    pub(crate) config: Arc<ClientConfig>,
    begun: AtomicBool,
}

impl Sessions {
    pub(crate) fn new(mut config: ClientConfig) -> Self {
        config.resumption = Resumption::in_memory_sessions(KEPT);
        Sessions { config: Arc::new(config), begun: AtomicBool::new(false) }
    }

    /// The first handshake begins a session. A later one that resumes none has failed.
    pub(crate) fn check(&self, kind: Option<HandshakeKind>) -> Result<(), Failure> {
        if kind == Some(HandshakeKind::Resumed) || !self.begun.swap(true, Relaxed) {
            return Ok(());
        }
        Err(Failure::new(Cause::Tls, "the session was not resumed"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, HandshakeKind, RootCertStore};

    use super::Sessions;

    #[test]
    fn the_first_handshake_may_be_a_full_one_and_no_other() {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let sessions = Sessions::new(config);
        assert!(sessions.check(Some(HandshakeKind::Full)).is_ok());
        assert!(sessions.check(Some(HandshakeKind::Resumed)).is_ok());
        assert!(sessions.check(Some(HandshakeKind::Full)).is_err());
        assert!(sessions.check(Some(HandshakeKind::Resumed)).is_ok());
    }
}
