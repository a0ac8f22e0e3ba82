//! Workers of a controller that died: they serve on, and this one takes them over.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::listeners::Listeners;
use super::rendezvous::{Left, Rendezvous};
use crate::protocol;
use crate::protocol::channel::{self, ChannelError, Receiver, Sender};
use crate::protocol::frame::{FromWorker, ListenerSlot, ToWorker};

/// For a worker to say who it is; one that does not hangs.
const HELLO_LIMIT: Duration = Duration::from_secs(5);

/// A worker that has told who it is.
#[derive(Debug)]
pub struct Orphan {
    pub generation: u64,
    pub pid: u32,
    /// The selector of the controller before sends connections to it.
    pub steered: bool,
    pub draining: bool,
    pub quiesced: bool,
    /// None while it drains.
    pub listeners: Listeners,
    pub sender: Sender<ToWorker>,
    pub receiver: Receiver<FromWorker>,
}

#[derive(Debug, thiserror::Error)]
enum OrphanError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Channel(#[from] ChannelError),
    #[error("it speaks protocol {theirs}, this controller {ours}", ours = protocol::VERSION)]
    Protocol { theirs: u32 },
    #[error("it said something else than who it is")]
    Stranger,
}

/// Every worker that a dead controller left, oldest first. One that hangs is ended: nobody could
/// tell it anything, and it would keep its listeners.
pub async fn find(rendezvous: &Rendezvous) -> Vec<Orphan> {
    let mut orphans = Vec::new();
    for left in rendezvous.left() {
        match timeout(HELLO_LIMIT, meet(&left)).await {
            Ok(Ok(orphan)) => {
                tracing::info!(
                    "worker {} (pid {}) has lost its controller: taking it over",
                    left.generation,
                    left.pid
                );
                orphans.push(orphan);
            }
            Ok(Err(OrphanError::Io(_))) => left.forget(),
            Ok(Err(error)) => {
                tracing::error!(
                    "worker {} (pid {}) cannot be taken over: {error}: end it by `kill {}`",
                    left.generation,
                    left.pid,
                    left.pid
                );
            }
            Err(_) => end(&left),
        }
    }
    orphans
}

async fn meet(left: &Left) -> Result<Orphan, OrphanError> {
    let socket = UnixStream::connect(&left.path).await?;
    let (sender, mut receiver) = channel::channel(socket);
    let (draining, quiesced, steered, count) = match receiver.receive().await?.0 {
        FromWorker::Orphan { protocol, .. } if protocol != protocol::VERSION => {
            return Err(OrphanError::Protocol { theirs: protocol });
        }
        FromWorker::Orphan { draining, quiesced, steered, listeners, .. } => {
            (draining, quiesced, steered, listeners)
        }
        _ => return Err(OrphanError::Stranger),
    };
    let listeners = Listeners::adopt(handed(&mut receiver, count).await?);
    let Left { generation, pid, .. } = *left;
    Ok(Orphan { generation, pid, steered, draining, quiesced, listeners, sender, receiver })
}

async fn handed(
    receiver: &mut Receiver<FromWorker>,
    count: usize,
) -> Result<Vec<(ListenerSlot, OwnedFd)>, OrphanError> {
    let mut all = Vec::new();
    while all.len() < count {
        match receiver.receive().await? {
            (FromWorker::Listeners { slots }, sockets) if !sockets.is_empty() => {
                all.extend(slots.into_iter().zip(sockets));
            }
            _ => return Err(OrphanError::Stranger),
        }
    }
    Ok(all)
}

fn end(left: &Left) {
    let Left { generation, pid, .. } = left;
    // The number may be another process's by now.
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let raw = i32::try_from(*pid).unwrap_or_default();
    if name.trim_end() == protocol::WORKER_NAME && raw > 0 {
        tracing::error!(
            "worker {generation} (pid {pid}) has lost its controller and does not answer: killing it"
        );
        let _gone_already = kill(Pid::from_raw(raw), Signal::SIGKILL);
    }
    left.forget();
}
