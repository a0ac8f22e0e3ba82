//! Taking over from a controller that died: its workers serve on with the routes that it knew, and
//! hand over to ours once we know them too.

use super::{Controller, Pending, Stop};
use crate::controller::generations::Launch;

impl Controller<'_> {
    /// Called at the start, with workers of another controller in service.
    pub(super) fn announce_takeover(&mut self) {
        match self.generations.announce("takeover") {
            Ok(entry) => {
                entry.step("workers of a controller that died serve on".to_owned());
                self.pending = Some(Pending::TakeOver { entry });
                self.take_over_when_ready();
            }
            // Nothing else can be under way at the start.
            Err(refused) => tracing::error!("takeover: {}", refused.error),
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
        if let Err((entry, error)) =
            self.generations.go_on(entry, &self.live.config, Launch::default())
        {
            entry.failed(&error);
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
