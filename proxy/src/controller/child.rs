//! A worker process: one that we spawned, or one that an earlier program in this process did.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// exec keeps the process id, so that what was our child still is.
#[derive(Debug)]
pub enum Child {
    Spawned(tokio::process::Child),
    /// Linux 5.3: a pidfd is readable when its process has ended.
    Adopted {
        pid: Pid,
        ended: AsyncFd<OwnedFd>,
    },
}

impl Child {
    /// # Errors
    /// When there is no such process any more.
    pub fn adopt(pid: u32) -> io::Result<Self> {
        let raw = i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
        let number = rustix::process::Pid::from_raw(raw).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = rustix::process::PidfdFlags::NONBLOCK;
        let descriptor = rustix::process::pidfd_open(number, flags)?;
        Ok(Child::Adopted { pid: Pid::from_raw(raw), ended: sys::watch_descriptor(descriptor)? })
    }

    /// How it ended. Cancel safe.
    ///
    /// # Errors
    /// When nobody knows, because it was not our child.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        match self {
            Child::Spawned(child) => child.wait().await,
            Child::Adopted { pid, ended } => {
                let _ended = ended.readable().await?;
                match waitpid(*pid, Some(WaitPidFlag::WNOHANG))? {
                    WaitStatus::Exited(_, code) => Ok(ExitStatus::from_raw(code << 8)),
                    WaitStatus::Signaled(_, signal, _) => Ok(ExitStatus::from_raw(signal as i32)),
                    other => Err(io::Error::other(format!("{other:?}"))),
                }
            }
        }
    }

    /// # Errors
    /// When it has ended already.
    pub fn kill(&mut self) -> io::Result<()> {
        match self {
            Child::Spawned(child) => child.start_kill(),
            Child::Adopted { pid, .. } => Ok(kill(*pid, Signal::SIGKILL)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_adopted_child_is_waited_for_and_killed() {
        // What exec leaves of a child is its number: nobody here waits for it but `Child`.
        fn spawn(script: &str) -> u32 {
            std::process::Command::new("sh").args(["-c", script]).spawn().expect("sh").id()
        }
        for (script, kills, want) in [("exit 3", false, 3 << 8), ("sleep 60", true, 9)] {
            let mut child = Child::adopt(spawn(script)).expect("adopt");
            if kills {
                child.kill().expect("kill");
            }
            assert_eq!(child.wait().await.expect("status").into_raw(), want, "{script}");
        }
    }
}
