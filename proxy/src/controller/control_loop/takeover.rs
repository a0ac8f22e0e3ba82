//! Taking over from a controller that died: its workers serve on with the routes that it knew, and
//! hand over to ours once we know them too.

use std::time::Duration;

use tokio::time::Instant;

use super::{Controller, Pending, Retry, Stop};
use crate::controller::generations::Launch;
use crate::controller::journal::Entry;

/// Between a takeover that failed and the next one.
const PAUSE: Duration = Duration::from_secs(5);

impl Controller<'_> {
    /// Called at the start, with workers of another controller in service.
    pub(super) fn announce_takeover(&mut self) {
        match self.generations.announce("takeover") {
            Ok(entry) => {
                entry.step("workers of a controller that died serve on".to_owned());
                self.pending = Some(Pending::TakeOver { entry });
                self.take_over_when_ready();
            }
            // Nothing else can be under way at the start, and later it replaces the worker, too.
            Err(refused) => {
                tracing::warn!("takeover: {}", refused.error);
                self.retry_later();
            }
        }
    }

    /// The workers serve on, and nothing is lost but a worker of our own: ours did not come up, for want
    /// of time or memory, say, which may pass.
    pub(super) fn take_over_failed(&mut self, entry: Entry, error: &str) {
        entry.failed(error);
        self.retry_later();
    }

    fn retry_later(&mut self) {
        let generation = self.generations.fleet().borrow().active.generation();
        self.retry = Some(Retry { at: Instant::now() + PAUSE, generation });
    }

    pub(super) fn take_over_again(&mut self) {
        let Some(Retry { generation, .. }) = self.retry.take() else { return };
        let active = self.generations.fleet().borrow().active.generation();
        if self.stop == Stop::NotAsked && active == generation {
            self.announce_takeover();
        }
    }

    /// Begins the handoff as soon as our snapshot is as good as what the workers have: Docker has
    /// listed its containers, and the ports among them that have to be asked have been.
    pub(super) fn take_over_when_ready(&mut self) {
        if self.stop != Stop::NotAsked || !self.knows_the_routes() {
            return;
        }
        let entry = match self.pending.take() {
            Some(Pending::TakeOver { entry }) => entry,
            other => return self.pending = other,
        };
        self.publisher.hold(false);
        self.publish();
        match self.generations.go_on(entry, &self.live.config, Launch::default()) {
            Ok(()) => self.pending = Some(Pending::TakingOver),
            Err((entry, error)) => self.take_over_failed(entry, &error),
        }
    }

    fn knows_the_routes(&self) -> bool {
        // What was published, not what has come meanwhile: the probes are of that.
        let connected = self.publisher.views().borrow().docker.connected;
        let asked = self.asked.borrow();
        (connected || !self.live.config.docker.enabled)
            && self.publisher.table().probes.iter().all(|target| asked.contains(target))
    }
}
