//! What an upstream is asked, again and again, to know whether it can serve.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protocol::options::proxy_protocol::ProxyProtocol;

const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(2);
const RISE: u32 = 2;
const FALL: u32 = 3;
/// Longest path, in bytes.
const PATH_BYTES: usize = 1024;

/// `GET path`, which is passed by an answer of 2xx or 3xx.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HealthCheck {
    /// With the query, if it has one.
    pub path: String,
    /// For the field `Host`; `None`: the address.
    pub host: Option<String>,
    /// Between the end of a check and the next one.
    pub interval: Duration,
    /// For all of a check, from connect to the head of the answer.
    pub timeout: Duration,
    /// So many in a row are passed before it is in rotation.
    pub rise: u32,
    /// So many in a row are failed before it is out of it.
    pub fall: u32,
    /// Over TLS, without a look at the certificate.
    pub tls: bool,
    /// In front of the connection, where it is expected.
    #[serde(default)]
    pub proxy_protocol: Option<ProxyProtocol>,
}

impl HealthCheck {
    /// More in a row would be a slip: at an interval of 5 s they take eight minutes.
    pub const IN_A_ROW: RangeInclusive<u64> = 1..=100;

    /// One of which nothing but the path is said.
    pub fn new(path: String) -> Self {
        HealthCheck {
            path,
            host: None,
            interval: INTERVAL,
            timeout: TIMEOUT,
            rise: RISE,
            fall: FALL,
            tls: false,
            proxy_protocol: None,
        }
    }

    /// # Errors
    /// The sentence for what is no path to ask for; its subject is the text.
    pub fn path(text: &str) -> Result<String, String> {
        let is_path = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic());
        if is_path && !text.contains('#') && text.len() <= PATH_BYTES {
            return Ok(text.to_owned());
        }
        Err(format!(
            "is not a path to ask for: it begins with `/`, has no blank and no `#`, and at most \
             {PATH_BYTES} bytes"
        ))
    }

    /// # Errors
    /// As [`HealthCheck::path`].
    pub fn in_a_row(text: &str) -> Result<u32, String> {
        let number = text.parse().ok().filter(|number| Self::IN_A_ROW.contains(number));
        let number = number.and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| {
            let (low, high) = (Self::IN_A_ROW.start(), Self::IN_A_ROW.end());
            format!("is not a number of checks: expected {low} to {high}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_numbers() {
        for (text, good) in [
            ("/", true),
            ("/up?deep=1", true),
            ("", false),
            ("up", false),
            ("/a b", false),
            ("/a#b", false),
            ("/\r\nX: 1", false),
            ("/ä", false),
        ] {
            assert_eq!(HealthCheck::path(text).is_ok(), good, "{text}");
        }
        assert!(HealthCheck::path(&format!("/{}", "x".repeat(PATH_BYTES))).is_err());
        for (text, want) in [("1", Some(1)), ("100", Some(100)), ("0", None), ("101", None)] {
            assert_eq!(HealthCheck::in_a_row(text).ok(), want, "{text}");
        }
    }
}
