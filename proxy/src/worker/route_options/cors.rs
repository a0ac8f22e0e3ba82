//! CORS: what browsers ask before they send a request for another origin's page, and what they want to
//! read in the answer.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::fields::FieldChanges;
use crate::protocol::options::cors::Cors;
use crate::protocol::options::fields::{Change, FieldChange};
use crate::worker::message::{BodyLength, Fields, RequestHead, ResponseHead, list_has};

const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";
/// Seconds for which a browser need not ask again.
const MAX_AGE: &str = "600";
/// Longest list of fields that is answered.
const MAX_FIELDS: usize = 1024;

/// The answer to a browser that asks first. What it may do is said by the fields that every answer of
/// the route has.
pub fn preflight(cors: &Cors, request: &RequestHead) -> Option<(ResponseHead, Bytes)> {
    if request.method != Method::OPTIONS {
        return None;
    }
    let origin = request.fields.get("origin")?;
    request.fields.get("access-control-request-method")?;
    let mut fields = HeaderMap::new();
    if cors.admits(origin) {
        fields.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        fields.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
        let wanted = request.fields.get("access-control-request-headers");
        if let Some(wanted) = wanted.filter(|wanted| is_list(wanted))
            && let Ok(wanted) = HeaderValue::from_bytes(wanted)
        {
            fields.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted);
        }
    }
    let asked = "Access-Control-Request-Method, Access-Control-Request-Headers";
    fields.insert(VARY, HeaderValue::from_static(asked));
    let head = ResponseHead {
        status: StatusCode::NO_CONTENT,
        fields: Fields::Map(fields),
        body: BodyLength::Empty,
        hsts: None,
    };
    Some((head, Bytes::new()))
}

/// Names of fields and commas.
fn is_list(value: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_, ".contains(byte);
    value.len() <= MAX_FIELDS && value.iter().all(is_part)
}

/// What an answer says of who may read it, in place of what the application says.
pub fn changes(cors: &Cors, request: &Fields, response: &Fields) -> Option<FieldChanges> {
    let origin = request.get("origin");
    let admitted = origin.filter(|origin| cors.admits(origin));
    let mut changes = Vec::new();
    let mut change = |name: http::HeaderName, change| {
        changes.push(FieldChange { name: name.as_str().to_owned(), change });
    };
    let shown = admitted.map(|origin| if cors.is_any() { b"*" } else { origin });
    let shown = shown.and_then(|origin| std::str::from_utf8(origin).ok());
    let or_gone =
        |value: Option<&str>| value.map_or(Change::Remove, |value| Change::Set(value.to_owned()));
    change(ACCESS_CONTROL_ALLOW_ORIGIN, or_gone(shown));
    let credentials = shown.filter(|_| cors.credentials).map(|_| "true");
    change(ACCESS_CONTROL_ALLOW_CREDENTIALS, or_gone(credentials));
    // Another origin gets another answer, also where this request named none.
    let varies = response.all("vary");
    if !cors.is_any() && !varies.iter().any(|list| list_has(list, "origin") || list_has(list, "*"))
    {
        change(VARY, Change::Add("Origin".to_owned()));
    }
    FieldChanges::compile(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_read_what() {
        for (rule, origin, want, credentials, vary) in [
            ("*", Some("https://a.test"), Some("*"), None, None),
            ("*", None, None, None, None),
            (
                "https://a.test",
                Some("https://a.test"),
                Some("https://a.test"),
                None,
                Some("Origin"),
            ),
            ("https://a.test", Some("https://b.test"), None, None, Some("Origin")),
            ("https://a.test", None, None, None, Some("Origin")),
            (
                "https://a.test, credentials",
                Some("https://a.test"),
                Some("https://a.test"),
                Some("true"),
                Some("Origin"),
            ),
        ] {
            let cors = Cors::parse(rule).expect(rule);
            let request = Fields::of(
                &origin.map(|origin| ("origin", origin)).into_iter().collect::<Vec<_>>(),
            );
            // The application's own word does not hold.
            let response = Fields::of(&[("access-control-allow-origin", "https://evil.test")]);
            let changed = changes(&cors, &request, &response).expect("changes").apply(&response);
            let field =
                |name| changed.get(name).map(|value| String::from_utf8_lossy(value).into_owned());
            assert_eq!(field("access-control-allow-origin").as_deref(), want, "{rule} {origin:?}");
            assert_eq!(field("access-control-allow-credentials").as_deref(), credentials, "{rule}");
            assert_eq!(field("vary").as_deref(), vary, "{rule}");
        }
    }

    #[test]
    fn only_a_browser_that_asks_is_answered() {
        let cors = Cors::parse("https://a.test").expect("an origin");
        let origin = ("origin", "https://a.test");
        let asks = ("access-control-request-method", "PUT");
        let names = ("access-control-request-headers", "x-a,x-b");
        for (method, lines, want) in [
            (Method::OPTIONS, vec![origin, asks, names], Some(Some("x-a,x-b"))),
            (Method::OPTIONS, vec![("origin", "https://b.test"), asks, names], Some(None)),
            (Method::OPTIONS, vec![origin], None),
            (Method::OPTIONS, vec![asks], None),
            (Method::GET, vec![origin, asks], None),
        ] {
            let head = RequestHead { fields: Fields::of(&lines), ..RequestHead::new(method, "/") };
            let answer = preflight(&cors, &head);
            let allowed = answer.as_ref().map(|(head, _)| {
                head.fields.get("access-control-allow-headers").map(|value| value.to_vec())
            });
            let want = want.map(|want| want.map(|want: &str| want.as_bytes().to_vec()));
            assert_eq!(allowed, want, "{lines:?}");
        }
    }
}
