//! Which upstream a client's cookie names, and the cookie that names one. The value is a keyed hash of
//! the upstream within its route: nobody makes one who has not got the key, and it tells nothing.

use aws_lc_rs::{constant_time, hmac};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use http::HeaderValue;

use crate::protocol::options;
use crate::protocol::pattern::{HostPattern, PathPattern};
use crate::protocol::snapshot::{StickyKey, Upstream};
use crate::worker::message::Fields;

/// Bytes of the hash that stand in the cookie: 20 characters, which nobody guesses.
const VALUE_BYTES: usize = 15;

#[derive(Debug)]
pub struct Sticky {
    name: Box<str>,
    /// For each upstream of the pool.
    values: Vec<Box<str>>,
    /// Below which the browser sends it.
    path: Box<str>,
}

impl Sticky {
    pub fn compile(
        sticky: &options::sticky::Sticky,
        key: &StickyKey,
        (host, path): (&HostPattern, &PathPattern),
        upstreams: &[Upstream],
    ) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key.secret);
        // The name of a container stays over a deploy, and its address does not.
        let value = |upstream: &Upstream| {
            let (port, protocol) = (upstream.address.port(), upstream.protocol.as_str());
            let text = format!("{host}\0{path}\0{}\0{port}\0{protocol}", upstream.name);
            let tag = hmac::sign(&key, text.as_bytes());
            BASE64_URL_SAFE_NO_PAD.encode(&tag.as_ref()[..VALUE_BYTES]).into()
        };
        Sticky {
            name: sticky.cookie.as_str().into(),
            values: upstreams.iter().map(value).collect(),
            path: cookie_path(path).into(),
        }
    }

    /// The upstream that these fields of a request name. Those of other routes may be among them.
    pub fn named(&self, fields: &Fields) -> Option<usize> {
        let lines = fields.all("cookie");
        let cookies = lines.iter().flat_map(|line| line.split(|&byte| byte == b';'));
        let mut values = cookies.filter_map(|cookie| {
            cookie.trim_ascii().strip_prefix(self.name.as_bytes())?.strip_prefix(b"=")
        });
        values.find_map(|value| {
            let is_it = |known: &[u8]| constant_time::verify_slices_are_equal(known, value).is_ok();
            self.values.iter().position(|known| is_it(known.as_bytes()))
        })
    }

    /// The cookie that names an upstream, until the browser ends.
    pub fn cookie(&self, index: usize, secure: bool) -> Option<HeaderValue> {
        let (name, value, path) = (&self.name, self.values.get(index)?, &self.path);
        let secure = if secure { "; Secure" } else { "" };
        let text = format!("{name}={value}; Path={path}; HttpOnly; SameSite=Lax{secure}");
        HeaderValue::try_from(text).ok()
    }
}

/// RFC 6265 section 5.1.4 matches whole segments of the path as it is sent. Where a route's path cannot
/// say that, the cookie goes with more requests than the route has.
fn cookie_path(path: &PathPattern) -> &str {
    let (text, is_prefix) = match path {
        PathPattern::Exact(text) | PathPattern::Segments(text) => (text.as_str(), false),
        PathPattern::Prefix(text) => (text.as_str(), true),
        PathPattern::Regex(_) => ("/", false),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
    if !text.starts_with('/') || !text.bytes().all(plain) {
        return "/";
    }
    match text.rfind('/') {
        // `/app` as a prefix of text has `/apple`, too.
        Some(slash) if is_prefix => &text[..=slash],
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn sticky(key: u8, names: &[&str]) -> Sticky {
        let upstreams: Vec<Upstream> = names
            .iter()
            .map(|name| Upstream {
                name: (*name).to_owned(),
                address: ([127, 0, 0, 1], 80).into(),
                protocol: Default::default(),
                weight: 1,
            })
            .collect();
        let host = "a.test".parse().expect("host");
        let path = PathPattern::Segments("/app".to_owned());
        let cookie = options::sticky::Sticky { cookie: "srv".to_owned() };
        Sticky::compile(&cookie, &StickyKey { secret: [key; 32] }, (&host, &path), &upstreams)
    }

    fn fields(cookies: &[String]) -> Fields {
        let mut map = HeaderMap::new();
        for cookie in cookies {
            map.append("cookie", HeaderValue::try_from(cookie).expect("a value"));
        }
        Fields::Map(map)
    }

    #[test]
    fn a_cookie_names_its_upstream_for_every_process_with_the_key() {
        let one = sticky(1, &["web-1", "web-2"]);
        let value = |sticky: &Sticky, index: usize| format!("srv={}", sticky.values[index]);
        let second = value(&one, 1);
        let other = sticky(1, &["web-0", "web-2"]);
        for (sticky, cookies, want) in [
            (&one, vec![second.clone()], Some(1)),
            (&one, vec![format!("a=b; {second}; c=d")], Some(1)),
            (&one, vec!["a=b".into(), second.clone()], Some(1)),
            // Of another route, or forged.
            (&one, vec![format!("srv=AAAAAAAAAAAAAAAAAAAA; {second}")], Some(1)),
            (&one, vec!["srv=AAAAAAAAAAAAAAAAAAAA".into()], None),
            (&one, vec![format!("x{second}"), "srv".into(), "srv=".into()], None),
            (&one, vec![], None),
            // The pool has changed: those that stayed are known, those that left are not.
            (&other, vec![second.clone()], Some(1)),
            (&other, vec![value(&one, 0)], None),
            (&sticky(2, &["web-1", "web-2"]), vec![second.clone()], None),
        ] {
            assert_eq!(sticky.named(&fields(&cookies)), want, "{cookies:?}");
        }
    }

    #[test]
    fn what_the_browser_is_told() {
        let sticky = sticky(1, &["web-1"]);
        let value = &sticky.values[0];
        assert_eq!(value.len(), 20);
        for (secure, more) in [(true, "; Secure"), (false, "")] {
            let want = format!("srv={value}; Path=/app; HttpOnly; SameSite=Lax{more}");
            assert_eq!(sticky.cookie(0, secure).expect("a cookie"), want.as_str());
        }
        assert_eq!(sticky.cookie(1, true), None);
    }

    #[test]
    fn paths_that_a_browser_understands() {
        use PathPattern::{Exact, Prefix, Regex, Segments};
        for (path, want) in [
            (Segments("/app".to_owned()), "/app"),
            (Exact("/app/x".to_owned()), "/app/x"),
            (Prefix("/".to_owned()), "/"),
            (Prefix("/app".to_owned()), "/"),
            (Prefix("/app/".to_owned()), "/app/"),
            (Segments("/a;b".to_owned()), "/"),
            (Segments("/ä".to_owned()), "/"),
            (Regex("^/a".to_owned()), "/"),
        ] {
            assert_eq!(cookie_path(&path), want, "{path:?}");
        }
    }
}
