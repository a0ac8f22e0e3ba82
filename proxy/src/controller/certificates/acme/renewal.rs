//! When a certificate is renewed. Pure: time is an argument, and chance comes from the certificate.

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

/// Below this a life is short: half of it is left for what may go wrong, not a third.
const SHORT_LIFE: Duration = Duration::days(10);
/// Certificates that came together are not renewed together: earlier by up to this part of the rest.
const JITTER: i32 = 10;
/// A window is asked for anew at least this often (RFC 9773 section 4.3.2 leaves it to the CA).
pub const LONGEST_PAUSE: Duration = Duration::hours(12);
/// A CA that wants to be asked more often is not.
const SHORTEST_PAUSE: Duration = Duration::minutes(1);
/// After a look that failed.
pub const FAILED_PAUSE: Duration = Duration::hours(1);
/// A certificate that has just replaced another one is kept this long, or for a third of its life,
/// whatever the CA suggests and whatever our clock says: with a window that always lies in the past, or
/// a clock that is far ahead, it would be ordered without end.
const SHORTEST_SERVICE: Duration = Duration::hours(1);

/// What a CA suggests for one certificate (RFC 9773).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Whose: authority key identifier and serial.
    pub certificate: String,
    #[serde(with = "time::serde::rfc3339")]
    pub start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub end: OffsetDateTime,
    /// When to ask again.
    #[serde(with = "time::serde::rfc3339")]
    pub next_look: OffsetDateTime,
}

impl Window {
    /// When to ask again, if the CA said `pause`.
    pub fn next_look(pause: Duration, now: OffsetDateTime) -> OffsetDateTime {
        now + pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
    }

    /// A clock that was set back must not make it wait for years.
    pub fn is_outdated(&self, now: OffsetDateTime) -> bool {
        now >= self.next_look || self.next_look - now > LONGEST_PAUSE
    }
}

/// The life of a certificate, and what its bytes give for chance.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// From 0 to 1, another one for each certificate and always the same for one: a restart changes
    /// nothing.
    pub chance: f64,
}

/// From 0 to 1.
pub fn chance(der: &[u8]) -> f64 {
    let hash = digest(&SHA256, der);
    let (head, _) = hash.as_ref().split_first_chunk().expect("SHA-256 has 32 bytes");
    f64::from(u32::from_be_bytes(*head)) / f64::from(u32::MAX)
}

/// At a random second of the window, else at two thirds of the life (half where it is short), less
/// a jitter. A window that lies behind the end is a mistake.
pub fn due(life: Life, window: Option<&Window>) -> OffsetDateTime {
    let whole = life.not_after - life.not_before;
    let rest = if whole < SHORT_LIFE { whole / 2 } else { whole / 3 };
    match window {
        Some(window) if window.start <= window.end && window.start < life.not_after => {
            let at = window.start + (window.end - window.start) * life.chance;
            at.min(life.not_after - rest / JITTER)
        }
        _ => life.not_after - rest - rest / JITTER * life.chance,
    }
}

