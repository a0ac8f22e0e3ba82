//! How many requests an upstream has at once, over all threads of the worker, and who waits before it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::protocol::snapshot::UpstreamProtocol;

/// The gates of all upstreams that have one, kept from one table to the next: what is in progress goes
/// on counting.
#[derive(Debug, Default)]
pub struct Gates(HashMap<Key, Weak<Gate>>);

/// Routes that say the same of one upstream share its gate.
type Key = (SocketAddr, UpstreamProtocol, u32);

impl Gates {
    pub fn of(&mut self, address: SocketAddr, protocol: UpstreamProtocol, cap: u32) -> Arc<Gate> {
        self.0.retain(|_, gate| gate.strong_count() > 0);
        let key = (address, protocol, cap);
        if let Some(gate) = self.0.get(&key).and_then(Weak::upgrade) {
            return gate;
        }
        let gate = Arc::new(Gate::new(cap));
        self.0.insert(key, Arc::downgrade(&gate));
        gate
    }
}

#[derive(Debug)]
pub struct Gate {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Who waits before a gate, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// At most so many of the worker's requests.
    pub length: usize,
    pub wait: Duration,
}

/// The right to have a request in progress, until it goes.
#[derive(Debug)]
pub struct Pass(#[expect(dead_code, reason = "it is its end that counts")] OwnedSemaphorePermit);

/// Too many wait already, or it took too long.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Gate {
    fn new(cap: u32) -> Self {
        let free = Arc::new(Semaphore::new(cap as usize));
        Gate { free, waiting: AtomicUsize::new(0) }
    }

    pub fn has_room(&self) -> bool {
        self.free.available_permits() > 0
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// First come, first served.
    ///
    /// # Errors
    /// When it may not wait, or not any longer.
    pub async fn enter(&self, queue: Queue) -> Result<Pass, Full> {
        if let Ok(permit) = self.free.clone().try_acquire_owned() {
            return Ok(Pass(permit));
        }
        let _waiting = Waiting::enter(&self.waiting, queue.length).ok_or(Full)?;
        match timeout(queue.wait, self.free.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Pass(permit)),
            // Nobody closes it.
            Ok(Err(_)) | Err(_) => Err(Full),
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let entered = Waiting(count);
        // Dropped where there is no room, which takes back what was added.
        (count.fetch_add(1, Relaxed) < most).then_some(entered)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn gate(cap: u32) -> Arc<Gate> {
        Gates::default().of(([127, 0, 0, 1], 80).into(), UpstreamProtocol::Http, cap)
    }

    #[tokio::test]
    async fn the_cap_the_queue_and_the_wait_are_kept() {
        let gate = gate(2);
        let queue = Queue { length: 1, wait: LONG };
        let (first, _second) = (gate.enter(queue).await, gate.enter(queue).await.expect("room"));
        assert!(!gate.has_room());
        let waits = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter(queue).await }
        });
        while gate.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.enter(queue).await.err(), Some(Full), "the queue is full");
        drop(first);
        let third = waits.await.expect("no panic").expect("its turn");
        assert_eq!((gate.waiting(), gate.has_room()), (0, false));
        let short = Queue { length: 1, wait: Duration::from_millis(1) };
        assert_eq!(gate.enter(short).await.err(), Some(Full), "nobody has gone in time");
        assert_eq!(gate.enter(Queue { length: 0, ..queue }).await.err(), Some(Full));
        drop(third);
        assert!(gate.enter(queue).await.is_ok());
    }

    #[tokio::test]
    async fn another_table_has_the_same_gate() {
        let mut gates = Gates::default();
        let mut of =
            |port, cap| gates.of(([127, 0, 0, 1], port).into(), UpstreamProtocol::Http, cap);
        let gate = of(1, 1);
        assert!(Arc::ptr_eq(&gate, &of(1, 1)));
        assert!(!Arc::ptr_eq(&gate, &of(2, 1)) && !Arc::ptr_eq(&gate, &of(1, 2)));
        drop(gate);
        of(3, 1);
        assert_eq!(gates.0.len(), 1, "those that nobody has are forgotten");
    }
}
