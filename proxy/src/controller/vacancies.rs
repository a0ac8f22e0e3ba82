//! Routes that somebody answered for a moment ago and nobody does now: a container that restarts or is
//! replaced. They stay known for a while, so that their requests wait for the next one. A pure core
//! to which time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::docker::{Container, State};
use super::routes::{RouteEntry, RouteKey, Table, UpstreamEntry, UpstreamState};

/// So long after the last upstream of a route went, its requests wait for another; and so long a
/// container that is gone still has its routes.
const WINDOW: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Vacancies {
    /// Those of the list before, by id.
    present: BTreeMap<String, Container>,
    /// Those that went, by id.
    departed: BTreeMap<String, Departed>,
    /// Routes with an upstream in rotation.
    occupied: BTreeSet<RouteKey>,
    /// Routes that had one, and since when they have none.
    vacant: BTreeMap<RouteKey, SystemTime>,
}

#[derive(Debug)]
struct Departed {
    container: Container,
    since: SystemTime,
    /// Of another run of baton: whether it was in rotation then is not known, and supposed.
    recalled: bool,
}

impl Vacancies {
    /// Takes note of who is there now.
    pub fn note_containers(&mut self, list: &[Container], now: SystemTime) {
        let present = list.iter().map(|container| (container.id.clone(), container.clone()));
        let before = std::mem::replace(&mut self.present, present.collect());
        let gone = before.into_iter().filter(|(id, _)| !self.present.contains_key(id));
        self.departed.extend(gone.map(|(id, container)| {
            let container = Container { state: State::Gone, ..container };
            (id, Departed { container, since: now, recalled: false })
        }));
        let present = &self.present;
        self.departed.retain(|id, gone| !present.contains_key(id) && is_recent(gone.since, now));
    }

    /// Knows these of another run of baton, until there is a list.
    pub fn recall(&mut self, containers: &[Container], now: SystemTime) {
        self.departed.extend(containers.iter().map(|container| {
            let container = Container { state: State::Gone, ..container.clone() };
            (container.id.clone(), Departed { container, since: now, recalled: true })
        }));
    }

    /// Goes on where the program before this one was: these were there or went a moment ago, and of
    /// these routes requests waited or would have.
    pub fn resume(&mut self, containers: Vec<Container>, held: BTreeSet<RouteKey>) {
        self.present = containers.into_iter().map(|one| (one.id.clone(), one)).collect();
        self.occupied = held;
    }

    /// Those that are there, and those that went a moment ago: for [`Vacancies::resume`].
    pub fn known(&self) -> Vec<Container> {
        let departed = self.departed.values().map(|gone| &gone.container);
        self.present.values().chain(departed).cloned().collect()
    }

    /// There is a list: who is not in it is gone for good.
    pub fn forget_recalled(&mut self) {
        self.departed.retain(|_, gone| !gone.recalled);
    }

    /// Those that went a moment ago.
    pub fn departed(&self) -> Vec<Container> {
        self.departed.values().map(|gone| gone.container.clone()).collect()
    }

    /// Marks the routes whose requests wait.
    pub fn mark(&mut self, table: &mut Table, now: SystemTime) {
        let before = std::mem::take(&mut self.occupied);
        let mut vacant = BTreeMap::new();
        for host in &mut table.hosts {
            for route in &mut host.routes {
                let key = (host.pattern.clone(), route.path.to_string());
                // Of the configuration's, those that come and go.
                let comes = |one: &&UpstreamEntry| one.container.is_some() || one.health.is_some();
                if route.upstreams.iter().filter(comes).any(|one| one.state == UpstreamState::Up) {
                    self.occupied.insert(key);
                    route.hold = true;
                    continue;
                }
                let since = match before.contains(&key) {
                    true => Some(now),
                    false => self.vacant.get(&key).copied().or_else(|| self.recalled(route)),
                };
                let Some(since) = since.filter(|&since| is_recent(since, now)) else { continue };
                route.hold = true;
                vacant.insert(key, since);
            }
        }
        self.vacant = vacant;
    }

    /// Since when a route is known of another run.
    fn recalled(&self, route: &RouteEntry) -> Option<SystemTime> {
        let mut recalled = self.departed.values().filter(|gone| gone.recalled);
        let answers = |gone: &&Departed| {
            route.upstreams.iter().any(|one| one.container.as_ref() == Some(&gone.container.name))
        };
        recalled.find(answers).map(|gone| gone.since)
    }

    /// When a route ceases to be held, or a container to be known.
    pub fn next_change(&self) -> Option<SystemTime> {
        let departed = self.departed.values().map(|gone| gone.since);
        self.vacant.values().copied().chain(departed).min().map(|since| since + WINDOW)
    }
}

