//! The preflight: the new program reads, in a process of its own, what it would have to live with.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use tokio::time::timeout;

use super::state::{State, StateError};
use crate::controller::worker_process::Executable;

/// A program that takes longer would keep workers without news for too long.
const LIMIT: Duration = Duration::from_secs(5);
/// What a baton that can go on from the state says. Any other program says something else.
const FINE: &str = "baton preflight: fine";

#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error("it cannot be run: {0}: is it an executable for this machine?")]
    Run(#[source] io::Error),
    #[error("it did not answer within {} s", LIMIT.as_secs())]
    TimedOut,
    #[error("it is not baton, or a version that knows no upgrade")]
    NotBaton,
    #[error("it refused: {0}")]
    Refused(String),
}

/// Runs the new program's preflight.
pub async fn ask(executable: &Executable, state: &OwnedFd) -> Result<(), PreflightError> {
    let stdin = state.try_clone().map_err(PreflightError::Run)?;
    let mut command = executable.command();
    command.arg("preflight").stdin(Stdio::from(stdin)).kill_on_drop(true);
    command.process_group(0);
    let output = match timeout(LIMIT, command.output()).await {
        Ok(output) => output.map_err(PreflightError::Run)?,
        Err(_) => return Err(PreflightError::TimedOut),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    match (output.status.success(), said.trim() == FINE) {
        (true, true) => Ok(()),
        (false, _) if complaint.starts_with("baton: ") => {
            let text = complaint.trim().trim_start_matches("baton: ").replace('\n', "; ");
            Err(PreflightError::Refused(text))
        }
        _ => Err(PreflightError::NotBaton),
    }
}

/// The new program's side: the state is on stdin.
///
/// # Errors
/// Why this program could not go on from it.
pub fn answer() -> Result<&'static str, StateError> {
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text).map_err(StateError::Io)?;
    State::parse(&text)?.config()?;
    Ok(FINE)
}
