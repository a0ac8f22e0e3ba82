//! The Docker watch: a list on every (re)connect, then events.

mod client;
mod container;
mod endpoint;
pub(crate) mod event;
pub(crate) mod inspect;
mod signal;
mod tracker;
mod watch;

use std::time::SystemTime;

pub use container::{Container, Health, Network, Port, State};
pub use container::{LABEL_PREFIX, NGINX_PROXY_PREFIX, PROJECT_LABEL, VARIABLES, is_kept_label};
pub use inspect::exposed_port;
pub use watch::Watch;

/// What the daemon runs, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Containers {
    pub status: DockerStatus,
    /// Sorted by id. Stays as it was while the daemon cannot be reached.
    pub list: Vec<Container>,
    /// Name (or id) and reason of containers that could not be read, or not this time.
    pub unreadable: Vec<(String, String)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DockerStatus {
    /// There is a connection, and all containers have been read through it.
    pub connected: bool,
    /// Empty when the watch is switched off.
    pub endpoint: String,
    pub containers: usize,
    /// When the daemon's list, or a change of it, was last taken over.
    pub last_sync: Option<SystemTime>,
    /// Why there is no connection, in words for a person, and what to do.
    pub error: Option<String>,
}
