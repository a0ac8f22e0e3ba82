//! `baton logs`: hands the connection of whoever asks to the workers, which write into it what their
//! access log says of one host. No byte of it passes through the controller.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::sleep;

use crate::controller::generations::Fleet;

/// Who follow at a time.
pub const MAX_FOLLOWERS: usize = 8;
/// What a connection becomes (RFC 9110 section 7.8).
pub const PROTOCOL: &str = "baton-log";
/// Between two looks whether a worker that died has another process.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// One who asks.
#[derive(Debug)]
pub struct Follower {
    /// In lower case, without a port.
    pub host: String,
    pub connection: OnUpgrade,
    seat: OwnedSemaphorePermit,
}

/// Where those who ask are let in, [`MAX_FOLLOWERS`] at a time.
#[derive(Debug, Clone)]
pub struct Entrance {
    seats: Arc<Semaphore>,
    sender: mpsc::Sender<Follower>,
}

impl Entrance {
    /// With where they come out.
    pub fn open() -> (Self, mpsc::Receiver<Follower>) {
        let (sender, receiver) = mpsc::channel(MAX_FOLLOWERS);
        (Entrance { seats: Arc::new(Semaphore::new(MAX_FOLLOWERS)), sender }, receiver)
    }

    /// Whether there was room.
    pub fn admit(&self, host: String, connection: OnUpgrade) -> bool {
        let seat = self.seats.clone().try_acquire_owned().ok();
        seat.is_some_and(|seat| self.sender.try_send(Follower { host, connection, seat }).is_ok())
    }
}

/// The connection, which workers hold, too: it ends for all of them.
struct Client(UnixStream);

impl Drop for Client {
    fn drop(&mut self) {
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }
}

/// Until the client is gone. Whoever ends it earlier ends the connection, and the client asks anew.
pub async fn follow(follower: Follower, mut fleet: watch::Receiver<Arc<Fleet>>) {
    let Follower { host, connection, seat: _seat } = follower;
    let Some(mut client) = connected(connection).await else { return };
    // Processes that have the socket.
    let mut told = BTreeSet::new();
    let mut byte = [0];
    loop {
        let now = fleet.borrow_and_update().clone();
        for worker in now.draining.iter().chain([&now.active]).chain(&now.canary) {
            let Some(pid) = worker.status().pid else { continue };
            let Ok(socket) = client.0.as_fd().try_clone_to_owned() else { return };
            if told.insert(pid) {
                worker.follow(host.clone(), socket).await;
            }
        }
        tokio::select! {
            changed = fleet.changed() => if changed.is_err() { return },
            () = sleep(LOOK_PAUSE) => {}
            // It has nothing to say.
            _ = client.0.read(&mut byte) => return,
        }
    }
}

async fn connected(upgrade: OnUpgrade) -> Option<Client> {
    let parts = upgrade.await.ok()?.downcast::<TokioIo<UnixStream>>().ok()?;
    Some(Client(parts.io.into_inner()))
}
