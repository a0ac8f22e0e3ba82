//! A cookie that brings a client back to the upstream that it began with.

use serde::{Deserialize, Serialize};

/// What it is called when nothing else is said.
const USUAL: &str = "baton_sticky";
/// Longest name, in bytes.
const NAME_BYTES: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sticky {
    /// Name of the cookie.
    pub cookie: String,
}

impl Sticky {
    /// `cookie`, or `cookie NAME`.
    ///
    /// # Errors
    /// The sentence for what is neither; its subject is the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_ascii_whitespace();
        let (kind, name, rest) = (words.next(), words.next(), words.next());
        if kind != Some("cookie") || rest.is_some() {
            return Err("is neither `cookie` nor `cookie NAME`".to_owned());
        }
        let cookie = name.unwrap_or(USUAL);
        // Names that begin so promise browsers what not every route keeps (`__Host-`, `__Secure-`).
        if cookie.len() > NAME_BYTES || cookie.starts_with("__") || !is_token(cookie) {
            return Err(format!(
                "names a cookie that cannot be: letters, digits, `-`, `_` and `.`, at most \
                 {NAME_BYTES} bytes, not `__` in front"
            ));
        }
        Ok(Sticky { cookie: cookie.to_owned() })
    }
}

fn is_token(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let cookie = |name: &str| Ok(Sticky { cookie: name.to_owned() });
        for (text, want) in [
            ("cookie", cookie("baton_sticky")),
            (" cookie  srv.1 ", cookie("srv.1")),
            ("true", Err("is neither")),
            ("", Err("is neither")),
            ("cookie a b", Err("is neither")),
            ("cookie a=b", Err("names a cookie")),
            ("cookie ä", Err("names a cookie")),
            ("cookie __Host-a", Err("names a cookie")),
        ] {
            match (Sticky::parse(text), want) {
                (Err(found), Err(want)) => assert!(found.starts_with(want), "{text}: {found}"),
                (found, want) => assert_eq!(found, want.map_err(str::to_owned), "{text}"),
            }
        }
    }
}
