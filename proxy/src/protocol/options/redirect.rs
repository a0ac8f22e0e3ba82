//! Requests that a route sends elsewhere in place of answering them.

use http::Uri;
use serde::{Deserialize, Serialize};

use crate::protocol::pattern::HostPattern;

/// Longest URL that is sent in a Location.
const MAX_URL: usize = 2048;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Redirects {
    /// Every request, to this place.
    pub to: Option<Fixed>,
    /// To the same place on this host, and another port where it has one.
    pub host: Option<String>,
    pub www: Option<Www>,
}

/// To one place, whatever was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixed {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// Absolute.
    pub location: String,
}

/// With or without `www.` before the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Www {
    /// `www.example.com` to `example.com`
    Apex,
    /// `example.com` to `www.example.com`
    Www,
}

impl Fixed {
    /// `URL`, or `STATUS URL`.
    ///
    /// # Errors
    /// The sentence for what leads nowhere; its subject is the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (status, location) = match text.split_once(char::is_whitespace) {
            Some((status, location)) => (redirect_status(status)?, location.trim_start()),
            None => (302, text),
        };
        let uri = location.parse::<Uri>().ok();
        let is_absolute = uri.as_ref().is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
        });
        // What `Uri` takes may hold bytes that a field may not.
        let is_plain = location.bytes().all(|byte| byte.is_ascii_graphic());
        match is_absolute && is_plain && location.len() <= MAX_URL {
            true => Ok(Fixed { status, location: location.to_owned() }),
            false => Err("is not a place: expected http(s)://HOST/PATH, or STATUS and that".into()),
        }
    }
}

fn redirect_status(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(status @ (301 | 302 | 303 | 307 | 308)) => Ok(status),
        _ => Err("has a status that is not one of 301, 302, 303, 307 and 308".to_owned()),
    }
}

/// `NAME` or `NAME:PORT`, as it is to stand in a URL.
///
/// # Errors
/// The sentence for what is no host; its subject is the text.
pub fn canonical_host(text: &str) -> Result<String, String> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    let is_port = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
    match name.parse::<HostPattern>() {
        Ok(HostPattern::Exact(name)) if port.is_none_or(is_port) => {
            Ok(port.map_or(name.clone(), |port| format!("{name}:{port}")))
        }
        _ => Err("is not one host: expected NAME or NAME:PORT".to_owned()),
    }
}

impl Www {
    /// # Errors
    /// The sentence for another word; its subject is the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "apex" => Ok(Www::Apex),
            "www" => Ok(Www::Www),
            _ => Err("is neither `apex` nor `www`".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let fixed = |status, location: &str| Ok(Fixed { status, location: location.to_owned() });
        for (text, want) in [
            ("https://example.com/", fixed(302, "https://example.com/")),
            ("308 https://example.com/a?b=c", fixed(308, "https://example.com/a?b=c")),
            ("301   http://[::1]:8080", fixed(301, "http://[::1]:8080")),
            ("/a", Err("is not a place")),
            ("example.com", Err("is not a place")),
            ("javascript:alert(1)", Err("is not a place")),
            ("//example.com/", Err("is not a place")),
            ("https://example.com/\r\nX: y", Err("has a status")),
            ("301 https://example.com/ü", Err("is not a place")),
            ("200 https://example.com/", Err("has a status")),
            ("x https://example.com/", Err("has a status")),
        ] {
            match (Fixed::parse(text), want) {
                (Err(found), Err(want)) => assert!(found.starts_with(want), "{text}: {found}"),
                (found, want) => assert_eq!(found, want.map_err(str::to_owned), "{text}"),
            }
        }
    }

    #[test]
    fn canonical_hosts() {
        for (text, want) in [
            ("www.Example.com", Some("www.example.com")),
            ("example.com:8443", Some("example.com:8443")),
            ("*.example.com", None),
            ("example.com:0", None),
            ("example.com:x", None),
            ("a/b", None),
            ("https://example.com", None),
        ] {
            assert_eq!(canonical_host(text).ok().as_deref(), want, "{text}");
        }
        assert_eq!((Www::parse("APEX"), Www::parse("www")), (Ok(Www::Apex), Ok(Www::Www)));
        assert!(Www::parse("true").is_err());
    }
}
