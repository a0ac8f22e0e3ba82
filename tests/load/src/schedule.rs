//! An open loop: requests are due at a fixed rate, whatever has become of those before.
//!
//! Latency counts from when a request was due, so that a pause of the server is felt by every request
//! that it delays, and not only by those that happened to be under way.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Before the first request, for clients to connect.
const LEAD: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(crate) struct Schedule {
    first: Instant,
    per_second: u64,
    /// Requests that are due and that no client has taken.
    due: Semaphore,
    taken: AtomicU64,
}

impl Schedule {
    /// Begins; it ends when it is dropped.
    pub(crate) fn start(per_second: u64) -> Arc<Self> {
        let schedule = Arc::new(Schedule {
            first: Instant::now() + LEAD,
            per_second: per_second.max(1),
            due: Semaphore::new(0),
            taken: AtomicU64::new(0),
        });
        let weak = Arc::downgrade(&schedule);
        thread::spawn(move || release(&weak));
        schedule
    }

    /// Waits for the next request, and says when it was due. Cancel safe.
    pub(crate) async fn next(&self) -> Instant {
        self.due.acquire().await.expect("nobody closes it").forget();
        self.time_of(self.taken.fetch_add(1, Relaxed))
    }

    fn time_of(&self, number: u64) -> Instant {
        let nanos = u128::from(number) * 1_000_000_000 / u128::from(self.per_second);
        self.first + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// On a thread of its own: timers of the runtime have milliseconds, and there are several requests in one.
fn release(schedule: &Weak<Schedule>) {
    for number in 0.. {
        let Some(time) = schedule.upgrade().map(|schedule| schedule.time_of(number)) else {
            return;
        };
        while let Some(left) = time.checked_duration_since(Instant::now()).filter(|t| !t.is_zero())
        {
            thread::park_timeout(left);
        }
        if let Some(schedule) = schedule.upgrade() {
            schedule.due.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_due_at_the_rate_even_when_nobody_takes_them() {
        let schedule = Schedule::start(1_000);
        let first = schedule.next().await;
        assert!(first <= Instant::now());
        // Long after it was due, the third is still due 2 ms after the first.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let second = schedule.next().await;
        let third = schedule.next().await;
        assert_eq!(second - first, Duration::from_millis(1));
        assert_eq!(third - first, Duration::from_millis(2));
    }
}
