//! systemd's watchdog (sd_notify(3), `WatchdogSec=`): the control loop itself says that it lives, so that
//! one that is stuck is noticed. A task of its own would live on beside it.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Asks for nothing under anything but a service manager that watches.
#[derive(Debug)]
pub struct Watchdog(Option<Interval>);

impl Watchdog {
    /// By WATCHDOG_USEC, where WATCHDOG_PID does not name another process.
    pub fn of_environment() -> Self {
        Watchdog(sd_notify::watchdog_enabled().and_then(pause).map(|pause| {
            let mut due = interval(pause);
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            due
        }))
    }

    /// Returns at once the first time, and whenever a sign of life is due. Cancel safe.
    pub async fn due(&mut self) {
        match &mut self.0 {
            Some(due) => drop(due.tick().await),
            None => std::future::pending().await,
        }
    }
}

/// Twice within the time after which we would be killed, as sd_watchdog_enabled(3) advises; none where
/// that is no time at all.
fn pause(limit: Duration) -> Option<Duration> {
    Some(limit / 2).filter(|pause| !pause.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_life_is_due_twice_within_the_limit() {
        assert_eq!(pause(Duration::from_secs(30)), Some(Duration::from_secs(15)));
        assert_eq!(pause(Duration::ZERO), None);
    }
}
