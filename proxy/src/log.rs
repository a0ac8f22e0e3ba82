//! Events go to stderr, in either half of the program; stdout is the access log's.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// h2 warns of single frames of its peers: who can connect could fill the log. A filter that names it
/// has it all the same.
const LESS: &str = "h2=error";

/// Writes events of `level` (a filter as `RUST_LOG` has it) from now on. Called once.
pub(crate) fn start(level: &str) {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("{LESS},{level}")))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}