/// Until when a certificate is kept that took the place of another one at `replaced`. A clock that was
/// set back since says nothing.
pub fn kept_until(
    life: Life,
    replaced: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> Option<OffsetDateTime> {
    let service = SHORTEST_SERVICE.min((life.not_after - life.not_before) / 3);
    let replaced = replaced.filter(|&replaced| replaced <= now && now < replaced + service)?;
    Some(replaced + service)
}

/// A warning is worth it: what is left is less than a quarter, and it was to be renewed long ago.
pub fn is_late(life: Life, now: OffsetDateTime) -> bool {
    life.not_after - now < (life.not_after - life.not_before) / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: OffsetDateTime = time::macros::datetime!(2026-01-01 00:00 UTC);

    fn life(days: i64, chance: f64) -> Life {
        Life { not_before: START, not_after: START + Duration::days(days), chance }
    }

    fn window(start: i64, end: i64) -> Option<Window> {
        Some(Window {
            certificate: String::new(),
            start: START + Duration::days(start),
            end: START + Duration::days(end),
            next_look: START,
        })
    }

    #[test]
    fn renewal_days() {
        for (days, chance, window, want) in [
            (90, 0.0, None, Duration::days(60)),
            (90, 1.0, None, Duration::days(57)),
            (6, 0.0, None, Duration::days(3)),
            (6, 1.0, None, Duration::days(3) - Duration::hours(7) - Duration::minutes(12)),
            (90, 0.5, window(50, 52), Duration::days(51)),
            (90, 0.0, window(50, 52), Duration::days(50)),
            // A revocation: the CA wants it to have been renewed already.
            (90, 0.5, window(-2, -1), Duration::days(-2) + Duration::hours(12)),
            // Mistakes of the CA.
            (90, 0.0, window(52, 50), Duration::days(60)),
            (90, 0.0, window(100, 101), Duration::days(60)),
            (90, 1.0, window(80, 100), Duration::days(87)),
        ] {
            assert_eq!(due(life(days, chance), window.as_ref()) - START, want, "{days} {window:?}");
        }
    }

    #[test]
    fn what_has_just_been_renewed_is_kept_for_a_while() {
        let minute = Duration::minutes;
        for (days, replaced, now, want) in [
            (90, None, minute(10), None),
            (90, Some(minute(5)), minute(10), Some(minute(65))),
            (90, Some(minute(5)), minute(65), None),
            // By a clock that is ahead of the certificate's end.
            (
                90,
                Some(Duration::days(100)),
                Duration::days(100),
                Some(Duration::days(100) + minute(60)),
            ),
            // And was set right again.
            (90, Some(Duration::days(100)), minute(10), None),
        ] {
            let replaced = replaced.map(|replaced| START + replaced);
            let kept = kept_until(life(days, 0.5), replaced, START + now);
            assert_eq!(kept.map(|until| until - START), want, "{replaced:?} {now}");
        }
        let short = Life { not_after: START + Duration::seconds(45), ..life(0, 0.5) };
        assert_eq!(kept_until(short, Some(START), START), Some(START + Duration::seconds(15)));
    }

    #[test]
    fn a_window_is_looked_at_again_whatever_becomes_of_the_clock() {
        let window =
            Window { next_look: START + Duration::hours(12), ..window(50, 52).expect("a window") };
        for (now, want) in [
            (START, false),
            (START + Duration::hours(12), true),
            (START + Duration::days(365), true),
            (START - Duration::days(365), true),
        ] {
            assert_eq!(window.is_outdated(now), want, "{now}");
        }
    }

    #[test]
    fn the_last_quarter_is_late() {
        for (day, want) in [(60, false), (67, false), (68, true), (89, true)] {
            assert_eq!(is_late(life(90, 0.0), START + Duration::days(day)), want, "day {day}");
        }
    }

    #[test]
    fn the_ca_is_asked_at_least_twice_a_day() {
        for (pause, want) in [
            (Duration::hours(6), Duration::hours(6)),
            (Duration::days(3), Duration::hours(12)),
            (Duration::ZERO, Duration::minutes(1)),
        ] {
            assert_eq!(Window::next_look(pause, START) - START, want);
        }
    }

    #[test]
    fn chance_is_between_0_and_1_and_differs() {
        let (one, two) = (chance(b"one"), chance(b"two"));
        assert!((0.0..=1.0).contains(&one) && (0.0..=1.0).contains(&two) && one != two);
    }

    #[test]
    fn whatever_a_ca_suggests_it_is_renewed_before_the_end() {
        let born = OffsetDateTime::UNIX_EPOCH + Duration::days(20_000);
        let hours = [-100_000, -1, 0, 1, 24, 80, 1_000, 3_000, 100_000];
        for days in [1, 6, 7, 9, 10, 11, 47, 90, 398] {
            for chance in [0.0, 0.25, 0.5, 1.0] {
                let not_after = born + Duration::days(days);
                let life = Life { not_before: born, not_after, chance };
                let own = due(life, None);
                assert!(born < own && own < not_after, "{days} {chance}");
                for (start, length) in hours.iter().flat_map(|a| hours.map(|b| (*a, b))) {
                    let start = born + Duration::hours(start);
                    let window = Window {
                        certificate: String::new(),
                        start,
                        end: start + Duration::hours(length),
                        next_look: born,
                    };
                    let at = due(life, Some(&window));
                    assert!(at < not_after, "{days} {chance} {window:?}");
                    assert!(at >= window.start.min(own), "{days} {chance} {window:?}");
                }
            }
        }
    }
}
