//! A canary: what it is to get, and the judgement of how it does beside the active generation. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use baton_layout::Share;
use serde::{Deserialize, Serialize};

use crate::protocol::frame::WorkerStats;

/// How much worse than the active generation a canary may do: this part of its answers, or of its
/// connections, may fail in addition.
const MARGIN: f64 = 0.01;
/// As many more failures are chance: below it a canary with few requests would fail by one of them.
const CHANCE: f64 = 2.0;
/// A canary of more than a day is a slip of the unit.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The share of new connections that a new generation is tried on, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub share: Percent,
    pub seconds: u64,
}

impl Plan {
    /// Until which its time is over.
    pub fn time(&self) -> Duration {
        Duration::from_secs(self.seconds).min(LONGEST)
    }
}

/// A share of new connections, from 0.01 % to 100 %; as text `5%`, `0.5%`, or without the sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Percent(Share);

#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a share: expected more than 0% and at most 100%, as 5% or 0.5%")]
pub struct NotAShare(String);

impl Percent {
    pub fn share(self) -> Share {
        self.0
    }
}

impl FromStr for Percent {
    type Err = NotAShare;

    fn from_str(text: &str) -> Result<Self, NotAShare> {
        let wrong = || NotAShare(text.to_owned());
        let number: f64 = text.trim_end_matches('%').trim().parse().map_err(|_| wrong())?;
        // What is not a number, or negative, becomes 0.
        let hundredths = (number * 100.0).round() as u16;
        match Share::new(hundredths) {
            Some(share) if share != Share::NONE => Ok(Percent(share)),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Percent {
    type Error = NotAShare;

    fn try_from(text: String) -> Result<Self, NotAShare> {
        text.parse()
    }
}

impl From<Percent> for String {
    fn from(percent: Percent) -> String {
        percent.to_string()
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0.hundredths_of_a_percent()) / 100.0)
    }
}

/// What a generation has done by a moment, as far as it tells good from bad.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    pub connections: u64,
    pub handshake_failures: u64,
    pub answers: u64,
    /// Answers of status 5xx.
    pub errors: u64,
}

impl Sample {
    pub fn of(stats: &WorkerStats) -> Self {
        Sample {
            connections: stats.accepted,
            handshake_failures: stats.handshake_failures,
            // An informational answer (1xx) has another one after it.
            answers: stats.responses[1..].iter().sum(),
            errors: stats.responses[4],
        }
    }

    /// What came after `before`; a process that was replaced meanwhile has begun anew.
    #[must_use]
    pub fn since(self, before: Sample) -> Sample {
        Sample {
            connections: self.connections.saturating_sub(before.connections),
            handshake_failures: self.handshake_failures.saturating_sub(before.handshake_failures),
            answers: self.answers.saturating_sub(before.answers),
            errors: self.errors.saturating_sub(before.errors),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sample { connections, handshake_failures, answers, errors } = self;
        write!(
            f,
            "{connections} connections, {handshake_failures} failed handshakes, {answers} answers, \
             {errors} of them 5xx"
        )
    }
}

/// Whether a canary does worse than the active generation did in the same time, by more than
/// [`MARGIN`] and [`CHANCE`]; in which respect, then.
pub fn worse(active: Sample, canary: Sample) -> Option<&'static str> {
    let respects = [
        ("5xx answers", active.errors, active.answers, canary.errors, canary.answers),
        (
            "failed handshakes",
            active.handshake_failures,
            active.connections,
            canary.handshake_failures,
            canary.connections,
        ),
    ];
    respects
        .into_iter()
        .find(|&(_, bad, all, canary_bad, canary_all)| {
            let rate = if all == 0 { 0.0 } else { bad as f64 / all as f64 };
            canary_bad as f64 > CHANCE + (rate + MARGIN) * canary_all as f64
        })
        .map(|(respect, ..)| respect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_parse_and_print() {
        for (text, want) in [
            ("5%", Some("5%")),
            ("5", Some("5%")),
            ("0.5 %", Some("0.5%")),
            ("0.01%", Some("0.01%")),
            ("100%", Some("100%")),
            ("0%", None),
            ("0.001%", None),
            ("100.01%", None),
            ("-1%", None),
            ("NaN", None),
            ("a lot", None),
            ("", None),
        ] {
            let parsed = text.parse::<Percent>().map(|percent| percent.to_string());
            assert_eq!(parsed.ok().as_deref(), want, "{text}");
        }
    }

    #[test]
    fn a_plan_is_read_and_written() {
        let text = r#"{"share":"2.5%","seconds":30}"#;
        let plan: Plan = serde_json::from_str(text).expect("a plan");
        assert_eq!(plan.share.share(), Share::new(250).expect("a share"));
        assert_eq!(serde_json::to_string(&plan).expect("json"), text);
        let error = serde_json::from_str::<Plan>(r#"{"share":"0%","seconds":1}"#);
        assert_eq!(
            error.expect_err("nothing").to_string(),
            "`0%` is not a share: expected more than 0% and at most 100%, as 5% or 0.5% at line 1 \
             column 13"
        );
    }

    #[test]
    fn a_canary_is_judged_beside_the_active_generation() {
        // Failed handshakes of connections, 5xx of answers.
        let sample = |handshake_failures, connections, errors, answers| Sample {
            connections,
            handshake_failures,
            answers,
            errors,
        };
        let good = sample(0, 1000, 0, 10_000);
        for (active, canary, want) in [
            (good, sample(0, 50, 0, 500), None),
            // Nobody came: there is nothing to hold against it.
            (good, sample(0, 0, 0, 0), None),
            (sample(0, 0, 0, 0), sample(0, 10, 0, 10), None),
            // Chance.
            (good, sample(0, 5, 2, 5), None),
            (good, sample(2, 2, 0, 0), None),
            (good, sample(0, 5, 3, 5), Some("5xx answers")),
            (good, sample(3, 3, 0, 0), Some("failed handshakes")),
            // The margin: one in a hundred more.
            (good, sample(0, 50, 102, 10_000), None),
            (good, sample(0, 50, 103, 10_000), Some("5xx answers")),
            // An upstream that fails, fails behind both.
            (sample(0, 1000, 5_000, 10_000), sample(0, 50, 255, 500), None),
            (sample(0, 1000, 5_000, 10_000), sample(0, 50, 258, 500), Some("5xx answers")),
            (sample(100, 1000, 0, 0), sample(12, 100, 0, 0), None),
            (sample(100, 1000, 0, 0), sample(14, 100, 0, 0), Some("failed handshakes")),
        ] {
            assert_eq!(worse(active, canary), want, "{active} | {canary}");
        }
    }

    #[test]
    fn counters_that_began_anew_are_nothing() {
        let before = Sample { connections: 10, handshake_failures: 1, answers: 7, errors: 3 };
        let after = Sample { connections: 12, handshake_failures: 0, answers: 9, errors: 3 };
        let want = Sample { connections: 2, handshake_failures: 0, answers: 2, errors: 0 };
        assert_eq!(after.since(before), want);
    }

    #[test]
    fn informational_answers_do_not_count() {
        let stats = WorkerStats { responses: [9, 4, 3, 2, 1], accepted: 5, ..Default::default() };
        let want = Sample { connections: 5, handshake_failures: 0, answers: 10, errors: 1 };
        assert_eq!(Sample::of(&stats), want);
    }
}
