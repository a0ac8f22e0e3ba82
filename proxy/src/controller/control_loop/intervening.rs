//! What a person tells a host to do: pause, maintenance, and the end of either.

use std::time::SystemTime;

use super::Controller;
use crate::controller::admin::answers::{Intervened, InterventionOrder, Refused, Wanted};
use crate::controller::store::Store;

impl Controller<'_> {
    /// Until Docker has answered this program nothing is published, and nothing that is said would hold.
    fn refuse_when_workers_know_better(&self) -> Result<(), Refused> {
        let waits = self.holding && !self.containers.borrow().status.connected;
        if !waits && !self.publisher.is_held() {
            return Ok(());
        }
        let error = "Docker has not answered this program yet, and workers keep what they have until \
                     it does: `baton status` says why; try again then";
        Err(Refused::because(error.to_owned()))
    }

    /// On disk first: what is said to hold outlives this program.
    pub(super) fn intervene(&mut self, order: &InterventionOrder) -> Result<Intervened, Refused> {
        self.refuse_when_stopping()?;
        self.refuse_when_workers_know_better()?;
        let host = &order.host;
        let begins = matches!(order.wanted, Wanted::Pause { .. } | Wanted::Maintenance { .. });
        let hosts = &self.publisher.table().hosts;
        if begins && !hosts.iter().any(|entry| entry.pattern.to_string() == *host) {
            let error = format!("{host} is not routed: `baton routes` shows the hosts that are");
            return Err(Refused::because(error));
        }
        let after = self.publisher.interventions().after(order, SystemTime::now());
        let (next, done) = after.map_err(Refused::because)?;
        let store = Store::open(self.live.config.state_dir.clone());
        store
            .and_then(|store| next.save(&store))
            .map_err(|error| Refused::because(error.to_string()))?;
        tracing::info!("{done}");
        self.publisher.intervene(next);
        self.publish();
        Ok(Intervened { done, snapshot: self.publisher.version() })
    }
}
