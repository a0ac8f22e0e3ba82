//! Answers of the worker's own: small, plain, and without a version.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::error_pages::ErrorPages;
use super::message::{BodyLength, Fields, RequestHead, ResponseHead};

/// Seconds after which a client may try again, when nobody is up for a host.
const RETRY_AFTER_SECONDS: &str = "5";

/// An answer that no upstream gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// A status with a sentence on what it means here.
    Status(StatusCode, &'static str),
    /// 503: nobody is up; the client may try again soon.
    Unavailable(&'static str),
    /// 503: a person works on the host. With HTML of its own.
    Maintenance(Option<String>),
    /// To another place.
    Elsewhere(StatusCode, HeaderValue),
    /// 429, and the seconds after which the client may try again.
    TooMany(u64),
    /// 405: what is here can only be read.
    ReadOnly,
    /// 401: the route wants a name and a password.
    Unauthorized,
    /// 503 for a host that is not routed.
    UnknownHost,
    /// To the same place over HTTPS.
    ToHttps(StatusCode, HeaderValue),
    /// The controller's question whether this worker serves.
    Ready,
    /// A CA's question: the key authorization.
    Challenge(Bytes),
}

impl Page {
    pub const BAD_REQUEST: Page =
        Page::Status(StatusCode::BAD_REQUEST, "The request could not be understood.");
    pub const FORBIDDEN: Page =
        Page::Status(StatusCode::FORBIDDEN, "This is not open to your address.");
    pub const NOT_FOUND: Page =
        Page::Status(StatusCode::NOT_FOUND, "Nothing is routed under this path.");
    pub const METHOD_NOT_ALLOWED: Page =
        Page::Status(StatusCode::METHOD_NOT_ALLOWED, "This method is not served here.");
    pub const NO_FILE: Page =
        Page::Status(StatusCode::NOT_FOUND, "There is nothing under this path.");
    pub const SHORT_OF_MEMORY: Page =
        Page::Unavailable("The server has too much to do at the moment.");
    pub const NO_ROOT: Page = Page::Unavailable("These files cannot be served at the moment.");
    pub const NOT_READABLE: Page =
        Page::Status(StatusCode::FORBIDDEN, "This may not be read by the server.");
    pub const BAD_DISK: Page =
        Page::Status(StatusCode::INTERNAL_SERVER_ERROR, "This could not be read.");
    pub const PRECONDITION_FAILED: Page =
        Page::Status(StatusCode::PRECONDITION_FAILED, "This is another version by now.");
    pub const REQUEST_TIMEOUT: Page =
        Page::Status(StatusCode::REQUEST_TIMEOUT, "The request took too long to arrive.");
    pub const TOO_LARGE: Page =
        Page::Status(StatusCode::PAYLOAD_TOO_LARGE, "The request body is larger than allowed.");
    pub const MISDIRECTED: Page = Page::Status(
        StatusCode::MISDIRECTED_REQUEST,
        "This connection was opened for another host. Please try again on a new one.",
    );
    pub const HEADERS_TOO_LARGE: Page = Page::Status(
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "The request header is larger than allowed.",
    );
    pub const NOT_IMPLEMENTED: Page =
        Page::Status(StatusCode::NOT_IMPLEMENTED, "This transfer coding is not supported.");
    pub const VERSION: Page = Page::Status(
        StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        "This version of HTTP is not supported.",
    );
    pub const BAD_GATEWAY: Page =
        Page::Status(StatusCode::BAD_GATEWAY, "The application did not answer properly.");
    pub const GATEWAY_TIMEOUT: Page =
        Page::Status(StatusCode::GATEWAY_TIMEOUT, "The application did not answer in time.");
    pub const NOBODY_UP: Page = Page::Unavailable("The application is not up at the moment.");
    pub const BUSY: Page = Page::Unavailable("The application is busy. Please try again soon.");
    pub const FULL: Page = Page::Unavailable("The server is full. Please try again soon.");
    pub const PAUSED: Page = Page::Unavailable("The application is paused for a moment.");
    pub const TOO_MANY_LOGINS: Page =
        Page::Unavailable("Too many passwords are being looked at. Please try again soon.");
    pub const NO_CERTIFICATE: Page =
        Page::Unavailable("There is no trusted certificate for this host yet.");
    pub const HTTPS_ALONE: Page = Page::Unavailable("This host is served over HTTPS alone.");
    pub const HTTP_ALONE: Page = Page::Unavailable("This host is served over plain HTTP alone.");

    /// Nobody claims the path; the host says with which status.
    pub fn unrouted(status: StatusCode) -> Page {
        Page::Status(status, "Nothing is routed under this path.")
    }

    /// The response, in JSON where the client prefers it to HTML. Of `pages` where they have one.
    pub fn render(
        &self,
        request: Option<&RequestHead>,
        pages: &ErrorPages,
    ) -> (ResponseHead, Bytes) {
        let (status, sentence) = self.parts();
        let mut fields = HeaderMap::with_capacity(2);
        match self {
            Page::Unavailable(_) | Page::Maintenance(_) => {
                fields.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
            }
            Page::ToHttps(_, location) | Page::Elsewhere(_, location) => {
                fields.insert(LOCATION, location.clone());
            }
            Page::Status(StatusCode::METHOD_NOT_ALLOWED, _) => {
                let methods = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
                fields.insert(ALLOW, HeaderValue::from_static(methods));
            }
            Page::ReadOnly => {
                fields.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            Page::TooMany(seconds) => {
                fields.insert(RETRY_AFTER, HeaderValue::from(*seconds));
            }
            Page::Unauthorized => {
                let challenge = "Basic realm=\"Restricted\", charset=\"UTF-8\"";
                fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            Page::Status(..) | Page::UnknownHost | Page::Ready | Page::Challenge(_) => {}
        }
        let (content_type, body) = match self {
            Page::Ready => ("text/plain", Bytes::from_static(b"ready")),
            Page::Challenge(answer) => ("application/octet-stream", answer.clone()),
            _ if request.is_some_and(prefers_json) => {
                ("application/json", json(status, sentence).into())
            }
            Page::Maintenance(Some(page)) => ("text/html; charset=utf-8", page.clone().into()),
            _ => {
                let body = pages.of(status).cloned();
                let body = body.unwrap_or_else(|| html(status, sentence).into());
                ("text/html; charset=utf-8", body)
            }
        };
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        let length = BodyLength::Known(body.len() as u64);
        (ResponseHead { status, fields: Fields::Map(fields), body: length, hsts: None }, body)
    }

    fn parts(&self) -> (StatusCode, &'static str) {
        match self {
            Page::Status(status, sentence) => (*status, sentence),
            Page::Unavailable(sentence) => (StatusCode::SERVICE_UNAVAILABLE, sentence),
            Page::Maintenance(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The application is under maintenance. Please come back soon.",
            ),
            Page::UnknownHost => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The server is running. No application is routed under this name.",
            ),
            Page::Unauthorized => (StatusCode::UNAUTHORIZED, "This needs a name and a password."),
            Page::TooMany(_) => {
                (StatusCode::TOO_MANY_REQUESTS, "You have asked too often. Please wait a little.")
            }
            Page::ReadOnly => {
                (StatusCode::METHOD_NOT_ALLOWED, "This can be read, and nothing else.")
            }
            Page::Elsewhere(status, _) => (*status, "This is somewhere else."),
            Page::ToHttps(status, _) => (*status, "Please use HTTPS."),
            Page::Ready | Page::Challenge(_) => (StatusCode::OK, ""),
        }
    }
}

/// Whether the first of JSON and HTML in `Accept` is JSON.
fn prefers_json(request: &RequestHead) -> bool {
    let accept = request.fields.get("accept").unwrap_or_default();
    let at = |needle: &[u8]| memchr::memmem::find(accept, needle).unwrap_or(usize::MAX);
    at(b"json") < at(b"text/html")
}

fn json(status: StatusCode, sentence: &str) -> String {
    serde_json::json!({ "status": status.as_u16(), "error": sentence }).to_string()
}

fn html(status: StatusCode, sentence: &str) -> String {
    let (code, reason) = (status.as_u16(), status.canonical_reason().unwrap_or_default());
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{code} {reason}</title>\n\
         <style>:root{{color-scheme:light dark}}body{{font:1rem/1.5 system-ui,sans-serif;\
         max-width:36rem;margin:20vh auto;padding:0 1rem}}</style>\n\
         <h1>{code} {reason}</h1>\n<p>{sentence}</p>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, Version};

    fn asking(accept: &'static str) -> RequestHead {
        let mut fields = HeaderMap::new();
        fields.insert("accept", HeaderValue::from_static(accept));
        RequestHead {
            method: Method::GET,
            target: "/".into(),
            authority: "a".into(),
            version: Version::HTTP_11,
            fields: Fields::Map(fields),
            body: BodyLength::Empty,
            upgrade: None,
        }
    }

    #[test]
    fn json_is_for_those_who_prefer_it() {
        for (accept, want) in [
            ("application/json", true),
            ("application/problem+json, text/html", true),
            ("text/html, application/json", false),
            ("*/*", false),
        ] {
            assert_eq!(prefers_json(&asking(accept)), want, "{accept}");
        }
        let (head, body) =
            Page::NOBODY_UP.render(Some(&asking("application/json")), &ErrorPages::default());
        assert_eq!(head.fields.get("retry-after"), Some(&b"5"[..]));
        assert_eq!(body, r#"{"error":"The application is not up at the moment.","status":503}"#);
    }
}
