//! Files that are written when the disk has time, on a thread of their own: nobody waits for them, however
//! slow it is. Only for what can be made anew where it is lost.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use super::certificates::Problem;
use super::store::{SECRET, Store};

/// An end waits no longer for a disk that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct WriteBehind {
    orders: Sender<Order>,
    failures: Receiver<Problem>,
}

enum Order {
    /// Name and contents of a file that its owner alone reads.
    Write(String, Vec<u8>),
    /// To be answered when all before it is done.
    Flush(Sender<()>),
}

impl WriteBehind {
    pub fn start(store: Store) -> Self {
        let (orders, todo) = channel();
        let (fails, failures) = channel();
        thread::spawn(move || {
            for order in todo {
                match order {
                    Order::Write(name, bytes) => {
                        if let Err(error) = store.write(&name, &bytes, SECRET) {
                            // Nobody is left to hear it where baton ends.
                            let _ = fails.send(Problem { thing: name, reason: error.to_string() });
                        }
                    }
                    Order::Flush(done) => drop(done),
                }
            }
        });
        WriteBehind { orders, failures }
    }

    pub fn write(&self, name: String, bytes: Vec<u8>) {
        // The thread ends after its last order alone.
        let _ = self.orders.send(Order::Write(name, bytes));
    }

    /// What could not be written since this was asked last.
    pub fn failures(&self) -> impl Iterator<Item = Problem> {
        self.failures.try_iter()
    }

    /// Waits until everything is written; false where that takes too long.
    pub fn flush(&self) -> bool {
        let (done, is_done) = channel();
        let _ = self.orders.send(Order::Flush(done));
        is_done.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout)
    }
}

impl Drop for WriteBehind {
    fn drop(&mut self) {
        if !self.flush() {
            tracing::warn!("the disk of the state directory does not answer: it is not waited for");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_there_in_the_end_and_failures_are_told() {
        let directory = tempfile::tempdir().expect("temp dir");
        let files = WriteBehind::start(Store::open(directory.path().to_owned()).expect("store"));
        files.write("a".to_owned(), b"1".to_vec());
        files.write("no/such/directory".to_owned(), b"2".to_vec());
        files.write("a".to_owned(), b"3".to_vec());
        assert!(files.flush());
        assert_eq!(std::fs::read(directory.path().join("a")).expect("written"), b"3");
        let failed: Vec<String> = files.failures().map(|problem| problem.thing).collect();
        assert_eq!(failed, ["no/such/directory"]);
    }
}
