//! Which pages of other origins may read a route's answers (the Fetch standard's CORS protocol).

use http::Uri;
use serde::{Deserialize, Serialize};

/// Most origins of one route.
const MAX_ORIGINS: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    /// As browsers write them, in lower case; `*` is any, `https://*.example.com` any name below.
    pub origins: Vec<String>,
    /// With cookies and passwords. Never together with `*`.
    pub credentials: bool,
}

impl Cors {
    /// Comma list of origins, and `credentials` among them.
    ///
    /// # Errors
    /// The sentence for what is none of them; its subject is the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut cors = Cors { origins: Vec::new(), credentials: false };
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match item.to_ascii_lowercase() {
                word if word == "credentials" => cors.credentials = true,
                origin if origin == "*" || is_origin(&origin) => cors.origins.push(origin),
                _ => {
                    return Err(format!(
                        "has `{item}`, which is no origin: expected `*`, or as \
                                         https://app.example.com or https://*.example.com"
                    ));
                }
            }
        }
        let any = cors.origins.iter().any(|origin| origin == "*");
        match cors.origins.len() {
            0 => Err("names no origin".to_owned()),
            length if length > MAX_ORIGINS => Err(format!("names more than {MAX_ORIGINS} origins")),
            _ if any && cors.credentials => {
                Err("would let every site act for who is logged in: name the origins".to_owned())
            }
            _ => Ok(cors),
        }
    }

    /// Whether this origin, as a browser has sent it, is one of them.
    pub fn admits(&self, origin: &[u8]) -> bool {
        self.origins.iter().any(|known| match known.split_once("*.") {
            _ if known == "*" => true,
            None => known.as_bytes().eq_ignore_ascii_case(origin),
            Some((scheme, parent)) => is_below(origin, scheme, parent),
        })
    }

    pub fn is_any(&self) -> bool {
        self.origins.iter().any(|origin| origin == "*")
    }
}

/// `scheme://NAME.parent`, and nothing but a name for NAME.
fn is_below(origin: &[u8], scheme: &str, parent: &str) -> bool {
    let origin = origin.to_ascii_lowercase();
    let Some(name) = origin.strip_prefix(scheme.as_bytes()) else { return false };
    let Some(name) = name.strip_suffix(parent.as_bytes()) else { return false };
    let Some(name) = name.strip_suffix(b".") else { return false };
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    !name.is_empty() && name.iter().all(is_part)
}

fn is_origin(text: &str) -> bool {
    let bare = text.replacen("://*.", "://", 1);
    let Ok(uri) = bare.parse::<Uri>() else { return false };
    let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
    is_web
        && uri.host().is_some_and(|host| !host.is_empty() && !host.contains('*'))
        && !uri.authority().is_some_and(|authority| authority.as_str().contains('@'))
        // No path, not even the slash that `Uri` adds where there is none.
        && uri.query().is_none()
        && bare.split('/').count() == 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        for (text, want) in [
            ("*", None),
            ("https://a.test", None),
            ("https://A.test:8443, http://[::1]:3000", None),
            ("https://*.a.test, credentials", None),
            ("", Some("names no origin")),
            ("credentials", Some("names no origin")),
            ("*, credentials", Some("would let every site")),
            ("a.test", Some("has `a.test`, which is no origin")),
            ("https://a.test/", Some("has `https://a.test/`")),
            ("https://u@a.test", Some("has `https://u@a.test`")),
            ("https://a.*.test", Some("has `https://a.*.test`")),
            ("null", Some("has `null`")),
        ] {
            match (Cors::parse(text), want) {
                (Ok(_), None) => {}
                (Err(found), Some(want)) => assert!(found.starts_with(want), "{text}: {found}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn who_is_admitted() {
        let cors = Cors::parse("https://a.test, https://*.b.test").expect("origins");
        for (origin, want) in [
            ("https://a.test", true),
            ("https://A.test", true),
            ("http://a.test", false),
            ("https://a.test:444", false),
            ("https://x.b.test", true),
            ("https://x.y.b.test", true),
            ("https://b.test", false),
            ("https://.b.test", false),
            ("https://evil.test/.b.test", false),
            ("https://evilb.test", false),
            ("https://x.b.test.evil.test", false),
            ("null", false),
        ] {
            assert_eq!(cors.admits(origin.as_bytes()), want, "{origin}");
        }
    }
}
