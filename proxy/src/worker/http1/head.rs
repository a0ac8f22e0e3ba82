//! Heads of HTTP/1.1 messages: parsed by httparse, then held to what RFC 9112 says about framing.

use std::mem::MaybeUninit;
use std::net::Ipv6Addr;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, Version};

use crate::worker::message::{
    BodyLength, FieldRange, Fields, RawFields, RequestHead, ResponseHead, Upgrade, list_has,
    list_items,
};

/// Most fields that a head may have, whatever the configuration says.
const MAX_FIELDS: usize = 256;

/// Bytes of a name (RFC 1035 section 2.3.4) and of `:65535`.
const MAX_AUTHORITY: usize = 255 + 6;

/// Bounds on a head.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Bytes, first line included.
    pub bytes: usize,
    pub fields: usize,
}

/// Why a head cannot be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("head is longer than the limit")]
    TooLarge,
    #[error("head has more fields than the limit")]
    TooManyFields,
    #[error("malformed head: {0}")]
    Malformed(&'static str),
    #[error("HTTP version is not 1.0 or 1.1")]
    Version,
    #[error("transfer coding is not supported")]
    TransferCoding,
}

/// A request head and what its connection does after it.
#[derive(Debug)]
pub struct ParsedRequest {
    pub head: RequestHead,
    /// The client will send another request on this connection.
    pub keep_alive: bool,
    pub chunked: bool,
}

/// A response head and what its connection does after it.
#[derive(Debug)]
pub struct ParsedResponse {
    pub head: ResponseHead,
    pub keep_alive: bool,
    pub chunked: bool,
    /// `Keep-Alive: timeout=N`, in seconds.
    pub keep_alive_timeout: Option<u64>,
}

/// Takes a request head off the front of `buffer`; `None` when it is not complete yet.
///
/// # Errors
/// [`HeadError`] when it can never become a head that is accepted. The buffer is then of no use.
pub fn take_request(
    buffer: &mut BytesMut,
    limits: HeadLimits,
) -> Result<Option<ParsedRequest>, HeadError> {
    skip_empty_lines(buffer)?;
    let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let slots = &mut slots[..limits.fields.min(MAX_FIELDS)];
    let parsed = match request.parse_with_uninit_headers(buffer, slots) {
        Ok(httparse::Status::Complete(length)) if length > limits.bytes => {
            return Err(HeadError::TooLarge);
        }
        Ok(httparse::Status::Complete(length)) => {
            let ranges = ranges(buffer, request.headers);
            let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes())
                .map_err(|_| HeadError::Malformed("method"))?;
            let target = range_of(buffer, request.path.unwrap_or_default().as_bytes());
            let version = version(request.version);
            Some((length, ranges, method, target, version))
        }
        Ok(httparse::Status::Partial) if buffer.len() > limits.bytes => {
            return Err(HeadError::TooLarge);
        }
        Ok(httparse::Status::Partial) => None,
        Err(error) => return Err(refusal(error)),
    };
    let Some((length, ranges, method, target, version)) = parsed else {
        return Ok(None);
    };
    check_line_ends(&buffer[..length])?;
    let bytes = buffer.split_to(length).freeze();
    let target = bytes.slice(target.0 as usize..target.1 as usize);
    let fields = RawFields { bytes, ranges };
    request_head(method, &target, version, fields).map(Some)
}

/// Takes a response head off the front of `buffer`; `None` when it is not complete yet. `request`
/// is the method that it answers.
///
/// # Errors
/// [`HeadError`] when it can never become a head that is accepted.
pub fn take_response(
    buffer: &mut BytesMut,
    limits: HeadLimits,
    request: &Method,
) -> Result<Option<ParsedResponse>, HeadError> {
    let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = match config.parse_response_with_uninit_headers(&mut response, buffer, &mut slots)
    {
        Ok(httparse::Status::Complete(length)) if length > limits.bytes => {
            return Err(HeadError::TooLarge);
        }
        Ok(httparse::Status::Complete(length)) => {
            let ranges = ranges(buffer, response.headers);
            let status = StatusCode::from_u16(response.code.unwrap_or_default())
                .map_err(|_| HeadError::Malformed("status"))?;
            Some((length, ranges, status, version(response.version)))
        }
        Ok(httparse::Status::Partial) if buffer.len() > limits.bytes => {
            return Err(HeadError::TooLarge);
        }
        Ok(httparse::Status::Partial) => None,
        Err(error) => return Err(refusal(error)),
    };
    let Some((length, ranges, status, version)) = parsed else {
        return Ok(None);
    };
    check_line_ends(&buffer[..length])?;
    let fields = RawFields { bytes: buffer.split_to(length).freeze(), ranges };
    response_head(status, version, fields, request).map(Some)
}

