//! Where a route sends a request in place of answering it.

use http::{HeaderValue, Method, StatusCode};

use crate::protocol::options::redirect::{Redirects, Www};
use crate::worker::message::RequestHead;
use crate::worker::page::Page;
use crate::worker::table::normal_host;

const WWW: &[u8] = b"www.";

/// The first of a fixed place, a canonical host and `www.` that applies.
pub fn redirect(redirects: &Redirects, scheme: &[u8], head: &RequestHead) -> Option<Page> {
    if let Some(fixed) = &redirects.to {
        let status = StatusCode::from_u16(fixed.status).ok()?;
        return Some(Page::Elsewhere(status, HeaderValue::from_str(&fixed.location).ok()?));
    }
    let host = elsewhere(redirects, &head.authority)?;
    let target = if head.target.as_ref() == b"*" { b"/" } else { head.target.as_ref() };
    let location = [scheme, b"://", &host, target].concat();
    Some(match HeaderValue::from_bytes(&location) {
        Ok(location) => Page::Elsewhere(moved(&head.method), location),
        Err(_) => Page::BAD_REQUEST,
    })
}

/// For good. Whoever posts goes on posting.
fn moved(method: &Method) -> StatusCode {
    match *method {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    }
}

/// Host and port, if they are to be others than those asked for.
fn elsewhere(redirects: &Redirects, authority: &[u8]) -> Option<Vec<u8>> {
    let name = normal_host(authority);
    if let Some(host) = &redirects.host {
        let is_there = match host.contains(':') {
            true => authority.eq_ignore_ascii_case(host.as_bytes()),
            false => name == host.as_bytes(),
        };
        return (!is_there).then(|| host.clone().into_bytes());
    }
    let lower = authority.to_ascii_lowercase();
    match redirects.www? {
        Www::Apex => lower.strip_prefix(WWW).map(<[u8]>::to_vec),
        Www::Www if lower.starts_with(WWW) || is_address(&name) => None,
        Www::Www => Some([WWW, &lower].concat()),
    }
}

fn is_address(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|name| name.parse::<std::net::IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::options::redirect::Fixed;
    use crate::worker::message::{BodyLength, Fields};
    use http::Version;

    fn asked(authority: &'static str, method: Method) -> RequestHead {
        RequestHead {
            method,
            target: "/a?b".into(),
            authority: authority.into(),
            version: Version::HTTP_11,
            fields: Fields::Map(Default::default()),
            body: BodyLength::Empty,
            upgrade: None,
        }
    }

    #[test]
    fn where_requests_are_sent() {
        let www = |www| Redirects { www: Some(www), ..Redirects::default() };
        let host = |host: &str| Redirects { host: Some(host.to_owned()), ..Redirects::default() };
        let fixed = Fixed { status: 307, location: "https://b.test/x".to_owned() };
        let to = || Redirects { to: Some(fixed.clone()), ..www(Www::Apex) };
        for (redirects, authority, want) in [
            (Redirects::default(), "www.a.test", None),
            (www(Www::Apex), "www.a.test", Some("https://a.test/a?b")),
            (www(Www::Apex), "WWW.a.test:8443", Some("https://a.test:8443/a?b")),
            (www(Www::Apex), "a.test", None),
            (www(Www::Www), "a.test", Some("https://www.a.test/a?b")),
            (www(Www::Www), "www.a.test", None),
            (www(Www::Www), "192.0.2.1", None),
            (www(Www::Www), "[2001:db8::1]:443", None),
            (host("b.test"), "a.test:8443", Some("https://b.test/a?b")),
            (host("b.test"), "B.test.:8443", None),
            (host("b.test:8443"), "b.test:8443", None),
            (host("b.test:8443"), "b.test", Some("https://b.test:8443/a?b")),
            (to(), "www.a.test", Some("https://b.test/x")),
        ] {
            let found = redirect(&redirects, b"https", &asked(authority, Method::GET));
            let location = found.map(|page| match page {
                Page::Elsewhere(_, location) => location.to_str().expect("text").to_owned(),
                page => panic!("{page:?}"),
            });
            assert_eq!(location.as_deref(), want, "{redirects:?} {authority}");
        }
    }

    #[test]
    fn a_form_is_not_lost() {
        let apex = Redirects { www: Some(Www::Apex), ..Redirects::default() };
        for (method, want) in [(Method::HEAD, 301), (Method::POST, 308)] {
            match redirect(&apex, b"http", &asked("www.a.test", method)) {
                Some(Page::Elsewhere(status, _)) => assert_eq!(status, want),
                page => panic!("{page:?}"),
            }
        }
    }
}
