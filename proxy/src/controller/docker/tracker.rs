//! What is known of the daemon's containers, and whom to ask about next: a pure core to which time,
//! events and answers are arguments.
//!
//! Every event but `kill` only marks its container; marked containers are inspected together once a
//! burst is over. The view is given out when no answer is outstanding, so that a compose project
//! that comes up becomes one change of the routes and not twenty.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::container::Container;
use super::event::Reaction;
use super::inspect::{Inspected, short};
use super::signal;

/// A burst of events is over when none came for this long.
const QUIET: Duration = Duration::from_millis(50);
/// A burst that does not end, or an inspect that is slow, holds the others back for no longer.
const PATIENCE: Duration = Duration::from_millis(500);
/// A list whose answers stop coming for this long is taken without those that are missing: the daemon
/// does not answer about a container whose volume hangs, and the others have waited for nothing.
const LIST_PATIENCE: Duration = Duration::from_secs(2);
const NO_ANSWER: &str = "Docker does not answer about it: try `docker inspect`";
/// A container that still runs this long after its stop signal, and after twice its stop timeout,
/// took it for something else.
pub const COMES_BACK: Duration = Duration::from_secs(60);
/// Between two tries to inspect a container when the daemon answers with an error.
const RETRY: Duration = Duration::from_secs(5);
/// Questions to the daemon at one time.
const MAX_ASKED: usize = 16;

#[derive(Default)]
pub struct Tracker {
    containers: BTreeMap<String, Container>,
    /// Name and reason, by id.
    unreadable: BTreeMap<String, (String, String)>,
    stops: BTreeMap<String, Stop>,
    marked: Marked,
    retries: BTreeMap<String, Instant>,
    asked: BTreeSet<String>,
    sync: Option<Sync>,
    /// There was a list of which every container was asked about.
    complete: bool,
    /// When the view first differed from the one given out last.
    changed: Option<Instant>,
    /// A container was told to stop: its requests must go elsewhere now.
    urgent: bool,
}

/// Containers to inspect once the burst is over.
#[derive(Default)]
struct Marked {
    ids: BTreeSet<String>,
    burst: Option<Burst>,
}

struct Burst {
    over: Instant,
    /// However many more events come.
    latest: Instant,
}

/// A stop signal that was sent.
struct Stop {
    /// The run that it was sent to, where that was known.
    started_at: Option<String>,
    comes_back: Instant,
}

/// A list whose containers are being inspected.
struct Sync {
    awaited: BTreeSet<String>,
    /// Known before, and not in the list.
    stale: BTreeSet<String>,
    last_answer: Instant,
}

impl Tracker {
    /// Begins to follow a connection: the daemon lists these as running.
    pub fn listed(&mut self, ids: Vec<String>, now: Instant) {
        let awaited: BTreeSet<String> = ids.into_iter().collect();
        let known = self.containers.keys().chain(self.unreadable.keys()).cloned();
        let stale = known.filter(|id| !awaited.contains(id)).collect();
        self.marked =
            Marked { ids: awaited.clone(), burst: Some(Burst { over: now, latest: now }) };
        self.asked.clear();
        self.retries.clear();
        self.sync = Some(Sync { awaited, stale, last_answer: now });
        self.end_sync(now);
    }

    pub fn react(&mut self, reaction: Reaction, now: Instant) {
        match reaction {
            Reaction::Inspect(id) => self.marked.mark(id, now),
            Reaction::Started(id) => {
                self.stops.remove(&id);
                self.marked.mark(id, now);
            }
            Reaction::Died(id) => {
                self.stops.remove(&id);
                self.forget(&id, now);
                self.marked.mark(id, now);
            }
            Reaction::Signalled(id, signal) => self.signalled(id, signal, now),
        }
    }

