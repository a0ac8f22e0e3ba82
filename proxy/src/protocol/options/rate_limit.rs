//! How often one client may ask.

use http::HeaderName;
use serde::{Deserialize, Serialize};

/// Above that nothing is limited, below a nanosecond between two requests.
const MOST: u32 = 1_000_000;

/// A bucket of tokens for each client: it holds `burst`, and `requests` come back in `period`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// At least 1.
    pub requests: u32,
    pub period: Period,
    /// At least 1.
    pub burst: u32,
    /// Whose they are: the value of this field, in lower case; the address where a request has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
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
    /// `100/s`, `20/m burst=5`, `1000/h header=X-Key`. Without a burst, it is what comes back in a period.
    ///
    /// # Errors
    /// The sentence for what is none; its subject is the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = || {
            "is not a rate: expected as 100/s, 20/m or 1000/h, and burst=N, header=NAME".to_owned()
        };
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
        let mut limit = RateLimit { requests, period, burst: requests, header: None };
        for word in words {
            match word.split_once('=') {
                Some(("burst", number)) => limit.burst = count(number)?,
                Some(("header", name)) => limit.header = Some(field(name)?),
                _ => return Err(form()),
            }
        }
        Ok(limit)
    }
}

fn count(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number @ 1..=MOST) => Ok(number),
        _ => Err(format!("has a number that is not one from 1 to {MOST}")),
    }
}

fn field(name: &str) -> Result<String, String> {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(_) => Err(format!("names `{name}`, which is no header field")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        use Period::{Hour, Minute, Second};
        let rate =
            |requests, period, burst| Ok(RateLimit { requests, period, burst, header: None });
        let by = |limit: Result<_, &'static str>, name: &str| {
            limit.map(|limit| RateLimit { header: Some(name.to_owned()), ..limit })
        };
        for (text, want) in [
            ("100/s", rate(100, Second, 100)),
            ("100/s burst=50", rate(100, Second, 50)),
            (" 20/m  burst=5 ", rate(20, Minute, 5)),
            ("1/h", rate(1, Hour, 1)),
            ("5/m header=X-Key burst=9", by(rate(5, Minute, 9), "x-key")),
            ("5/m header=a:b", Err("names `a:b`")),
            ("5/m key=a", Err("is not a rate")),
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
