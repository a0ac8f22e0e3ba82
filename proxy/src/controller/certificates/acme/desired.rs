//! Certificates that are wanted from a CA: what the routes and `[acme]` together ask for.

use std::path::PathBuf;

use crate::config::{ChallengeKind, Directory, KeyKind, Proof};

/// One certificate, whether it is there or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Never empty. The first one is what people and files call the certificate by.
    pub names: Vec<String>,
    /// Asked in this order. Never empty.
    pub directories: Vec<Directory>,
    pub email: Option<String>,
    /// The preferred one first. Never empty.
    pub challenges: Vec<ChallengeKind>,
    pub profile: Option<String>,
    /// Common name of who shall have signed the topmost certificate of the chain.
    pub preferred_chain: Option<String>,
    pub key: KeyKind,
    /// Somebody answers for one of the names. A container that starts and dies again and again
    /// causes no first order.
    pub is_up: bool,
}

impl Desired {
    pub fn id(&self) -> &str {
        &self.names[0]
    }
}

/// All that is wanted, and what holds for all of it; replaced whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Each id once, sorted by it.
    pub certificates: Vec<Desired>,
    pub ca_file: Option<PathBuf>,
    pub proof: Proof,
}
