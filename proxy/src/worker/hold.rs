//! A request whose route nobody answers for at the moment waits for the next upstream, in place of
//! failing: its container restarts, or is replaced. The body stays with the client meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::local::{Local, Routing};
use super::table::Route;

/// How long after upstreams have refused a connection the controller may take to say that they are
/// gone: Docker tells of a death after it.
const REFUSED_LIMIT: Duration = Duration::from_secs(1);

/// Requests of one route that wait, on all threads.
#[derive(Debug, Default)]
pub struct Waiting(AtomicUsize);

/// Why a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Nobody is in rotation.
    Vacant,
    /// Whoever is in rotation could not be reached.
    Refused,
    /// A person wants requests to wait, this much longer.
    Paused(Duration),
}

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Waited {
    /// There is another table, or a pause is over.
    News,
    /// It may wait no longer, or too many do.
    Over,
    /// The client has given up.
    Gone,
}

/// One request's patience.
#[derive(Debug, Default)]
pub struct Patience {
    vacant_until: Option<Instant>,
    refused_until: Option<Instant>,
    is_counted: bool,
}

impl Patience {
    /// Waits for another table than `routing` is of, until the client is `gone`.
    pub async fn wait(
        &mut self,
        local: &Local,
        (routing, route): (&Routing, &Route),
        lack: Lack,
        gone: impl Future<Output = ()>,
    ) -> Waited {
        let mut news = local.news();
        // It may be there already, which is no wait.
        if !Arc::ptr_eq(&local.routing().table, &routing.table) {
            return Waited::News;
        }
        let hold = &local.settings.hold;
        let now = Instant::now();
        let until = match lack {
            Lack::Paused(rest) => now + rest,
            _ if !route.hold || hold.limit.is_zero() => return Waited::Over,
            Lack::Vacant => {
                // Whoever comes next may refuse for a moment, as the one before did.
                self.refused_until = None;
                *self.vacant_until.get_or_insert(now + hold.limit)
            }
            Lack::Refused => *self.refused_until.get_or_insert(now + REFUSED_LIMIT.min(hold.limit)),
        };
        let Some(_entered) = route.waiting.enter(hold.requests) else { return Waited::Over };
        let _held = local.stats.requests_held.enter();
        if !std::mem::replace(&mut self.is_counted, true) {
            local.stats.holds.add(1);
        }
        tokio::select! {
            biased;
            changed = news.changed() => match changed {
                Ok(()) => Waited::News,
                // The worker ends.
                Err(_) => Waited::Over,
            },
            () = sleep_until(until) => match lack {
                // The end of a pause needs nobody to say so.
                Lack::Paused(_) => Waited::News,
                Lack::Vacant | Lack::Refused => Waited::Over,
            },
            () = gone => Waited::Gone,
        }
    }
}

impl Waiting {
    fn enter(&self, most: usize) -> Option<Entered<'_>> {
        let entered = Entered(self);
        // Leaves again when dropped, whether there is room or not.
        (self.0.fetch_add(1, Ordering::Relaxed) < most).then_some(entered)
    }
}

struct Entered<'a>(&'a Waiting);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_wait_than_may() {
        let waiting = Waiting::default();
        let one = waiting.enter(2);
        let two = waiting.enter(2);
        assert!(one.is_some() && two.is_some());
        assert!(waiting.enter(2).is_none());
        drop(one);
        assert!(waiting.enter(2).is_some());
    }
}
