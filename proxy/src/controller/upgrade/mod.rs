//! The upgrade: this process becomes another program by exec, and nothing that it holds is lost.
//!
//! The order is that of a handoff: everything that can fail comes first. Workers are frozen (they
//! serve on, nobody talks to them), what crosses is written to a memfd, and the new program reads it
//! once in a child of its own (the preflight). Only then comes exec, which keeps the process id: for
//! systemd, Docker and the operator one service never stopped.

mod preflight;
pub mod state;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::SigSet;
use nix::unistd::{Whence, fexecve, lseek};

pub use preflight::{PreflightError, answer as answer_preflight};
use state::State;

use super::worker_process::Executable;
use crate::sys;

/// Why this process stayed what it is.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error("{path}: {source}")]
    Open { path: String, source: io::Error },
    #[error("preflight: {0}")]
    Preflight(#[from] PreflightError),
    #[error("state: {0}")]
    State(#[source] io::Error),
    #[error("exec: {0}")]
    Exec(#[source] io::Error),
}

/// A program that has understood the state, and shall be this process.
#[derive(Debug)]
pub struct Understood<'a> {
    executable: &'a Executable,
    memfd: OwnedFd,
    crossing: Vec<RawFd>,
}

/// Asks `executable` whether it can go on from `state`.
pub async fn ask<'a>(
    executable: &'a Executable,
    state: &State,
) -> Result<Understood<'a>, UpgradeError> {
    let memfd = write(state).map_err(UpgradeError::State)?;
    preflight::ask(executable, &memfd).await?;
    let mut crossing = state.descriptors();
    crossing.push(memfd.as_raw_fd());
    Ok(Understood { executable, memfd, crossing })
}

impl Understood<'_> {
    /// Becomes the program. Returns only when that failed; then nothing has changed.
    pub fn exec(&self, config: Option<&Path>) -> UpgradeError {
        let failed = exec(self.executable, &self.memfd, &self.crossing, config);
        // Descriptors that cross exec would leak into every worker.
        if let Err(error) = sys::cross_exec(&self.crossing, false) {
            tracing::error!("descriptors: {error}");
        }
        UpgradeError::Exec(failed)
    }
}

fn write(state: &State) -> io::Result<OwnedFd> {
    let memfd = memfd_create(c"baton-state", MFdFlags::MFD_CLOEXEC)?;
    let mut file = std::fs::File::from(memfd);
    serde_json::to_writer(&mut file, state)?;
    rewind(&file)?;
    Ok(file.into())
}

fn rewind(file: &impl AsFd) -> io::Result<()> {
    lseek(file, 0, Whence::SeekSet)?;
    Ok(())
}

fn exec(
    executable: &Executable,
    memfd: &OwnedFd,
    crossing: &[RawFd],
    config: Option<&Path>,
) -> io::Error {
    let prepared = rewind(memfd)
        .and_then(|()| sys::cross_exec(crossing, true))
        .and_then(|()| arguments(memfd, config));
    let arguments = match prepared {
        Ok(arguments) => arguments,
        Err(error) => return error,
    };
    let environment: Vec<CString> = std::env::vars_os()
        .filter_map(|(name, value)| {
            CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        })
        .collect();
    // A signal between exec and the new program's handlers would end it: blocked ones wait.
    let all = SigSet::all();
    if let Err(error) = all.thread_block() {
        return error.into();
    }
    let Err(error) = fexecve(executable, &arguments, &environment);
    let _ = all.thread_unblock();
    error.into()
}

fn arguments(memfd: &OwnedFd, config: Option<&Path>) -> io::Result<Vec<CString>> {
    let mut arguments = vec![c"baton".to_owned(), c"run".to_owned()];
    if let Some(path) = config {
        arguments.push(c"--config".to_owned());
        arguments.push(CString::new(path.as_os_str().as_bytes())?);
    }
    arguments.push(c"--resume".to_owned());
    arguments.push(CString::new(memfd.as_raw_fd().to_string())?);
    Ok(arguments)
}

/// Lets the signals through that exec held back. Called once handlers are there.
pub fn let_signals_through() {
    // It cannot fail with a valid set; a signal that stays blocked would be noticed by its sender.
    let _ = SigSet::all().thread_unblock();
}
