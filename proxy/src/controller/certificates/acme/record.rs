//! What is known of one certificate: the one in hand, the order under way, and what went wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::failures::Failure;
use super::renewal::{self, Life, Window};
use crate::config::ChallengeKind;
use crate::controller::certificates::pair::Pair;

#[derive(Debug, Clone, Default)]
pub struct Record {
    pub issued: Option<Issued>,
    pub pending: Option<Pending>,
    /// By the URL of the directory.
    pub failures: Failures,
    /// When somebody revoked the certificate: none is ordered until they say so.
    pub revoked: Option<OffsetDateTime>,
}

pub type Failures = BTreeMap<String, Failure>;

/// A certificate in hand.
#[derive(Debug, Clone)]
pub struct Issued {
    pub pair: Arc<Pair>,
    pub origin: Origin,
}

/// What its own bytes do not say of a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// URL of the directory; none where it came otherwise.
    pub directory: Option<String>,
    /// What the CA suggests for its renewal.
    pub window: Option<Window>,
    /// What control was shown by; the next order begins with it.
    pub challenge: Option<ChallengeKind>,
    /// When it took the place of another one.
    #[serde(with = "time::serde::rfc3339::option")]
    pub replaced: Option<OffsetDateTime>,
}

impl Issued {
    pub fn life(&self) -> Life {
        Life {
            not_before: self.pair.not_before,
            not_after: self.pair.not_after,
            chance: renewal::chance(&self.pair.leaf),
        }
    }

    pub fn renewal(&self, now: OffsetDateTime) -> OffsetDateTime {
        let due = renewal::due(self.life(), self.window());
        let kept = renewal::kept_until(self.life(), self.origin.replaced, now);
        kept.map_or(due, |kept| kept.max(due))
    }

    /// What the CA suggests for this very certificate.
    pub fn window(&self) -> Option<&Window> {
        let window = self.origin.window.as_ref()?;
        (Some(&window.certificate) == self.ari_id().as_ref()).then_some(window)
    }

    /// What ARI calls it (RFC 9773 section 4.1); none where it does not name the key of its issuer.
    pub fn ari_id(&self) -> Option<String> {
        instant_acme::CertificateIdentifier::try_from(&self.pair.leaf).ok().map(|id| id.to_string())
    }

    pub fn has_names(&self, names: &[String]) -> bool {
        names.iter().all(|name| self.pair.names.contains(name))
    }
}

/// An order under way: with it, whoever comes after a crash or an upgrade goes on where it stands.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// URL of the directory.
    pub directory: String,
    /// URL of the order; none before the CA has answered.
    pub order: Option<String>,
    pub names: Vec<String>,
    pub key_pem: String,
    pub csr_pem: String,
    /// What was shown to the CA so far.
    #[serde(default)]
    pub answers: Vec<Answer>,
    /// An order may end only with a certificate of its own; of an old one nothing is left at the CA.
    #[serde(with = "time::serde::rfc3339")]
    pub placed: OffsetDateTime,
}

/// The answer to a challenge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "challenge")]
pub enum Answer {
    #[serde(rename = "http-01")]
    Http01 { token: String, key_authorization: String },
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01 { identifier: String, key_authorization: String },
    /// A TXT record; where an alias leads the name elsewhere, it stands there.
    #[serde(rename = "dns-01")]
    Dns01 { name: String, value: String },
}

impl fmt::Debug for Pending {
    // The key must never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("order", &self.order).finish_non_exhaustive()
    }
}
