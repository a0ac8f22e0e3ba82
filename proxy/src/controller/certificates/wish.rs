//! What containers say of the certificate of a host; what they leave open, `[acme]` says.

use crate::config::{ChallengeKind, Directory, ExternalAccount, KeyKind};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    pub asked: Asked,
    /// CERT_NAME: this one, and no other.
    pub cert_name: Option<Named>,
    pub email: Option<String>,
    /// Asked in place of all others.
    pub directory: Option<Directory>,
    /// Used in place of all others.
    pub challenge: Option<ChallengeKind>,
    pub profile: Option<String>,
    pub preferred_chain: Option<String>,
    /// What a new account at its CA is bound to.
    pub external_account: Option<ExternalAccount>,
    pub key: Option<KeyKind>,
}

/// A certificate by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    /// The container that names it.
    pub by: String,
}

/// Whether an order is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Asked {
    /// Nobody said anything: `acme.automatic` decides, for the host alone.
    #[default]
    Unsaid,
    /// For one certificate with these names, that of the host among them. Never empty.
    For(Vec<String>),
    /// Its containers list the names that are to be ordered, and this is none of them.
    No,
}