fn refusal(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyFields,
        httparse::Error::HeaderName => HeadError::Malformed("field name"),
        httparse::Error::HeaderValue => HeadError::Malformed("field value"),
        httparse::Error::NewLine => HeadError::Malformed("line end"),
        httparse::Error::Status => HeadError::Malformed("status line"),
        httparse::Error::Token => HeadError::Malformed("request line"),
        httparse::Error::Version => HeadError::Version,
    }
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 }
}

/// RFC 9112 section 2.2: a server ignores an empty line before a request line. One, as some old
/// clients send after a body; a stream of them is not a request.
fn skip_empty_lines(buffer: &mut BytesMut) -> Result<(), HeadError> {
    if buffer.starts_with(b"\r\n") {
        let _ = buffer.split_to(2);
    }
    if matches!(buffer.first(), Some(b'\r' | b'\n')) && buffer.len() > 1 {
        return Err(HeadError::Malformed("empty line"));
    }
    Ok(())
}

/// httparse takes a bare LF for a line end, as RFC 9112 section 2.2 permits; another reader may not.
fn check_line_ends(head: &[u8]) -> Result<(), HeadError> {
    for at in memchr::memchr_iter(b'\n', head) {
        if at == 0 || head[at - 1] != b'\r' {
            return Err(HeadError::Malformed("line end"));
        }
    }
    Ok(())
}

fn ranges(buffer: &[u8], headers: &[httparse::Header<'_>]) -> Vec<FieldRange> {
    headers
        .iter()
        .map(|header| FieldRange {
            name: range_of(buffer, header.name.as_bytes()),
            value: range_of(buffer, header.value),
        })
        .collect()
}

/// Offsets of a slice that httparse cut out of `buffer`.
fn range_of(buffer: &[u8], part: &[u8]) -> (u32, u32) {
    let start = (part.as_ptr() as usize).wrapping_sub(buffer.as_ptr() as usize);
    // An empty value may be a slice of nothing at all.
    if part.is_empty() || start > buffer.len() {
        return (0, 0);
    }
    (start as u32, (start + part.len()) as u32)
}

/// What the fields say about the message itself, read in one pass.
#[derive(Default)]
struct Meaning<'a> {
    content_length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    connection_upgrade: bool,
    upgrade: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
    keep_alive_timeout: Option<u64>,
}

fn meaning(fields: &RawFields) -> Result<Meaning<'_>, HeadError> {
    let mut found = Meaning::default();
    let mut transfer_encoding = false;
    for (name, value) in fields.iter() {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                once(&mut found.host, value, "two Host fields")?;
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => found.upgrade = Some(value),
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for option in list_items(value) {
                    found.close |= option.eq_ignore_ascii_case(b"close");
                    found.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    found.connection_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                }
            }
            10 if name.eq_ignore_ascii_case(b"keep-alive") => {
                found.keep_alive_timeout = keep_alive_timeout(value);
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = content_length(value)?;
                once(&mut found.content_length, length, "two Content-Length fields")?;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if transfer_encoding {
                    return Err(HeadError::Malformed("two Transfer-Encoding fields"));
                }
                transfer_encoding = true;
                check_transfer_coding(value)?;
                found.chunked = true;
            }
            _ => {}
        }
    }
    if found.chunked && found.content_length.is_some() {
        return Err(HeadError::Malformed("Content-Length with Transfer-Encoding"));
    }
    Ok(found)
}

