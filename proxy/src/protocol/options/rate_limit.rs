//! How often one client may ask.

use serde::{Deserialize, Serialize};

/// Above that nothing is limited, below a nanosecond between two requests.
const MOST: u32 = 1_000_000;

/// A bucket of tokens for each client: it holds `burst`, and `requests` come back in `period`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// At least 1.
    pub requests: u32,
    pub period: Period,
    /// At least 1.
    pub burst: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    Second,
    Minute,
    Hour,
}

impl Period {
    pub fn seconds(self) -> u32 {
        match self {
            Period::Second => 1,
            Period::Minute => 60,
            Period::Hour => 3600,
        }
    }
}

impl RateLimit {
    /// `100/s`, `20/m burst=5`, `1000/h`. Without a burst, it is what comes back in a period.
    ///
    /// # Errors
    /// The sentence for what is none; its subject is the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = || "is not a rate: expected as 100/s, 20/m or 1000/h, and burst=N".to_owned();
        let mut words = text.split_ascii_whitespace();
        let (number, period) =
            words.next().and_then(|rate| rate.split_once('/')).ok_or_else(form)?;
        let period = match period {
            "s" => Period::Second,
            "m" => Period::Minute,
            "h" => Period::Hour,
            _ => return Err(form()),
        };
        let requests = count(number)?;
        let burst = match words.next() {
            None => requests,
            Some(word) => count(word.strip_prefix("burst=").ok_or_else(form)?)?,
        };
        match words.next() {
            None => Ok(RateLimit { requests, period, burst }),
            Some(_) => Err(form()),
        }
    }
}

fn count(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number @ 1..=MOST) => Ok(number),
        _ => Err(format!("has a number that is not one from 1 to {MOST}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        use Period::{Hour, Minute, Second};
        let rate = |requests, period, burst| Ok(RateLimit { requests, period, burst });
        for (text, want) in [
            ("100/s", rate(100, Second, 100)),
            ("100/s burst=50", rate(100, Second, 50)),
            (" 20/m  burst=5 ", rate(20, Minute, 5)),
            ("1/h", rate(1, Hour, 1)),
            ("100", Err("is not a rate")),
            ("100/d", Err("is not a rate")),
            ("", Err("is not a rate")),
            ("100/s 50", Err("is not a rate")),
            ("100/s burst=5 x", Err("is not a rate")),
            ("0/s", Err("has a number")),
            ("-1/s", Err("has a number")),
            ("1.5/s", Err("has a number")),
            ("1000001/s", Err("has a number")),
            ("1/s burst=0", Err("has a number")),
            ("99999999999/s", Err("has a number")),
        ] {
            match (RateLimit::parse(text), want) {
                (Err(found), Err(want)) => assert!(found.starts_with(want), "{text}: {found}"),
                (found, want) => assert_eq!(found, want.map_err(str::to_owned), "{text}"),
            }
        }
    }
}