    /// Takes an event of before the list: a stop signal is all that a list does not tell.
    pub fn recollect(&mut self, reaction: Reaction, at: Instant) {
        match reaction {
            Reaction::Signalled(id, signal) => self.signalled(id, signal, at),
            Reaction::Started(id) | Reaction::Died(id) if self.stops.remove(&id).is_some() => {
                self.marked.mark(id, at);
            }
            Reaction::Started(_) | Reaction::Died(_) | Reaction::Inspect(_) => {}
        }
    }

    fn signalled(&mut self, id: String, signal: i32, now: Instant) {
        let known = self.containers.get_mut(&id);
        let own = known.as_ref().and_then(|container| container.stop_signal);
        if !signal::stops(signal, own) {
            return;
        }
        let started_at = known.as_ref().map(|container| container.started_at.clone());
        let timeout = known.as_ref().and_then(|container| container.stop_timeout).unwrap_or(0);
        let comes_back = now + COMES_BACK.max(2 * Duration::from_secs(timeout.into()));
        if let Some(container) = known {
            container.stopping = true;
            self.touch(now);
            self.urgent = true;
        }
        self.stops.insert(id, Stop { started_at, comes_back });
    }

    /// The containers to inspect now.
    pub fn due(&mut self, now: Instant) -> Vec<String> {
        self.come_back(now);
        let retry: Vec<String> =
            self.retries.iter().filter(|(_, at)| **at <= now).map(|(id, _)| id.clone()).collect();
        for id in retry {
            self.retries.remove(&id);
            self.marked.mark(id, now);
        }
        if self.marked.burst.as_ref().is_none_or(|burst| burst.over > now) {
            return Vec::new();
        }
        let room = MAX_ASKED.saturating_sub(self.asked.len());
        let ids: Vec<String> = self.askable().take(room).cloned().collect();
        for id in &ids {
            self.marked.ids.remove(id);
        }
        if self.marked.ids.is_empty() {
            self.marked.burst = None;
        }
        self.asked.extend(ids.iter().cloned());
        ids
    }

    /// One question at a time for each container: two answers could come in the wrong order.
    fn askable(&self) -> impl Iterator<Item = &String> {
        self.marked.ids.iter().filter(|id| !self.asked.contains(*id))
    }

