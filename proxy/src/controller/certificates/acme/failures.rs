//! When an order that failed is tried again. Let's Encrypt allows five failed validations of a name
//! in an hour: 1, 10 and 100 minutes, and then a day, stay far below it. Pure: time is an argument.

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::config::ChallengeKind;

/// After the first failure, the second and so on; the last one for all that follow.
const WAITS: [Duration; 4] =
    [Duration::minutes(1), Duration::minutes(10), Duration::minutes(100), Duration::days(1)];
/// A CA that asks for more means something else.
const LONGEST: Duration = Duration::days(31);

/// Of one certificate at one CA, since the last success there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub count: usize,
    pub blame: Blame,
    /// Of the last one, for people.
    pub error: String,
    /// The challenge that was shown: another one is tried next.
    #[serde(default)]
    pub challenge: Option<ChallengeKind>,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub next_try: OffsetDateTime,
}

/// Who is at fault, which decides whether another CA is asked meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// Unreachable, overloaded, limiting, or not making sense.
    Ca,
    /// The name: another CA would see the same.
    Name,
    /// This host: its disk is full, or its workers do not answer.
    Host,
    /// Nothing was ordered: the CA would not have seen what it looks for.
    Preflight,
}

impl Failure {
    /// The one that follows `before`. What the CA asks for (Retry-After) is waited for at least.
    pub fn after(
        before: Option<&Failure>,
        blame: Blame,
        error: String,
        retry_after: Option<Duration>,
        now: OffsetDateTime,
    ) -> Self {
        let before = before.map_or(0, |before| before.count);
        let count = if blame == Blame::Preflight { before } else { before + 1 };
        let own = match blame {
            // It costs the CA nothing.
            Blame::Host | Blame::Preflight => WAITS[0],
            Blame::Ca | Blame::Name => WAITS[(count - 1).min(WAITS.len() - 1)],
        };
        let wait = own.max(retry_after.unwrap_or_default()).min(LONGEST);
        Failure { count, blame, error, challenge: None, at: now, next_try: now + wait }
    }

    /// A clock that was set back must not make it wait for years.
    pub fn is_over(&self, now: OffsetDateTime) -> bool {
        now >= self.next_try || now < self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: OffsetDateTime = time::macros::datetime!(2026-01-01 00:00 UTC);

    fn wait(before: Option<&Failure>, blame: Blame, retry_after: Option<Duration>) -> Failure {
        Failure::after(before, blame, "no".to_owned(), retry_after, START)
    }

    #[test]
    fn one_ten_and_a_hundred_minutes_and_then_daily() {
        let mut last = None;
        for minutes in [1, 10, 100, 1440, 1440] {
            let failure = wait(last.as_ref(), Blame::Name, None);
            assert_eq!(failure.next_try - START, Duration::minutes(minutes));
            last = Some(failure);
        }
    }

    #[test]
    fn retry_after_is_obeyed_and_never_shortens() {
        for (retry_after, want) in [
            (Some(Duration::hours(3)), Duration::hours(3)),
            (Some(Duration::seconds(1)), Duration::minutes(1)),
            (Some(Duration::days(4000)), Duration::days(31)),
        ] {
            assert_eq!(wait(None, Blame::Ca, retry_after).next_try - START, want);
        }
    }

    #[test]
    fn what_is_wrong_here_is_tried_again_each_minute() {
        let first = wait(None, Blame::Host, None);
        assert_eq!(wait(Some(&first), Blame::Host, None).next_try - START, Duration::minutes(1));
    }

    #[test]
    fn a_preflight_that_fails_makes_no_other_wait_longer() {
        let first = wait(None, Blame::Preflight, None);
        assert_eq!(first.next_try - START, Duration::minutes(1));
        let second = wait(Some(&first), Blame::Preflight, None);
        assert_eq!(second.next_try - START, Duration::minutes(1));
        let refused = wait(Some(&second), Blame::Name, None);
        assert_eq!(refused.next_try - START, Duration::minutes(1));
        let later = wait(Some(&refused), Blame::Preflight, None);
        assert_eq!(wait(Some(&later), Blame::Name, None).next_try - START, Duration::minutes(10));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_stop_it() {
        let failure = wait(None, Blame::Name, None);
        for (now, want) in [
            (START, false),
            (START + Duration::seconds(59), false),
            (START + Duration::minutes(1), true),
            (START - Duration::days(365), true),
        ] {
            assert_eq!(failure.is_over(now), want, "{now}");
        }
    }
}
