//! Request and response heads, in the form they arrived in: nothing is copied until it is written
//! to the other side.

use bytes::Bytes;
use http::header::COOKIE;
use http::{HeaderMap, Method, StatusCode, Version};

/// Header fields, either as the bytes of an HTTP/1.1 head or as HTTP/2 decoded them.
#[derive(Debug, Clone)]
pub enum Fields {
    Raw(RawFields),
    Map(HeaderMap),
}

/// The fields of an HTTP/1.1 head: ranges into its bytes, order and spelling kept.
#[derive(Debug, Clone, Default)]
pub struct RawFields {
    pub bytes: Bytes,
    pub ranges: Vec<FieldRange>,
}

/// Where name and value stand in [`RawFields::bytes`].
#[derive(Debug, Clone, Copy)]
pub struct FieldRange {
    pub name: (u32, u32),
    pub value: (u32, u32),
}

impl RawFields {
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.ranges.iter().map(|range| (self.slice(range.name), self.slice(range.value)))
    }

    fn slice(&self, (start, end): (u32, u32)) -> &[u8] {
        &self.bytes[start as usize..end as usize]
    }
}

impl Fields {
    /// Calls `each` with every name and value, in order.
    pub fn for_each(&self, mut each: impl FnMut(&[u8], &[u8])) {
        match self {
            Fields::Raw(raw) => raw.iter().for_each(|(name, value)| each(name, value)),
            Fields::Map(map) => {
                map.iter()
                    .for_each(|(name, value)| each(name.as_str().as_bytes(), value.as_bytes()));
            }
        }
    }

    /// The first value of a field. `name` is lower case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        match self {
            Fields::Raw(raw) => raw
                .iter()
                .find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
                .map(|(_, value)| value),
            Fields::Map(map) => map.get(name).map(|value| value.as_bytes()),
        }
    }

    /// Every value of a field, in order. `name` is lower case.
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        match self {
            Fields::Raw(raw) => raw
                .iter()
                .filter(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
                .map(|(_, value)| value)
                .collect(),
            Fields::Map(map) => map.get_all(name).iter().map(|value| value.as_bytes()).collect(),
        }
    }

    /// Whether there are more than so many. The parts of a cookie, which HTTP/2 may send apart (RFC 9113
    /// section 8.2.3), are one.
    pub fn are_more_than(&self, limit: usize) -> bool {
        match self {
            Fields::Raw(raw) => raw.ranges.len() > limit,
            Fields::Map(map) => {
                map.len() > limit && {
                    let parts = map.get_all(COOKIE).iter().count();
                    map.len() - parts.saturating_sub(1) > limit
                }
            }
        }
    }

    /// Whether a field that is a comma list has this token, without regard to case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name).iter().any(|value| list_has(value, token))
    }
}

/// Whether a comma list (RFC 9110 section 5.6.1) has this token, without regard to case.
pub fn list_has(list: &[u8], token: &str) -> bool {
    list_items(list).any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
}

/// Of a comma list; some may be empty.
pub fn list_items(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// How much body follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    Empty,
    Known(u64),
    /// Ends where its own framing says: chunked, END_STREAM, or the end of the connection.
    Unknown,
}

/// A part of a body.
#[derive(Debug)]
pub enum Part {
    Data(Bytes),
    /// The last part, when there are trailers.
    Trailers(HeaderMap),
}

/// A request as the router and the upstream see it.
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub method: Method,
    /// Origin form: path and query as received; `*` for `OPTIONS *`.
    pub target: Bytes,
    /// Host and port as the client named them; empty for HTTP/1.0 without Host.
    pub authority: Bytes,
    pub version: Version,
    pub fields: Fields,
    pub body: BodyLength,
    /// What the client wants this connection or stream to become.
    pub upgrade: Option<Upgrade>,
}

/// A switch to another protocol that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upgrade {
    /// `Connection: upgrade` of HTTP/1.1 (RFC 9110 section 7.8); the token of `Upgrade`.
    Http1(Bytes),
    /// Extended CONNECT of HTTP/2 (RFC 8441); the `:protocol`.
    Connect(Bytes),
}

impl Upgrade {
    pub fn is_websocket(&self) -> bool {
        let (Upgrade::Http1(token) | Upgrade::Connect(token)) = self;
        token.eq_ignore_ascii_case(b"websocket")
    }
}

#[cfg(test)]
impl Fields {
    pub fn of(lines: &[(&str, &str)]) -> Self {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            map.append(name, http::HeaderValue::from_str(value).expect("a value"));
        }
        Fields::Map(map)
    }
}

#[cfg(any(test, fuzzing))]
impl RequestHead {
    /// One without a field.
    pub fn new(method: Method, target: &'static str) -> Self {
        RequestHead {
            method,
            target: target.into(),
            authority: "a".into(),
            version: Version::HTTP_11,
            fields: Fields::Map(Default::default()),
            body: BodyLength::Empty,
            upgrade: None,
        }
    }
}

impl RequestHead {
    /// Path without the query.
    pub fn path(&self) -> &[u8] {
        let end = memchr::memchr(b'?', &self.target).unwrap_or(self.target.len());
        &self.target[..end]
    }

    /// Safe to repeat: idempotent by definition (RFC 9110 section 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(
            self.method,
            Method::GET
                | Method::HEAD
                | Method::OPTIONS
                | Method::TRACE
                | Method::PUT
                | Method::DELETE
        )
    }
}

#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub fields: Fields,
    pub body: BodyLength,
    /// Strict-Transport-Security for the client, where the fields have none.
    pub hsts: Option<Bytes>,
}

impl ResponseHead {
    /// RFC 9110 section 6.4.1: no body, whatever the fields say.
    pub fn never_has_body(status: StatusCode, request: &Method) -> bool {
        request == Method::HEAD
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
    }
}
