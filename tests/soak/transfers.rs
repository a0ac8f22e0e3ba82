//! Large bodies at limited speed, one after the other, while all else goes on.

use baton_load::{Failure, Pace, Protocol, Target, Transferred, download, upload};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes a second.
const PACE: u64 = 20_000_000;

#[derive(Debug, Clone, Copy)]
pub enum Direction {
    Down,
    Up,
}

pub struct Transfers {
    stop: watch::Sender<bool>,
    task: JoinHandle<(u64, u64)>,
}

impl Transfers {
    /// Of so many bytes each.
    pub fn start(target: Target, direction: Direction, protocol: Protocol, bytes: u64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let (mut whole, mut torn) = (0, 0);
            while !*stopped.borrow() {
                match one(&target, direction, protocol, bytes).await {
                    Ok(_) => whole += 1,
                    Err(failure) => {
                        println!("{direction:?} {protocol:?}: {failure}");
                        torn += 1;
                    }
                }
            }
            (whole, torn)
        });
        Transfers { stop, task }
    }

    /// How many came whole, and how many did not.
    pub async fn stop(self) -> (u64, u64) {
        self.stop.send_replace(true);
        self.task.await.expect("no panic")
    }
}

async fn one(
    target: &Target,
    direction: Direction,
    protocol: Protocol,
    bytes: u64,
) -> Result<Transferred, Failure> {
    match direction {
        Direction::Down => download(target, protocol, bytes, Pace::at(PACE)).await,
        Direction::Up => upload(target, protocol, bytes, Pace::at(PACE)).await,
    }
}
