//! Header fields that a route sets, adds or takes away.

use std::fmt;

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

/// One change. Its name is spelled as it was written, and compared without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    pub name: String,
    pub change: Change,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The one value, whatever came.
    Set(String),
    /// One value more.
    Add(String),
    Remove,
}

impl fmt::Debug for Change {
    // A value may be a secret, such as a token for the upstream: it must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Change::Set(_) => "Set(..)",
            Change::Add(_) => "Add(..)",
            Change::Remove => "Remove",
        })
    }
}

/// On which way a field goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Request,
    Response,
}

/// RFC 9110 section 7.6.1: they belong to one hop. The length and the coding of a body belong to it,
/// too: a wrong one would make two messages of one.
const OF_ONE_HOP: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "proxy",
];

impl Change {
    pub fn as_str(&self) -> &'static str {
        match self {
            Change::Set(_) => "set",
            Change::Add(_) => "add",
            Change::Remove => "remove",
        }
    }
}

impl FieldChange {
    /// # Errors
    /// The sentence for what cannot be changed; its subject is the setting.
    pub fn new(side: Side, name: &str, change: Change) -> Result<Self, String> {
        check_name(side, name)?;
        if let Change::Set(value) | Change::Add(value) = &change {
            check_value(value)?;
        }
        Ok(FieldChange { name: name.to_owned(), change })
    }
}

/// # Errors
/// As [`FieldChange::new`].
pub fn check_name(side: Side, name: &str) -> Result<(), String> {
    // Lower case whatever came.
    let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
        return Err("is not the name of a header field".to_owned());
    };
    let name = parsed.as_str();
    if OF_ONE_HOP.contains(&name) {
        return Err("cannot be changed: it belongs to the connection, not to the route".to_owned());
    }
    // In any spelling that an application could take for it.
    let dashed = name.replace('_', "-");
    let is_forwarding = matches!(dashed.as_str(), "forwarded" | "x-real-ip")
        || ["x-forwarded-", "x-original-"].iter().any(|prefix| dashed.starts_with(prefix));
    if side == Side::Request && is_forwarding {
        return Err("cannot be changed: it says where a request comes from".to_owned());
    }
    Ok(())
}

fn check_value(value: &str) -> Result<(), String> {
    match value.is_ascii() && HeaderValue::from_str(value).is_ok() {
        true => Ok(()),
        false => Err("has a value with more in it than one line of ASCII".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_may_be_changed() {
        for (side, name, value, problem) in [
            (Side::Response, "X-Frame-Options", "DENY", None),
            (Side::Response, "content-security-policy", "default-src 'self'; x", None),
            (Side::Response, "X-Forwarded-For", "a", None),
            (Side::Request, "Authorization", "Bearer x", None),
            (Side::Request, "X-Forwarded-For", "a", Some("cannot be changed: it says")),
            (Side::Request, "X_Original-URI", "a", Some("cannot be changed: it says")),
            (Side::Request, "x-real-ip", "a", Some("cannot be changed: it says")),
            (Side::Response, "Connection", "close", Some("cannot be changed: it belongs")),
            (Side::Response, "CONTENT-LENGTH", "0", Some("cannot be changed: it belongs")),
            (Side::Response, "Transfer-Encoding", "chunked", Some("cannot be changed")),
            (Side::Request, "Host", "a", Some("cannot be changed")),
            (Side::Request, "Proxy", "a", Some("cannot be changed")),
            (Side::Response, "A B", "x", Some("is not the name")),
            (Side::Response, "", "x", Some("is not the name")),
            (Side::Response, "X:", "x", Some("is not the name")),
            (Side::Response, "X", "a\r\nB: c", Some("has a value")),
            (Side::Response, "X", "a\0", Some("has a value")),
            (Side::Response, "X", "ü", Some("has a value")),
        ] {
            let made = FieldChange::new(side, name, Change::Set(value.to_owned()));
            match (made, problem) {
                (Ok(made), None) => assert_eq!(made.name, name),
                (Err(found), Some(want)) => assert!(found.starts_with(want), "{name}: {found}"),
                (made, _) => panic!("{name}: {made:?}"),
            }
        }
    }

    #[test]
    fn values_reach_no_log() {
        let change = Change::Set("hunter2".to_owned());
        let made = FieldChange::new(Side::Request, "Authorization", change).expect("good");
        assert!(!format!("{made:?}").contains("hunter2"));
    }
}
