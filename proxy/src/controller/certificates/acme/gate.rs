//! A request that makes something at a CA is not cut off before what it made is on disk: whoever ends
//! this process, or replaces it, closes the gate first, and nobody is past it then.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio::time::timeout;

/// For those that have passed to come back. A CA that takes longer is cut off: what it made is made
/// again, or found again by its key.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<RwLock<()>>);

/// Until it is dropped nobody passes.
#[must_use]
pub struct Closed {
    _guard: Option<OwnedRwLockWriteGuard<()>>,
}

impl Gate {
    /// Waits while it is closed. Whoever has passed is waited for until the guard is dropped.
    pub(super) async fn pass(&self) -> OwnedRwLockReadGuard<()> {
        self.0.clone().read_owned().await
    }

    pub async fn close(&self) -> Closed {
        if let Ok(guard) = self.0.clone().try_write_owned() {
            return Closed { _guard: Some(guard) };
        }
        tracing::info!("waiting for the answer of a CA");
        let guard = timeout(CLOSE_LIMIT, self.0.clone().write_owned()).await.ok();
        if guard.is_none() {
            let limit = CLOSE_LIMIT.as_secs();
            tracing::warn!("no answer of the CA within {limit} s: not waiting for it");
        }
        Closed { _guard: guard }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn closing_waits_for_those_that_passed_and_lets_nobody_after_them() {
        let gate = Gate::default();
        let passed = gate.pass().await;
        let mut closing = Box::pin(gate.close());
        let mut next = Box::pin(gate.pass());
        assert!((&mut closing).now_or_never().is_none());
        assert!((&mut next).now_or_never().is_none());
        drop(passed);
        let closed = closing.await;
        assert!((&mut next).now_or_never().is_none());
        drop(closed);
        drop(next.await);
    }
}
