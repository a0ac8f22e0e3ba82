//! The containers of Docker's last list, on disk: what a controller knows that starts before Docker
//! answers, or while it does not.
//!
//! Their routes are known at once, and requests wait for Docker's list; where it cannot be had, the
//! daemon cannot have moved them either, and they are served where they were. After a boot of the host
//! nobody is where he was.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::certificates::Problem;
use super::docker::{Container, Containers};
use super::store::{Store, StoreError};

/// In the state directory.
const FILE: &str = "containers.json";
/// Changes within this time are written once.
const BURST: Duration = Duration::from_secs(1);
/// An end waits no longer for the disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was known last.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The boot of the host that this was true in; empty: not known.
    boot: String,
    containers: Vec<Container>,
}

impl Remembered {
    /// # Errors
    /// When there is a file that cannot be read. One that is not what baton writes is set aside.
    pub fn load(store: &Store, problems: &mut Vec<Problem>) -> Result<Self, StoreError> {
        Ok(store.read_json(FILE, problems)?.unwrap_or_default())
    }

    fn save(&self, store: &Store) -> Result<(), StoreError> {
        store.write_json(FILE, self)
    }

    pub fn containers(&self) -> &[Container] {
        &self.containers
    }

    /// Those that are still where they were, unless Docker says otherwise.
    pub fn in_place(self) -> Vec<Container> {
        self.in_place_in(&boot())
    }

    fn in_place_in(self, boot: &str) -> Vec<Container> {
        if self.boot == boot && !boot.is_empty() { self.containers } else { Vec::new() }
    }
}

/// Which boot of the host this is (proc(5), `boot_id`).
fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Writes each list to disk.
#[derive(Debug)]
pub struct Keeper {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Keeper {
    pub fn start(store: Store, containers: watch::Receiver<Arc<Containers>>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let store = Arc::new(store);
        let writer = Writer { store, containers, written: None, fails: false };
        Keeper { stop, task: tokio::spawn(writer.run(stopped)) }
    }

    /// Writes what has changed, and ends; without waiting for a disk that does not answer.
    pub async fn stop(self) {
        drop(self.stop);
        match timeout(PATIENCE, self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("keeper of containers: {error}"),
            Err(_) => tracing::warn!("the disk does not answer: what runs now is not remembered"),
        }
    }
}

struct Writer {
    store: Arc<Store>,
    containers: watch::Receiver<Arc<Containers>>,
    written: Option<Arc<Remembered>>,
    /// The last write did.
    fails: bool,
}

impl Writer {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        loop {
            let changed = tokio::select! {
                changed = self.containers.changed() => changed.is_ok(),
                _ = &mut stopped => false,
            };
            let goes_on = changed
                && tokio::select! {
                    () = sleep(BURST) => true,
                    _ = &mut stopped => false,
                };
            self.write().await;
            if !goes_on {
                return;
            }
        }
    }

    async fn write(&mut self) {
        let containers = self.containers.borrow_and_update().clone();
        if containers.status.last_sync.is_none() {
            // What came from disk, or nothing.
            return;
        }
        let next = Arc::new(Remembered { boot: boot(), containers: containers.list.clone() });
        if self.written.as_ref() == Some(&next) {
            return;
        }
        let (store, saved) = (self.store.clone(), next.clone());
        // A slow disk holds up nobody.
        let done = spawn_blocking(move || saved.save(&store)).await;
        match done.map_err(|error| error.to_string()).and_then(|r| r.map_err(|e| e.to_string())) {
            Ok(()) => (self.written, self.fails) = (Some(next), false),
            Err(_) if self.fails => {}
            Err(error) => {
                self.fails = true;
                tracing::warn!("{error}: after a restart routes to containers wait for Docker");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_within_one_boot_is_anybody_where_he_was() {
        let known = |boot: &str| Remembered {
            boot: boot.to_owned(),
            containers: vec![Container { id: "a".to_owned(), ..Container::default() }],
        };
        for (then, now, want) in [("1", "1", 1), ("1", "2", 0), ("", "", 0)] {
            assert_eq!(known(then).in_place_in(now).len(), want, "{then} {now}");
        }
    }

    #[test]
    fn a_file_of_another_shape_is_set_aside_and_the_right_one_is_read_again() {
        let directory = tempfile::tempdir().expect("tempdir");
        let store = Store::open(directory.path().to_owned()).expect("store");
        let known = Remembered { boot: boot(), containers: vec![Container::default()] };
        known.save(&store).expect("saved");
        let mut problems = Vec::new();
        assert_eq!(Remembered::load(&store, &mut problems).expect("read"), known);
        fs::write(store.path(FILE), "[]").expect("written");
        let empty = Remembered::load(&store, &mut problems).expect("read");
        assert_eq!((empty, problems.len()), (Remembered::default(), 1));
    }
}
