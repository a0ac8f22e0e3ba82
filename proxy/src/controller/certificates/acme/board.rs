//! Where answers to challenges hang: in the snapshot of every worker that a CA might reach. Only once
//! each of them has taken it may the CA be told to look.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Stock;
use super::record::Answer;
use crate::controller::generations::Fleet;
use crate::protocol::snapshot::{Certificate, Challenges, Snapshot};

/// For the answers to be published; after an upgrade that waits for Docker's first list.
const PUBLISH_LIMIT: Duration = Duration::from_secs(30);
/// For a worker to take what was published.
const APPLY_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    #[error("the challenge certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("the answer to the challenge was not published within {} s", PUBLISH_LIMIT.as_secs())]
    NotPublished,
    #[error("generation {generation} did not take the answer to the challenge within {} s",
        APPLY_LIMIT.as_secs())]
    NotTaken { generation: u64 },
}

#[derive(Debug, Clone)]
pub struct Board {
    pub stock: watch::Sender<Arc<Stock>>,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub fleet: watch::Receiver<Arc<Fleet>>,
}

impl Board {
    /// Hangs up the answers, and returns when every worker has them.
    ///
    /// # Errors
    /// When one has not in time: the CA must not be told to look.
    pub async fn show(&self, answers: &[Answer]) -> Result<(), BoardError> {
        let mut challenges = Challenges::default();
        for answer in answers {
            put(answer, &mut challenges)?;
        }
        self.stock.send_modify(|stock| {
            let shown = &mut Arc::make_mut(stock).challenges;
            shown.http01.extend(challenges.http01.clone());
            shown
                .tls_alpn01
                .retain(|old| challenges.tls_alpn01.iter().all(|new| new.names != old.names));
            shown.tls_alpn01.extend(challenges.tls_alpn01.clone());
            shown.tls_alpn01.sort_by(|a, b| a.names.cmp(&b.names));
        });
        let version = self.published(&challenges).await?;
        self.taken(version).await
    }

    pub fn take_down(&self, answers: &[Answer]) {
        self.stock.send_modify(|stock| {
            let shown = &mut Arc::make_mut(stock).challenges;
            for answer in answers {
                match answer {
                    Answer::Http01 { token, .. } => drop(shown.http01.remove(token)),
                    Answer::TlsAlpn01 { identifier, .. } => {
                        let name = server_name(identifier);
                        shown.tls_alpn01.retain(|shown| shown.names != [name.as_str()]);
                    }
                    Answer::Dns01 { .. } => {}
                }
            }
        });
    }

    /// The first snapshot that has all of them.
    async fn published(&self, challenges: &Challenges) -> Result<u64, BoardError> {
        let has_all = |snapshot: &Arc<Snapshot>| {
            let Challenges { http01, tls_alpn01 } = &snapshot.challenges;
            challenges.http01.iter().all(|(token, answer)| http01.get(token) == Some(answer))
                && challenges.tls_alpn01.iter().all(|shown| tls_alpn01.contains(shown))
        };
        let mut snapshots = self.snapshots.clone();
        match timeout(PUBLISH_LIMIT, snapshots.wait_for(has_all)).await {
            Ok(Ok(snapshot)) => Ok(snapshot.version),
            Ok(Err(_)) | Err(_) => Err(BoardError::NotPublished),
        }
    }

    /// A generation that starts meanwhile gets no connection before it has the newest snapshot.
    async fn taken(&self, version: u64) -> Result<(), BoardError> {
        let fleet = self.fleet.borrow().clone();
        for worker in fleet.draining.iter().chain(&fleet.canary).chain([&fleet.active]) {
            let mut worker = worker.clone();
            if !worker.applied(version, APPLY_LIMIT).await && !worker.is_gone() {
                return Err(BoardError::NotTaken { generation: worker.generation() });
            }
        }
        Ok(())
    }
}

/// Makes of an answer what a worker shows.
pub fn put(answer: &Answer, challenges: &mut Challenges) -> Result<(), rcgen::Error> {
    match answer {
        Answer::Http01 { token, key_authorization } => {
            challenges.http01.insert(token.clone(), key_authorization.clone());
        }
        Answer::TlsAlpn01 { identifier, key_authorization } => {
            challenges.tls_alpn01.push(challenge_certificate(identifier, key_authorization)?);
        }
        // The DNS shows it, no worker.
        Answer::Dns01 { .. } => {}
    }
    Ok(())
}

/// RFC 8737 section 3: self-signed, for the one identifier, with the digest of the key authorization.
/// As rustls-acme makes it, whose own keeps the key to the process that made it.
fn challenge_certificate(
    identifier: &str,
    key_authorization: &str,
) -> Result<Certificate, rcgen::Error> {
    let digest = digest(&SHA256, key_authorization.as_bytes());
    let mut params = CertificateParams::new(vec![identifier.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest.as_ref())];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok(Certificate {
        names: vec![server_name(identifier)],
        chain_pem: params.self_signed(&key)?.pem(),
        key_pem: key.serialize_pem(),
    })
}

/// What the CA asks for in its ClientHello: the name, or for an address its name in reverse DNS (RFC
/// 8738 section 6).
pub fn server_name(identifier: &str) -> String {
    match identifier.parse() {
        Ok(IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        Ok(IpAddr::V6(address)) => {
            let nibbles =
                address.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
        }
        Err(_) => identifier.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_asked_for_in_reverse() {
        for (identifier, want) in [
            ("a.example.com", "a.example.com"),
            ("192.0.2.1", "1.2.0.192.in-addr.arpa"),
            (
                "2001:db8::1",
                "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
            ),
        ] {
            assert_eq!(server_name(identifier), want);
        }
    }
}
