//! The last handoffs, step by step: what `status` shows, and what whoever asked for one follows.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::admin::answers::{Handoff, Step, rfc3339};
use super::metrics::Tally;

/// Handoffs that are remembered.
const REMEMBERED: usize = 10;

/// Newest first.
pub type Handoffs = Arc<Vec<Handoff>>;

#[derive(Debug, Clone)]
pub struct Journal {
    handoffs: Arc<watch::Sender<Handoffs>>,
    tally: Tally,
}

/// One handoff that is under way.
#[derive(Debug)]
pub struct Entry {
    journal: Journal,
    id: u64,
    begun: SystemTime,
}

impl Journal {
    pub fn new(handoffs: Vec<Handoff>, tally: Tally) -> Self {
        Journal { handoffs: Arc::new(watch::Sender::new(Arc::new(handoffs))), tally }
    }

    pub fn follow(&self) -> watch::Receiver<Handoffs> {
        self.handoffs.subscribe()
    }

    pub fn last(&self) -> Option<Handoff> {
        self.handoffs.borrow().first().cloned()
    }

    /// The handoff that has not ended.
    pub fn under_way(&self) -> Option<Handoff> {
        self.handoffs.borrow().iter().find(|handoff| handoff.outcome == Handoff::UNDER_WAY).cloned()
    }

    /// Goes on with a handoff that began in the program before.
    pub fn resume(&self, id: u64, begun: SystemTime) -> Entry {
        Entry { journal: self.clone(), id, begun }
    }

    pub fn begin(&self, kind: &str, from: u64, to: u64) -> Entry {
        let id = self.handoffs.borrow().first().map_or(1, |last| last.id + 1);
        self.handoffs.send_modify(|handoffs| {
            let handoffs = Arc::make_mut(handoffs);
            handoffs.insert(0, Handoff::begin(id, kind, from, to, &rfc3339(SystemTime::now())));
            handoffs.truncate(REMEMBERED);
        });
        Entry { journal: self.clone(), id, begun: SystemTime::now() }
    }
}

impl Entry {
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn step(&self, text: String) {
        tracing::info!("handoff {}: {text}", self.id);
        let ms = self.elapsed_ms();
        self.modify(|handoff| handoff.steps.push(Step { ms, text }));
    }

    pub fn ready(&self) {
        let ms = self.elapsed_ms();
        self.modify(|handoff| handoff.ms_to_ready = Some(ms));
    }

    pub fn flipped(&self) {
        let ms = self.elapsed_ms();
        self.modify(|handoff| handoff.ms_to_flip = Some(ms));
    }

    /// The outcome is known; what follows is the end of the old generation.
    pub fn done(&self) {
        tracing::info!("handoff {}: done", self.id);
        self.modify(|handoff| handoff.outcome = Handoff::DONE.to_owned());
        self.count(Handoff::DONE);
    }

    /// The old generation, `old`, has closed its listeners; so many connections have migrated from
    /// them, where that is counted.
    pub fn closed(self, old: u64, migrated: Option<u64>) {
        let counted = migrated.map(|count| format!("; {count} connections migrated"));
        self.step(format!(
            "generation {old} has closed its listeners{}",
            counted.unwrap_or_default()
        ));
        let ms = self.elapsed_ms();
        self.modify(|handoff| {
            handoff.ms_to_close = Some(ms);
            handoff.migrated = migrated;
        });
    }

    pub fn failed(self, error: &str) {
        tracing::error!("handoff {}: failed: {error}", self.id);
        self.modify(|handoff| {
            handoff.outcome = Handoff::FAILED.to_owned();
            handoff.error = Some(error.to_owned());
        });
        self.count(Handoff::FAILED);
    }

    fn count(&self, outcome: &str) {
        let handoffs = self.journal.handoffs.borrow();
        if let Some(handoff) = handoffs.iter().find(|handoff| handoff.id == self.id) {
            let took = self.begun.elapsed().unwrap_or_default();
            let is_done = outcome == Handoff::DONE;
            self.journal.tally.handoff_ended(&handoff.kind, outcome, took, is_done);
        }
    }

    pub fn begun(&self) -> SystemTime {
        self.begun
    }

    fn elapsed_ms(&self) -> u64 {
        // A clock that was set back meanwhile costs a figure, nothing else.
        u64::try_from(self.begun.elapsed().unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
    }

    fn modify(&self, change: impl FnOnce(&mut Handoff)) {
        self.journal.handoffs.send_modify(|handoffs| {
            let mut found = Arc::make_mut(handoffs).iter_mut();
            if let Some(handoff) = found.find(|handoff| handoff.id == self.id) {
                change(handoff);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered_newest_first() {
        let journal = Journal::new(vec![], Tally::default());
        for generation in 1..=12 {
            let entry = journal.begin("reload", generation, generation + 1);
            assert_eq!(journal.under_way().map(|handoff| handoff.id), Some(generation));
            entry.step("started".to_owned());
            entry.ready();
            if generation % 2 == 0 {
                entry.failed("no");
            } else {
                entry.done();
                entry.closed(generation, Some(7));
            }
        }
        let handoffs = journal.follow().borrow().clone();
        assert_eq!(
            handoffs.iter().map(|h| h.id).collect::<Vec<_>>(),
            [12, 11, 10, 9, 8, 7, 6, 5, 4, 3]
        );
        assert_eq!(
            (handoffs[0].outcome.as_str(), handoffs[0].error.as_deref()),
            ("failed", Some("no"))
        );
        assert_eq!((handoffs[1].outcome.as_str(), handoffs[1].migrated), ("done", Some(7)));
        let steps: Vec<_> = handoffs[1].steps.iter().map(|step| step.text.as_str()).collect();
        assert_eq!(
            steps,
            ["started", "generation 11 has closed its listeners; 7 connections migrated"]
        );
        assert!(journal.under_way().is_none());
    }
}