/// RFC 9112 section 6.3: without chunked as the last coding nobody knows where the body ends. With
/// it, and another one before it, the body is clear and merely not understood here.
fn check_transfer_coding(value: &[u8]) -> Result<(), HeadError> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = value.rsplit(|&b| b == b',').map(<[u8]>::trim_ascii);
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some_and(is_chunked) && !codings.any(is_chunked) {
        Err(HeadError::TransferCoding)
    } else {
        Err(HeadError::Malformed("Transfer-Encoding"))
    }
}

/// Fields of which a second one could be read instead of the first.
fn once<T>(slot: &mut Option<T>, value: T, twice: &'static str) -> Result<(), HeadError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(HeadError::Malformed(twice)),
    }
}

/// RFC 9110 section 8.6: digits alone. A list of equal numbers is allowed to be repaired; it is not
/// repaired here.
fn content_length(value: &[u8]) -> Result<u64, HeadError> {
    const WRONG: HeadError = HeadError::Malformed("Content-Length");
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(WRONG);
    }
    std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).ok_or(WRONG)
}

fn keep_alive_timeout(value: &[u8]) -> Option<u64> {
    value.split(|&b| b == b',').find_map(|parameter| {
        let seconds = parameter.trim_ascii().strip_prefix(b"timeout=")?;
        std::str::from_utf8(seconds).ok()?.parse().ok()
    })
}

fn request_head(
    method: Method,
    target: &Bytes,
    version: Version,
    fields: RawFields,
) -> Result<ParsedRequest, HeadError> {
    let found = meaning(&fields)?;
    let old = version == Version::HTTP_10;
    if found.chunked && old {
        return Err(HeadError::Malformed("Transfer-Encoding in HTTP/1.0"));
    }
    if found.host.is_none() && !old {
        return Err(HeadError::Malformed("no Host field"));
    }
    let (absolute_authority, target) = split_target(&method, target)?;
    // RFC 9112 section 3.2.2: the authority of an absolute target stands above Host.
    let authority = match absolute_authority {
        Some(authority) => authority,
        None => fields.bytes.slice_ref(found.host.unwrap_or_default()),
    };
    check_authority(&authority)?;
    let body = match found.content_length {
        _ if found.chunked => BodyLength::Unknown,
        None | Some(0) => BodyLength::Empty,
        Some(length) => BodyLength::Known(length),
    };
    let upgrade = found
        .upgrade
        // RFC 9110 section 7.8: Upgrade in HTTP/1.0 is ignored; so is one that Connection lacks.
        // h2c by Upgrade is gone from RFC 9113; clients that offer it go on without.
        .filter(|token| found.connection_upgrade && !old && !list_has(token, "h2c"))
        .map(|token| Upgrade::Http1(fields.bytes.slice_ref(token)));
    let keep_alive = !found.close && (!old || found.keep_alive);
    let chunked = found.chunked;
    let head = RequestHead {
        method,
        target,
        authority,
        version,
        fields: Fields::Raw(fields),
        body,
        upgrade,
    };
    Ok(ParsedRequest { head, keep_alive, chunked })
}

/// RFC 9112 section 3.2: origin form and `*` as they are, absolute form split into its authority
/// and origin form.
fn split_target(method: &Method, target: &Bytes) -> Result<(Option<Bytes>, Bytes), HeadError> {
    const WRONG: HeadError = HeadError::Malformed("request target");
    if target.iter().any(|&b| b <= b' ' || b == 0x7f || b == b'#') {
        return Err(WRONG);
    }
    if target.starts_with(b"/")
        || (target.as_ref() == b"*" && method == Method::OPTIONS)
        || method == Method::CONNECT
    {
        return Ok((None, target.clone()));
    }
    let scheme = if target.len() >= 8 && target[..8].eq_ignore_ascii_case(b"https://") {
        8
    } else if target.len() >= 7 && target[..7].eq_ignore_ascii_case(b"http://") {
        7
    } else {
        return Err(WRONG);
    };
    let rest = target.slice(scheme..);
    let end = rest.iter().position(|&b| b == b'/' || b == b'?').unwrap_or(rest.len());
    let (authority, path) = (rest.slice(..end), rest.slice(end..));
    if authority.is_empty() {
        return Err(WRONG);
    }
    let path = match path.first() {
        None => Bytes::from_static(b"/"),
        Some(b'/') => path,
        Some(_) => [b"/", path.as_ref()].concat().into(),
    };
    Ok((Some(authority), path))
}