    fn come_back(&mut self, now: Instant) {
        let over: Vec<String> = self
            .stops
            .iter()
            .filter(|(_, stop)| stop.comes_back <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in over {
            self.stops.remove(&id);
            self.marked.mark(id, now);
        }
    }

    pub fn answered(&mut self, id: &str, inspected: Inspected, now: Instant) {
        self.asked.remove(id);
        if self.marked.ids.contains(id) {
            // Something happened to it since the question: this answer may be from before.
            return;
        }
        match inspected {
            Inspected::Running(container) => self.know(*container, now),
            Inspected::NotRunning => self.forget(id, now),
            Inspected::Unreadable { name, why } => {
                if self.containers.remove(id).is_some() {
                    self.touch(now);
                }
                self.report(id, name, why, now);
            }
        }
        self.settle(id, now);
    }

    /// The daemon did not answer for this one: what was known of it stands, and it is asked again.
    pub fn failed(&mut self, id: &str, why: String, now: Instant) {
        self.asked.remove(id);
        self.retries.insert(id.to_owned(), now + RETRY);
        self.report(id, self.name_of(id), why, now);
        self.settle(id, now);
    }

    fn know(&mut self, mut container: Container, now: Instant) {
        let id = container.id.clone();
        match self.stops.get(&id) {
            Some(stop) if stop.started_at.as_ref().is_none_or(|at| *at == container.started_at) => {
                container.stopping = true;
            }
            Some(_) => drop(self.stops.remove(&id)),
            None => {}
        }
        let was_unreadable = self.unreadable.remove(&id).is_some();
        if self.containers.get(&id) != Some(&container) || was_unreadable {
            self.containers.insert(id, container);
            self.touch(now);
        }
    }

    fn forget(&mut self, id: &str, now: Instant) {
        let was_known = self.containers.remove(id).is_some();
        if self.unreadable.remove(id).is_some() || was_known {
            self.touch(now);
        }
    }

    fn report(&mut self, id: &str, name: String, why: String, now: Instant) {
        let entry = (name, why);
        if self.unreadable.get(id) != Some(&entry) {
            self.unreadable.insert(id.to_owned(), entry);
            self.touch(now);
        }
    }

    fn touch(&mut self, now: Instant) {
        self.changed.get_or_insert(now);
    }

    fn settle(&mut self, id: &str, now: Instant) {
        if let Some(sync) = &mut self.sync {
            sync.awaited.remove(id);
            sync.stale.remove(id);
            sync.last_answer = now;
        }
        self.end_sync(now);
    }

    /// Ends a list without those that nobody answers about.
    fn leave_behind(&mut self, now: Instant) {
        let over = |sync: &&mut Sync| sync.last_answer + LIST_PATIENCE <= now;
        let Some(sync) = self.sync.as_mut().filter(over) else { return };
        for id in std::mem::take(&mut sync.awaited) {
            self.report(&id, self.name_of(&id), NO_ANSWER.to_owned(), now);
        }
        self.end_sync(now);
    }

    /// For people, as far as it is known.
    fn name_of(&self, id: &str) -> String {
        self.containers.get(id).map_or_else(|| short(id), |container| container.name.clone())
    }

    fn end_sync(&mut self, now: Instant) {
        if let Some(sync) = self.sync.take_if(|sync| sync.awaited.is_empty()) {
            for id in sync.stale {
                self.stops.remove(&id);
                self.forget(&id, now);
            }
            // Said even if nothing differs: the first list may be empty.
            self.complete = true;
            self.touch(now);
        }
    }

    /// Whether there was a list yet of which every container was asked about.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether the last list was answered for. Until then the view may have only
    /// some of those that take the place of others.
    pub fn synced(&self) -> bool {
        self.sync.is_none()
    }

    /// Whether the view is to be given out now; says so once for each change.
    pub fn take_change(&mut self, now: Instant) -> bool {
        self.leave_behind(now);
        let Some(since) = self.changed else { return false };
        let settled = self.synced() && (self.asked.is_empty() || now >= since + PATIENCE);
        let take = settled || (self.urgent && self.complete);
        if take {
            self.changed = None;
            self.urgent = false;
        }
        take
    }

    /// When to call [`Tracker::due`] or [`Tracker::take_change`] again if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        let stops = self.stops.values().map(|stop| stop.comes_back);
        let patience = self.changed.filter(|_| self.synced()).map(|since| since + PATIENCE);
        let can_ask = self.asked.len() < MAX_ASKED && self.askable().next().is_some();
        let marked = self.marked.burst.as_ref().filter(|_| can_ask).map(|burst| burst.over);
        let list = self.sync.as_ref().map(|sync| sync.last_answer + LIST_PATIENCE);
        let alone = patience.into_iter().chain(marked).chain(list);
        stops.chain(self.retries.values().copied()).chain(alone).min()
    }

    pub fn containers(&self) -> Vec<Container> {
        self.containers.values().cloned().collect()
    }

    /// Name and reason of those that cannot be read.
    pub fn unreadable(&self) -> Vec<(String, String)> {
        self.unreadable.values().cloned().collect()
    }
}

