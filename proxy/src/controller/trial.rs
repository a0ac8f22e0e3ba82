//! A canary under way: a new generation gets its share of new connections, and is watched beside the
//! active one until its time is over or it does worse.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::canary::{Plan, Sample, worse};
use super::supervisor::{Handle, Worker};

/// Between two looks at the counters.
const PAUSE: Duration = Duration::from_millis(250);
/// For a worker to tell its counters. One that does not is looked at again.
const STATS_LIMIT: Duration = Duration::from_secs(2);
/// Looks in a row at which the canary told nothing: it hangs.
const SILENCE: u32 = 3;

#[derive(Debug)]
pub struct Trial {
    pub worker: Worker,
    active: Watched,
    canary: Watched,
    until: Instant,
    next_look: Instant,
    silent: u32,
}

/// One side of the comparison.
#[derive(Debug)]
struct Watched {
    handle: Handle,
    /// What it had done at the first look.
    before: Option<Sample>,
}

/// How a trial ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its time is over, and it did no worse. What it did.
    Passed(Sample),
    /// Why it is taken back.
    Failed(String),
}

impl Trial {
    /// Called when the share has begun.
    pub fn begin(worker: Worker, active: Handle, plan: &Plan) -> Self {
        let canary = Watched { handle: worker.handle(), before: None };
        let active = Watched { handle: active, before: None };
        let now = Instant::now();
        Trial { worker, active, canary, until: now + plan.time(), next_look: now, silent: 0 }
    }

    /// Returns when the trial is over. Cancel safe: a look that was interrupted is taken again.
    pub async fn over(&mut self) -> Outcome {
        loop {
            tokio::select! {
                death = self.canary.handle.died() => return Outcome::Failed(death),
                () = sleep_until(self.next_look) => {}
            }
            let now = Instant::now();
            let Some(canary) = self.canary.sample().await else {
                self.silent += 1;
                if self.silent >= SILENCE {
                    return Outcome::Failed("it does not tell its counters: it hangs".to_owned());
                }
                // One that has just died says why before the next look.
                self.next_look = now + PAUSE;
                continue;
            };
            self.silent = 0;
            if let Some(active) = self.active.sample().await
                && let Some(respect) = worse(active, canary)
            {
                return Outcome::Failed(format!(
                    "more {respect} than the active generation: {canary}; the active one: {active}"
                ));
            }
            if now >= self.until {
                return Outcome::Passed(canary);
            }
            self.next_look = (now + PAUSE).min(self.until);
        }
    }
}

impl Watched {
    /// Since the first sample; none when the worker does not say.
    async fn sample(&mut self) -> Option<Sample> {
        let stats = self.handle.stats(STATS_LIMIT).await?;
        let now = Sample::of(&stats);
        Some(now.since(*self.before.get_or_insert(now)))
    }
}