/// RFC 3986 section 3.2, without user information: it has no place in a request and hides hosts. What
/// follows the host is a port: an upstream that makes links of the authority must not find more there.
pub fn check_authority(authority: &[u8]) -> Result<(), HeadError> {
    let end = match authority.strip_prefix(b"[") {
        Some(rest) => rest.iter().position(|&b| b == b']').map(|at| at + 2),
        None => Some(memchr::memchr(b':', authority).unwrap_or(authority.len())),
    };
    let fine = end.is_some_and(|end| {
        let (host, port) = authority.split_at(end);
        authority.len() <= MAX_AUTHORITY && is_host(host) && is_port(port)
    });
    if fine { Ok(()) } else { Err(HeadError::Malformed("Host")) }
}

fn is_host(host: &[u8]) -> bool {
    match host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")) {
        Some(address) => {
            std::str::from_utf8(address).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
        }
        None => host
            .iter()
            .all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')),
    }
}

/// Nothing, or what follows the colon; that may be nothing, too.
fn is_port(port: &[u8]) -> bool {
    port.is_empty()
        || port
            .strip_prefix(b":")
            .is_some_and(|port| port.len() <= 5 && port.iter().all(u8::is_ascii_digit))
}

fn response_head(
    status: StatusCode,
    version: Version,
    fields: RawFields,
    request: &Method,
) -> Result<ParsedResponse, HeadError> {
    let found = meaning(&fields)?;
    let old = version == Version::HTTP_10;
    if found.chunked && old {
        return Err(HeadError::Malformed("Transfer-Encoding in HTTP/1.0"));
    }
    let empty = ResponseHead::never_has_body(status, request);
    let body = match found.content_length {
        _ if empty => BodyLength::Empty,
        Some(0) => BodyLength::Empty,
        Some(length) => BodyLength::Known(length),
        None => BodyLength::Unknown,
    };
    // RFC 9112 section 6.3: neither length nor chunked means up to the end of the connection.
    let until_close = body == BodyLength::Unknown && !found.chunked;
    let keep_alive = !found.close && !until_close && (!old || found.keep_alive);
    let (chunked, keep_alive_timeout) = (found.chunked, found.keep_alive_timeout);
    let head = ResponseHead { status, fields: Fields::Raw(fields), body, hsts: None };
    Ok(ParsedResponse { head, keep_alive, chunked, keep_alive_timeout })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 1024, fields: 8 };

    fn request(text: &str) -> Result<Option<ParsedRequest>, HeadError> {
        take_request(&mut BytesMut::from(text), LIMITS)
    }

    fn response(text: &str, method: &Method) -> Result<Option<ParsedResponse>, HeadError> {
        take_response(&mut BytesMut::from(text), LIMITS, method)
    }

    #[test]
    fn ambiguous_requests_are_refused() {
        for (fields, want) in [
            ("Content-Length: 1\r\nContent-Length: 1\r\n", "two Content-Length fields"),
            ("Content-Length: 1, 1\r\n", "Content-Length"),
            ("Content-Length: +1\r\n", "Content-Length"),
            ("Content-Length: 0x1\r\n", "Content-Length"),
            ("Content-Length: \r\n", "Content-Length"),
            ("Content-Length: 99999999999999999999\r\n", "Content-Length"),
            (
                "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
                "Content-Length with Transfer-Encoding",
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
                "Content-Length with Transfer-Encoding",
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                "two Transfer-Encoding fields",
            ),
            ("X: a\nY: b\r\n", "line end"),
            ("X : a\r\n", "field name"),
            ("X: a\r\n b\r\n", "field name"),
            ("X: a\rb\r\n", "field value"),
            ("X: a\0b\r\n", "field value"),
            ("Host: b\r\n", "two Host fields"),
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            match request(&text) {
                Err(HeadError::Malformed(what)) => assert_eq!(what, want, "{fields:?}"),
                other => panic!("{fields:?}: {other:?}"),
            }
        }
        const UNCLEAR: HeadError = HeadError::Malformed("Transfer-Encoding");
        for (coding, want) in [
            ("gzip, chunked", HeadError::TransferCoding),
            ("gzip", UNCLEAR),
            ("chunked, gzip", UNCLEAR),
            ("chunked, chunked", UNCLEAR),
            ("identity", UNCLEAR),
            ("xchunked", UNCLEAR),
            ("", UNCLEAR),
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n");
            assert_eq!(request(&text).expect_err(coding), want, "{coding}");
        }
    }

    #[test]
    fn malformed_request_lines_are_refused() {
        for text in [
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            "G\u{7f}T / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert!(request(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn targets_are_split() {
        for (line, authority, target) in [
            ("GET /x?y HTTP/1.1\r\nHost: A:80\r\n\r\n", "A:80", "/x?y"),
            ("GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", "b", "/x"),
            ("GET HTTPS://b:1 HTTP/1.1\r\nHost: a\r\n\r\n", "b:1", "/"),
            ("GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n", "b", "/?q"),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "a", "*"),
            ("GET / HTTP/1.0\r\n\r\n", "", "/"),
        ] {
            let head = request(line).expect(line).expect(line).head;
            assert_eq!(head.authority, authority, "{line:?}");
            assert_eq!(head.target, target, "{line:?}");
        }
    }

    #[test]
    fn an_authority_is_a_host_and_a_port() {
        for fine in
            ["", "a", "a.test.", "a_b.test", "a:", "a:80", "192.0.2.1:8", "[::1]", "[::1]:443"]
        {
            assert!(check_authority(fine.as_bytes()).is_ok(), "{fine}");
        }
        for wrong in [
            "a:b",
            "a:80:80",
            "a:-1",
            "a:123456",
            "a@b",
            "a/b",
            "a b",
            "a,b",
            "a\\b",
            "a%2eb",
            "::1",
            "[",
            "[]",
            "[a]",
            "[::1",
            "[::1]a",
            "[::1]:b",
            "[::1%25eth0]",
            "a]",
            "a[",
            "a\tb",
            "a;b",
        ] {
            assert!(check_authority(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(check_authority("a".repeat(262).as_bytes()).is_err());
    }

    #[test]
    fn keep_alive_follows_version_and_connection() {
        for (version, connection, want) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: foo, Close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: keep-alive\r\n", true),
        ] {
            let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n");
            let parsed = request(&text).expect(&text).expect(&text);
            assert_eq!(parsed.keep_alive, want, "{text:?}");
        }
    }

    #[test]
    fn an_incomplete_head_waits_and_a_long_one_is_refused() {
        assert!(request("GET / HTTP/1.1\r\nHost: a\r\n").expect("partial").is_none());
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(2000));
        assert_eq!(request(&long).expect_err("long"), HeadError::TooLarge);
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(8));
        assert_eq!(request(&many).expect_err("many"), HeadError::TooManyFields);
    }

    #[test]
    fn upgrade_needs_connection() {
        let with = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let without = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
        let head = |text| request(text).expect("parses").expect("whole").head;
        assert_eq!(head(with).upgrade, Some(Upgrade::Http1("websocket".into())));
        assert_eq!(head(without).upgrade, None);
    }

    #[test]
    fn response_bodies_end_where_they_should() {
        for (text, method, body, keep_alive) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
                Method::GET,
                BodyLength::Known(3),
                true,
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Method::HEAD, BodyLength::Empty, true),
            ("HTTP/1.1 200 OK\r\n\r\n", Method::GET, BodyLength::Unknown, false),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                Method::GET,
                BodyLength::Unknown,
                true,
            ),
            ("HTTP/1.1 204 No\r\n\r\n", Method::GET, BodyLength::Empty, true),
            ("HTTP/1.1 304 No\r\nContent-Length: 3\r\n\r\n", Method::GET, BodyLength::Empty, true),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n",
                Method::GET,
                BodyLength::Known(3),
                false,
            ),
            (
                "HTTP/1.1 200\r\nContent-Length: 3\r\nConnection: close\r\n\r\n",
                Method::GET,
                BodyLength::Known(3),
                false,
            ),
        ] {
            let parsed = response(text, &method).expect(text).expect(text);
            assert_eq!((parsed.head.body, parsed.keep_alive), (body, keep_alive), "{text:?}");
        }
        assert!(
            response(
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
                &Method::GET
            )
            .is_err()
        );
    }
}
