//! What a person has told a host to do, whatever its containers are at: to let its requests wait for a
//! while, or to say that it is being worked on. A pure core, and the file that outlives a restart.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::admin::answers::{InterventionOrder, Wanted};
use super::certificates::Problem;
use super::store::{Store, StoreError};
use crate::protocol::snapshot::{Intervention, Maintenance};

/// In the state directory.
const FILE: &str = "interventions.json";

/// By the host's pattern as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Interventions(BTreeMap<String, Intervention>);

impl Interventions {
    /// # Errors
    /// When there is a file that cannot be read. One that is not what baton writes is set aside.
    pub fn load(store: &Store, problems: &mut Vec<Problem>) -> Result<Self, StoreError> {
        Ok(store.read_json(FILE, problems)?.unwrap_or_default())
    }

    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, store: &Store) -> Result<(), StoreError> {
        store.write_json(FILE, self)
    }

    pub fn of(&self, host: &str) -> Option<&Intervention> {
        self.0.get(host)
    }

    /// What is true after an order, and how to say it. Nothing has changed yet.
    ///
    /// # Errors
    /// In words: there is nothing to end.
    pub fn after(
        &self,
        order: &InterventionOrder,
        now: SystemTime,
    ) -> Result<(Self, String), String> {
        let host = &order.host;
        let mut next = self.clone();
        let said = match &order.wanted {
            Wanted::Pause { max } => {
                next.0.insert(host.clone(), Intervention::Pause { until: now + *max });
                format!("{host} is paused: requests wait, {max:?} at most")
            }
            Wanted::Resume => match next.0.remove(host) {
                Some(Intervention::Pause { .. }) => format!("{host} goes on"),
                _ => return Err(format!("{host} is not paused")),
            },
            Wanted::Maintenance { page } => {
                let maintenance = Maintenance { page: page.clone() };
                next.0.insert(host.clone(), Intervention::Maintenance(maintenance));
                format!("{host} is under maintenance: every request is answered 503")
            }
            Wanted::EndMaintenance => match next.0.remove(host) {
                Some(Intervention::Maintenance(_)) => format!("{host} serves again"),
                _ => return Err(format!("{host} is not under maintenance")),
            },
        };
        Ok((next, said))
    }

    /// Forgets the pauses that are over.
    pub fn expire(&mut self, now: SystemTime) {
        self.0.retain(|_, intervention| match intervention {
            Intervention::Pause { until } => *until > now,
            Intervention::Maintenance(_) => true,
        });
    }

    /// When the next pause is over.
    pub fn next_change(&self) -> Option<SystemTime> {
        let ends = self.0.values().filter_map(|intervention| match intervention {
            Intervention::Pause { until } => Some(*until),
            Intervention::Maintenance(_) => None,
        });
        ends.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn order(wanted: Wanted) -> InterventionOrder {
        InterventionOrder { host: "a.test".to_owned(), wanted }
    }

    #[test]
    fn each_order_does_what_it_says_or_says_why_not() {
        let pause = || Wanted::Pause { max: 30 * SECOND };
        let page = || Wanted::Maintenance { page: Some("<p>Back soon</p>".to_owned()) };
        for (orders, want) in [
            (vec![pause()], Ok("a.test is paused: requests wait, 30s at most")),
            (vec![pause(), Wanted::Resume], Ok("a.test goes on")),
            (vec![Wanted::Resume], Err("a.test is not paused")),
            (vec![page(), Wanted::Resume], Err("a.test is not paused")),
            (vec![page()], Ok("a.test is under maintenance: every request is answered 503")),
            (vec![pause(), page(), Wanted::EndMaintenance], Ok("a.test serves again")),
            (vec![pause(), Wanted::EndMaintenance], Err("a.test is not under maintenance")),
        ] {
            let mut state = Interventions::default();
            let mut said = Ok(String::new());
            for wanted in orders.clone() {
                said = state.after(&order(wanted), SystemTime::UNIX_EPOCH).map(|(next, said)| {
                    state = next;
                    said
                });
            }
            assert_eq!(said.as_deref().map_err(String::as_str), want, "{orders:?}");
        }
    }

    #[test]
    fn a_pause_ends_by_itself_and_maintenance_does_not() {
        let start = SystemTime::UNIX_EPOCH;
        let mut state = Interventions::default();
        assert_eq!(state.next_change(), None);
        state = state.after(&order(Wanted::Pause { max: 2 * SECOND }), start).expect("paused").0;
        assert_eq!(state.next_change(), Some(start + 2 * SECOND));
        state.expire(start + SECOND);
        assert!(state.of("a.test").is_some());
        state.expire(start + 2 * SECOND);
        assert_eq!(state.of("a.test"), None);
        state = state.after(&order(Wanted::Maintenance { page: None }), start).expect("on").0;
        state.expire(start + 1_000_000 * SECOND);
        assert!(state.of("a.test").is_some());
        assert_eq!(state.next_change(), None);
    }

    #[test]
    fn the_file_leads_back() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(directory.path().to_owned()).expect("open");
        let mut problems = Vec::new();
        let load = |problems: &mut Vec<_>| Interventions::load(&store, problems).expect("read");
        assert_eq!(load(&mut problems), Interventions::default());
        let wanted = Wanted::Pause { max: 2 * SECOND };
        let (state, _) =
            Interventions::default().after(&order(wanted), SystemTime::now()).expect("paused");
        state.save(&store).expect("write");
        assert_eq!(load(&mut problems), state);
        store.write(FILE, b"{", 0o600).expect("write");
        assert_eq!(load(&mut problems), Interventions::default());
        assert_eq!(problems.len(), 1);
    }
}