/// A clock that was set back makes nothing older.
fn is_recent(since: SystemTime, now: SystemTime) -> bool {
    now.duration_since(since).unwrap_or_default() < WINDOW
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::environment::Defaults;
    use crate::controller::routes::{Incumbents, Inputs, build};
    use std::collections::HashSet;

    struct World {
        vacancies: Vacancies,
        now: SystemTime,
    }

    impl World {
        fn new() -> Self {
            World { vacancies: Vacancies::default(), now: SystemTime::UNIX_EPOCH }
        }

        fn wait(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }

        /// The routes with their upstreams' states, `held` where requests wait.
        fn see(&mut self, list: &[Container]) -> Vec<String> {
            self.vacancies.note_containers(list, self.now);
            let mut table = build(&Inputs {
                containers: list,
                departed: &self.vacancies.departed(),
                static_routes: &[],
                reachable: &HashSet::new(),
                incumbents: &Incumbents::default(),
                prefer_ipv6: false,
                defaults: &Defaults::default(),
            });
            self.vacancies.mark(&mut table, self.now);
            assert_eq!(table.unrouted, []);
            assert_eq!(table.diagnoses, []);
            let routes = table.hosts.iter().flat_map(|host| {
                host.routes.iter().map(|route| {
                    let states = route.upstreams.iter().map(|one| one.state.as_str());
                    let states = states.collect::<Vec<_>>().join(" ");
                    let held = if route.hold { " held" } else { "" };
                    format!("{}{} {states}{held}", host.pattern, route.path)
                })
            });
            routes.collect()
        }
    }

    fn container(id: &str, health: crate::controller::docker::Health) -> Container {
        Container {
            id: id.to_owned(),
            name: id.to_owned(),
            health,
            host_network: true,
            env: [("VIRTUAL_HOST".to_owned(), "app.test".to_owned())].into(),
            ..Container::default()
        }
    }

    fn healthy(id: &str) -> Container {
        container(id, crate::controller::docker::Health::Healthy)
    }

    fn starting(id: &str) -> Container {
        container(id, crate::controller::docker::Health::Starting)
    }

    fn stopping(id: &str) -> Container {
        Container { stopping: true, ..healthy(id) }
    }

    #[test]
    fn a_restart_is_held_from_the_stop_signal_to_the_next_healthy_one() {
        let mut world = World::new();
        assert_eq!(world.see(&[healthy("a")]), ["app.test/ up held"]);
        assert_eq!(world.see(&[stopping("a")]), ["app.test/ stopping held"]);
        world.wait(10);
        assert_eq!(world.see(&[]), ["app.test/ gone held"]);
        world.wait(10);
        assert_eq!(world.see(&[starting("a")]), ["app.test/ starting held"]);
        assert_eq!(world.see(&[healthy("a")]), ["app.test/ up held"]);
        assert_eq!(world.vacancies.next_change(), None);
    }

    #[test]
    fn what_takes_too_long_is_held_no_more() {
        let mut world = World::new();
        world.see(&[healthy("a")]);
        world.see(&[starting("a")]);
        assert_eq!(world.vacancies.next_change(), Some(SystemTime::UNIX_EPOCH + WINDOW));
        world.wait(59);
        assert_eq!(world.see(&[starting("a")]), ["app.test/ starting held"]);
        world.wait(1);
        assert_eq!(world.see(&[starting("a")]), ["app.test/ starting"]);
        assert_eq!(world.vacancies.next_change(), None);
        assert_eq!(world.see(&[]), ["app.test/ gone"]);
        world.wait(60);
        assert_eq!(world.see(&[]), Vec::<String>::new());
    }

    #[test]
    fn what_was_never_up_is_not_held() {
        let mut world = World::new();
        assert_eq!(world.see(&[starting("a")]), ["app.test/ starting"]);
        assert_eq!(world.see(&[]), ["app.test/ gone"]);
    }

    #[test]
    fn the_next_program_knows_who_was_there() {
        let before = |states: &[Container]| {
            let mut world = World::new();
            world.see(&[healthy("a")]);
            world.see(states);
            let mut next = World::new();
            let held = BTreeSet::from([("app.test".parse().expect("a pattern"), "/".to_owned())]);
            next.vacancies.resume(world.vacancies.known(), held);
            // Before it has heard anything.
            assert_eq!(next.see(&[]), ["app.test/ gone held"]);
            next
        };
        assert_eq!(before(&[healthy("a")]).see(&[healthy("a")]), ["app.test/ up held"]);
        assert_eq!(before(&[stopping("a")]).see(&[stopping("a")]), ["app.test/ stopping held"]);
        let mut removed = before(&[]);
        assert_eq!(removed.see(&[]), ["app.test/ gone held"]);
        assert_eq!(removed.see(&[starting("b")]), ["app.test/ starting held"]);
        removed.wait(60);
        assert_eq!(removed.see(&[]), ["app.test/ gone"]);
        removed.wait(60);
        assert_eq!(removed.see(&[]), Vec::<String>::new());
    }

    #[test]
    fn what_another_run_knew_is_held_until_there_is_a_list() {
        let mut world = World::new();
        let known = [healthy("a"), Container { env: [].into(), ..healthy("silent") }];
        world.vacancies.recall(&known, world.now);
        assert_eq!(world.see(&[]), ["app.test/ gone held"]);
        let mut listed = world;
        listed.vacancies.forget_recalled();
        assert_eq!(listed.see(&[starting("a")]), ["app.test/ starting held"]);
        assert_eq!(listed.see(&[healthy("a")]), ["app.test/ up held"]);

        let mut removed = World::new();
        removed.vacancies.recall(&known, removed.now);
        removed.vacancies.forget_recalled();
        assert_eq!(removed.see(&[]), Vec::<String>::new());
    }

    #[test]
    fn a_replacement_takes_the_place_of_what_is_gone() {
        let mut world = World::new();
        world.see(&[healthy("a")]);
        assert_eq!(world.see(&[starting("b")]), ["app.test/ starting held"]);
        assert_eq!(world.see(&[healthy("b")]), ["app.test/ up held"]);
    }
}
