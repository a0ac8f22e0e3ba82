//! Which generation new connections go to: how listeners pass from one to the next.

use super::listeners::{self, BindError, Listeners};
use super::supervisor::After;
use crate::config::Listen;

/// How this host hands over.
#[derive(Debug)]
pub enum Steering {
    /// The next generation gets the very same sockets. Nothing is lost by it either, but both
    /// generations accept until the old one stops, so that no share of connections can be tried on
    /// the new one first.
    Inherit { why: String },
}

impl Steering {
    /// What this kernel and these privileges allow.
    pub fn choose() -> Self {
        Steering::Inherit { why: "this version has no selector".to_owned() }
    }

    pub fn mode(&self) -> &'static str {
        match self {
            Steering::Inherit { .. } => "inherit",
        }
    }

    pub fn why(&self) -> &str {
        match self {
            Steering::Inherit { why } => why,
        }
    }

    /// The sockets of a generation that comes after one with `ours`.
    ///
    /// # Errors
    /// [`BindError`] of an address that is new.
    pub fn listeners(
        &self,
        listen: &Listen,
        threads: usize,
        ours: &Listeners,
    ) -> Result<Listeners, BindError> {
        match self {
            Steering::Inherit { .. } => listeners::inherit(listen, threads, ours),
        }
    }

    /// What a generation that is handed over has after it.
    pub fn after(&self) -> After {
        match self {
            Steering::Inherit { .. } => After::SameSockets,
        }
    }
}
