//! When to start the next worker after one died: at once, until dying has become a habit.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Deaths within [`WINDOW`] that are answered at once.
const PATIENCE: usize = 5;
const WINDOW: Duration = Duration::from_secs(10);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// What the recent deaths say about the next start. Time is an argument.
#[derive(Debug, Default)]
pub struct Backoff {
    recent: VecDeque<Instant>,
    delay: Duration,
}

impl Backoff {
    /// A worker that had lived for `lived` died at `now`: how long to wait before the next one.
    pub fn after_death(&mut self, now: Instant, lived: Duration) -> Duration {
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|death| now.duration_since(*death) > WINDOW) {
            self.recent.pop_front();
        }
        self.delay = if lived >= WINDOW {
            Duration::ZERO
        } else if !self.delay.is_zero() {
            (self.delay * 2).min(LONGEST_DELAY)
        } else if self.recent.len() > PATIENCE {
            FIRST_DELAY
        } else {
            Duration::ZERO
        };
        self.delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds deaths as (milliseconds since the start, milliseconds lived).
    fn delays(deaths: &[(u64, u64)]) -> Vec<u64> {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        deaths
            .iter()
            .map(|(at, lived)| {
                let now = start + Duration::from_millis(*at);
                backoff.after_death(now, Duration::from_millis(*lived)).as_millis() as u64
            })
            .collect()
    }

    #[test]
    fn five_quick_deaths_are_answered_at_once() {
        let quick: Vec<_> = (0..5).map(|n| (n * 10, 10)).collect();
        assert_eq!(delays(&quick), [0; 5]);
    }

    #[test]
    fn the_sixth_waits_and_each_one_after_it_twice_as_long_up_to_five_seconds() {
        let mut at = 0;
        let deaths: Vec<_> = (0..14)
            .map(|_| {
                at += 1000;
                (at, 1)
            })
            .collect();
        assert_eq!(
            delays(&deaths),
            [0, 0, 0, 0, 0, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]
        );
    }

    #[test]
    fn deaths_long_apart_are_no_loop() {
        let slow: Vec<_> = (0..20).map(|n| (n * 3000, 3000)).collect();
        assert_eq!(delays(&slow), [0; 20]);
    }

    #[test]
    fn a_worker_that_lived_ends_the_loop() {
        let deaths =
            [(0, 1), (10, 1), (20, 1), (30, 1), (40, 1), (50, 1), (20_000, 19_000), (20_010, 1)];
        assert_eq!(delays(&deaths), [0, 0, 0, 0, 0, 100, 0, 0]);
    }

    #[test]
    fn no_order_of_deaths_waits_too_long_or_twice_as_long_and_more() {
        let start = Instant::now();
        // Each number is an order of six kinds of gaps, six deaths long.
        for order in 0..6_u32.pow(6) {
            let (mut backoff, mut now, mut before) = (Backoff::default(), start, Duration::ZERO);
            for death in 0..6 {
                let gap =
                    [0, 1, 500, 5_000, 10_000, 60_000][(order / 6_u32.pow(death) % 6) as usize];
                let lived = Duration::from_millis(gap);
                now += lived + before;
                let delay = backoff.after_death(now, lived);
                assert!(delay <= LONGEST_DELAY, "{order}");
                assert!(delay <= FIRST_DELAY.max(before * 2), "{order}");
                assert!(lived < WINDOW || delay.is_zero(), "{order}");
                assert!(backoff.recent.len() <= death as usize + 1, "{order}");
                before = delay;
            }
        }
    }
}
