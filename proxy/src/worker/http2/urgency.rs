//! How urgent a response is: by the word of the upstream and of the client, and by what it is.

use http::HeaderMap;

use crate::protocol::options::priority::{Priority, Said};
use crate::worker::message::Fields;

/// A page is not drawn before it has its style, and stops at a script.
const BLOCKING: u8 = 2;
/// Pictures, sound and films fill their place when they are there.
const FILLING: u8 = 5;

/// Media types of what holds up a page.
const CODE: [&[u8]; 4] =
    [b"text/css", b"text/javascript", b"application/javascript", b"application/x-javascript"];

/// What a request says of its response.
pub fn asked(fields: &HeaderMap) -> Option<Said> {
    fields.get("priority").map(|field| Said::parse(field.as_bytes()))
}

/// The priority of a response with these fields. The upstream's word stands before the client's
/// (RFC 9218 section 8). When neither says anything, what holds up a page goes first, and those that
/// are equal share, as over several connections: a client that says nothing may be reading one
/// endless response beside others.
pub fn priority(asked: Option<Said>, fields: &Fields) -> Priority {
    let upstream = fields.get("priority").map(Said::parse);
    if upstream.is_some() || asked.is_some() {
        return upstream.unwrap_or_default().over(asked.unwrap_or_default()).whole();
    }
    let usual = Priority::EQUAL;
    let urgency = fields.get("content-type").and_then(by_kind).unwrap_or(usual.urgency);
    Priority { urgency, ..usual }
}

fn by_kind(kind: &[u8]) -> Option<u8> {
    let end = kind.iter().position(|byte| matches!(byte, b';' | b' ')).unwrap_or(kind.len());
    let kind = &kind[..end];
    let begins = |with: &[u8]| kind.get(..with.len()).is_some_and(|k| k.eq_ignore_ascii_case(with));
    if CODE.iter().any(|code| kind.eq_ignore_ascii_case(code)) {
        return Some(BLOCKING);
    }
    let fills = [&b"image/"[..], b"video/", b"audio/"].into_iter().any(begins);
    fills.then_some(FILLING)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter();
        fields.map(|(n, v)| (n.parse().expect("name"), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn whose_word_stands() {
        for (request, response, urgency, incremental) in [
            (&[][..], &[][..], 3, true),
            (&[], &[("content-type", "text/css; charset=utf-8")], 2, true),
            (&[], &[("content-type", "Text/JavaScript")], 2, true),
            (&[], &[("content-type", "application/javascript")], 2, true),
            (&[], &[("content-type", "image/png")], 5, true),
            (&[], &[("content-type", "video/mp4")], 5, true),
            (&[], &[("content-type", "font/woff2")], 3, true),
            (&[], &[("content-type", "text/html")], 3, true),
            (&[("priority", "u=0")], &[("content-type", "image/png")], 0, false),
            (&[("priority", "i")], &[("content-type", "image/png")], 3, true),
            (&[("priority", "u=0, i")], &[("priority", "u=6")], 6, true),
            (&[], &[("priority", "i"), ("content-type", "text/css")], 3, true),
        ] {
            let got = priority(asked(&map(request)), &Fields::Map(map(response)));
            assert_eq!(got, Priority { urgency, incremental }, "{request:?} {response:?}");
        }
    }
}