impl Marked {
    fn mark(&mut self, id: String, now: Instant) {
        self.ids.insert(id);
        let latest = self.burst.as_ref().map_or(now + PATIENCE, |burst| burst.latest);
        self.burst = Some(Burst { over: latest.min(now + QUIET), latest });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::docker::container::State;

    const TERM: i32 = 15;
    const HUP: i32 = 1;
    const STEP: Duration = Duration::from_millis(1);

    /// A tracker with a clock of its own, and a daemon that answers by `run`.
    struct World {
        tracker: Tracker,
        now: Instant,
    }

    impl World {
        fn new() -> World {
            World { tracker: Tracker::default(), now: Instant::now() }
        }

        /// One that has followed a list of these.
        fn with(names: &[&str]) -> World {
            let mut world = World::new();
            world.list(names);
            for name in world.due() {
                world.answer(&name, "1");
            }
            assert!(world.take());
            world
        }

        fn list(&mut self, names: &[&str]) {
            self.tracker.listed(names.iter().map(|&name| name.to_owned()).collect(), self.now);
        }

        fn due(&mut self) -> Vec<String> {
            self.tracker.due(self.now)
        }

        fn take(&mut self) -> bool {
            self.tracker.take_change(self.now)
        }

        fn wait(&mut self, time: Duration) {
            self.now += time;
        }

        fn answer(&mut self, name: &str, run: &str) {
            let container = Container {
                id: name.into(),
                name: name.into(),
                started_at: run.into(),
                ..Container::default()
            };
            self.tracker.answered(name, Inspected::Running(Box::new(container)), self.now);
        }

        fn gone(&mut self, name: &str) {
            self.tracker.answered(name, Inspected::NotRunning, self.now);
        }

        fn event(&mut self, reaction: fn(String) -> Reaction, name: &str) {
            self.tracker.react(reaction(name.to_owned()), self.now);
        }

        fn signal(&mut self, name: &str, signal: i32) {
            self.tracker.react(Reaction::Signalled(name.to_owned(), signal), self.now);
        }

        /// As `name` or `name (stopping)`.
        fn view(&self) -> Vec<String> {
            let text = |container: &Container| {
                assert_eq!(container.state, State::Running);
                let note = if container.stopping { " (stopping)" } else { "" };
                format!("{}{note}", container.name)
            };
            self.tracker.containers().iter().map(text).collect()
        }
    }

    #[test]
    fn of_the_past_only_stop_signals_count() {
        let mut world = World::new();
        world.list(&["again", "back", "here", "leaves"]);
        let began = world.now;
        world.wait(STEP);
        let (signalled, id) = (|id| Reaction::Signalled(id, TERM), str::to_owned);
        for (seconds, reaction) in [
            (20, Reaction::Died(id("here"))),
            (19, Reaction::Started(id("here"))),
            (18, signalled(id("again"))),
            (17, Reaction::Died(id("again"))),
            (16, Reaction::Started(id("again"))),
            (15, signalled(id("leaves"))),
            (15, Reaction::Inspect(id("here"))),
            (61, signalled(id("back"))),
        ] {
            world.tracker.recollect(reaction, began - Duration::from_secs(seconds));
        }
        for round in 0..2 {
            for name in world.due() {
                assert!(round == 0 || name == "again", "{name} is asked about twice");
                world.answer(&name, "1");
            }
            world.wait(QUIET);
        }
        assert!(world.take());
        assert_eq!(world.view(), ["again", "back", "here", "leaves (stopping)"]);
        // As long after the signal as if it had been heard.
        world.wait(COMES_BACK - Duration::from_secs(15));
        assert_eq!(world.due(), [""; 0]);
        world.wait(QUIET);
        assert_eq!(world.due(), ["leaves"]);
        world.answer("leaves", "1");
        assert_eq!(world.view(), ["again", "back", "here", "leaves"]);
    }

    #[test]
    fn a_list_is_seen_whole_or_not_at_all() {
        let mut world = World::new();
        world.list(&["a", "b"]);
        assert_eq!(world.due(), ["a", "b"]);
        world.answer("a", "1");
        world.wait(PATIENCE);
        assert!(!world.take());
        world.answer("b", "1");
        assert!(world.take());
        assert!(!world.take());
        assert_eq!(world.view(), ["a", "b"]);
    }

    #[test]
    fn a_list_does_not_wait_for_one_that_nobody_answers_about() {
        let mut world = World::new();
        world.list(&["a", "hangs"]);
        world.due();
        world.wait(LIST_PATIENCE / 2);
        world.answer("a", "1");
        assert!(!world.take());
        assert_eq!(world.tracker.deadline(), Some(world.now + LIST_PATIENCE));
        world.wait(LIST_PATIENCE);
        assert!(world.take());
        assert_eq!(world.view(), ["a"]);
        assert_eq!(world.tracker.unreadable(), [("hangs".to_owned(), NO_ANSWER.to_owned())]);
        world.answer("hangs", "1");
        assert!(world.take());
        assert_eq!(world.view(), ["a", "hangs"]);
        assert!(world.tracker.unreadable().is_empty());
    }

    #[test]
    fn an_empty_list_is_seen() {
        let mut world = World::new();
        assert!(!world.take());
        world.list(&[]);
        assert!(world.take());
    }

    #[test]
    fn after_a_reconnect_the_old_view_stands_until_the_new_one_is_whole() {
        let mut world = World::with(&["a", "b"]);
        world.list(&["b", "c"]);
        assert_eq!(world.due(), ["b", "c"]);
        world.answer("b", "1");
        assert!(!world.take());
        assert_eq!(world.view(), ["a", "b"]);
        world.answer("c", "1");
        assert!(world.take());
        assert_eq!(world.view(), ["b", "c"]);
    }

    #[test]
    fn a_container_that_starts_while_the_list_is_read_stays() {
        let mut world = World::with(&["a"]);
        world.list(&["b"]);
        world.event(Reaction::Started, "a");
        world.wait(QUIET);
        assert_eq!(world.due(), ["a", "b"]);
        world.answer("a", "2");
        world.answer("b", "1");
        assert!(world.take());
        assert_eq!(world.view(), ["a", "b"]);
    }

    #[test]
    fn a_burst_is_one_question_each_and_one_change() {
        let mut world = World::with(&[]);
        for name in ["a", "b", "a"] {
            world.event(Reaction::Started, name);
            world.wait(QUIET - STEP);
            assert!(world.due().is_empty());
        }
        world.wait(STEP);
        assert_eq!(world.due(), ["a", "b"]);
        assert!(world.due().is_empty());
        world.answer("a", "1");
        assert!(!world.take());
        world.answer("b", "1");
        assert!(world.take());
    }

    #[test]
    fn a_burst_without_end_is_bounded() {
        let mut world = World::with(&[]);
        let begin = world.now;
        while world.due().is_empty() {
            world.event(Reaction::Inspect, "a");
            world.wait(QUIET / 2);
            assert!(world.now <= begin + PATIENCE + QUIET);
        }
    }

    #[test]
    fn a_slow_answer_holds_the_others_back_for_a_while_only() {
        let mut world = World::with(&[]);
        world.event(Reaction::Started, "a");
        world.event(Reaction::Started, "b");
        world.wait(QUIET);
        assert_eq!(world.due(), ["a", "b"]);
        world.answer("a", "1");
        assert!(!world.take());
        assert_eq!(world.tracker.deadline(), Some(world.now + PATIENCE));
        world.wait(PATIENCE);
        assert!(world.take());
        assert_eq!(world.view(), ["a"]);
    }

    #[test]
    fn a_stop_signal_is_acted_on_at_once() {
        let mut world = World::with(&["a", "b"]);
        world.event(Reaction::Inspect, "b");
        world.signal("a", TERM);
        assert!(world.take());
        assert_eq!(world.view(), ["a (stopping)", "b"]);
    }

    #[test]
    fn a_reload_signal_is_not_a_stop() {
        let mut world = World::with(&["a"]);
        world.signal("a", HUP);
        assert!(!world.take());
        assert_eq!(world.view(), ["a"]);
    }

    #[test]
    fn a_stop_signal_in_the_middle_of_the_first_list_waits_for_its_end() {
        let mut world = World::new();
        world.list(&["a", "b"]);
        world.due();
        world.answer("a", "1");
        world.signal("a", TERM);
        world.signal("b", TERM);
        assert!(!world.take());
        world.answer("b", "1");
        assert!(world.take());
        assert_eq!(world.view(), ["a (stopping)", "b (stopping)"]);
    }

    #[test]
    fn stopping_outlives_an_inspect_but_not_a_restart() {
        let mut world = World::with(&["a"]);
        world.signal("a", TERM);
        world.event(Reaction::Inspect, "a");
        world.wait(QUIET);
        world.due();
        world.answer("a", "1");
        assert_eq!(world.view(), ["a (stopping)"]);
        world.event(Reaction::Died, "a");
        assert!(world.view().is_empty());
        world.event(Reaction::Started, "a");
        world.wait(QUIET);
        world.due();
        world.answer("a", "2");
        assert_eq!(world.view(), ["a"]);
    }

    #[test]
    fn a_restart_that_no_event_told_of_ends_a_stop() {
        let mut world = World::with(&["a"]);
        world.signal("a", TERM);
        world.list(&["a"]);
        world.due();
        world.answer("a", "2");
        assert_eq!(world.view(), ["a"]);
    }

    #[test]
    fn a_container_that_survives_its_stop_signal_comes_back() {
        let mut world = World::with(&["a"]);
        world.signal("a", TERM);
        assert!(world.take());
        assert_eq!(world.tracker.deadline(), Some(world.now + COMES_BACK));
        world.wait(COMES_BACK);
        assert!(world.due().is_empty());
        world.wait(QUIET);
        assert_eq!(world.due(), ["a"]);
        world.answer("a", "1");
        assert!(world.take());
        assert_eq!(world.view(), ["a"]);
    }

    #[test]
    fn an_answer_from_before_an_event_does_not_count() {
        let mut world = World::with(&["a"]);
        world.event(Reaction::Inspect, "a");
        world.wait(QUIET);
        assert_eq!(world.due(), ["a"]);
        world.event(Reaction::Died, "a");
        world.wait(QUIET);
        assert!(world.due().is_empty(), "one question at a time");
        world.answer("a", "1");
        assert!(world.view().is_empty());
        assert_eq!(world.due(), ["a"]);
        world.gone("a");
        assert!(world.view().is_empty());
        assert!(world.take());
        assert_eq!(world.tracker.deadline(), None);
    }

    #[test]
    fn what_is_unreadable_is_reported_alone() {
        let mut world = World::with(&["a", "b"]);
        let unreadable = || Inspected::Unreadable { name: "a".into(), why: "odd".into() };
        for changes in [true, false] {
            world.event(Reaction::Inspect, "a");
            world.wait(QUIET);
            world.due();
            world.tracker.answered("a", unreadable(), world.now);
            assert_eq!(world.take(), changes);
            assert_eq!(world.view(), ["b"]);
            assert_eq!(world.tracker.unreadable(), [("a".to_owned(), "odd".to_owned())]);
        }
        world.event(Reaction::Inspect, "a");
        world.wait(QUIET);
        world.due();
        world.answer("a", "1");
        assert!(world.take());
        assert!(world.tracker.unreadable().is_empty());
    }

    #[test]
    fn a_failed_question_changes_no_route_and_is_asked_again() {
        let mut world = World::with(&["a"]);
        world.event(Reaction::Inspect, "a");
        world.wait(QUIET);
        world.due();
        world.tracker.failed("a", "timeout".into(), world.now);
        assert!(world.take());
        assert_eq!(world.view(), ["a"]);
        assert_eq!(world.tracker.unreadable(), [("a".to_owned(), "timeout".to_owned())]);
        assert_eq!(world.tracker.deadline(), Some(world.now + RETRY));
        world.wait(RETRY);
        world.due();
        world.wait(QUIET);
        assert_eq!(world.due(), ["a"]);
    }

    #[test]
    fn questions_are_bounded() {
        let names: Vec<String> = (0..MAX_ASKED + 1).map(|n| format!("c{n:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut world = World::new();
        world.list(&names);
        assert_eq!(world.due().len(), MAX_ASKED);
        assert!(world.due().is_empty());
        let patience = Some(world.now + LIST_PATIENCE);
        assert_eq!(world.tracker.deadline(), patience, "an answer has to come first");
        world.answer(names[0], "1");
        assert_eq!(world.tracker.deadline(), Some(world.now));
        assert_eq!(world.due().len(), 1);
    }
}
