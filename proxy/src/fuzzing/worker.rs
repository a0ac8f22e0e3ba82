//! Claims about what the worker reads off the public's connections.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method};

use super::text;
use crate::worker::fields::{Client, put_request};
use crate::worker::hold::Waiting;
use crate::worker::http1::body::{BodyError, Chunk, Decoder, put_chunk_size, put_last_chunk};
use crate::worker::http1::head::{HeadLimits, ParsedRequest, take_request, take_response};
use crate::worker::message::{Fields, Part, RequestHead};
use crate::worker::proxy_protocol::{parse_v1, parse_v2};
use crate::worker::table::{Replace, Route, normal_path};
use crate::worker::target::target;
use crate::worker::websocket::Frames;

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, fields: 64 };

/// A head ends where it ends, not before, and says the same once it is written again.
pub fn request(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    let Ok(Some(parsed)) = take_request(&mut buffer, LIMITS) else { return };
    let length = bytes.len() - buffer.len();
    assert!(length <= LIMITS.bytes + 2);
    let mut shorter = BytesMut::from(&bytes[..length - 1]);
    assert!(matches!(take_request(&mut shorter, LIMITS), Ok(None)), "it ends before its end");
    let mut written = written_request(&parsed);
    let again = take_request(&mut written, HeadLimits { bytes: 8192, fields: 65 });
    let again = again.expect("what was written is right").expect("and whole");
    assert!(written.is_empty(), "a second message in it");
    let of = |parsed: &ParsedRequest| {
        let RequestHead { method, target, authority, body, upgrade, .. } = parsed.head.clone();
        (method, target, authority, body, upgrade, parsed.keep_alive, parsed.chunked)
    };
    assert_eq!(of(&parsed), of(&again));
}

fn written_request(parsed: &ParsedRequest) -> BytesMut {
    let RequestHead { method, target, authority, version, fields, .. } = &parsed.head;
    let mut out = BytesMut::new();
    out.put_slice(method.as_str().as_bytes());
    out.put_slice(b" ");
    out.put_slice(target);
    out.put_slice(format!(" {version:?}\r\n").as_bytes());
    put_field(&mut out, b"Host", authority);
    put_fields(&mut out, fields, b"host");
    out
}

fn put_fields(out: &mut BytesMut, fields: &Fields, but: &[u8]) {
    fields.for_each(|name, value| {
        if !name.eq_ignore_ascii_case(but) {
            put_field(out, name, value);
        }
    });
    out.put_slice(b"\r\n");
}

fn put_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    [name, b": ", value, b"\r\n"].into_iter().for_each(|part| out.put_slice(part));
}

/// As of requests.
pub fn response(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    let Ok(Some(parsed)) = take_response(&mut buffer, LIMITS, &Method::GET) else { return };
    let length = bytes.len() - buffer.len();
    let mut shorter = BytesMut::from(&bytes[..length - 1]);
    let shorter = take_response(&mut shorter, LIMITS, &Method::GET);
    assert!(matches!(shorter, Ok(None)), "it ends before its end");
    assert!(!(parsed.keep_alive && needs_close(&parsed)), "nobody knows where it ends");
}

fn needs_close(parsed: &crate::worker::http1::head::ParsedResponse) -> bool {
    parsed.head.body == crate::worker::message::BodyLength::Unknown && !parsed.chunked
}

/// Where a chunked body ends does not depend on how its bytes come, and it is the same body once it is
/// written again.
pub fn chunks(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    let mut decoder = Decoder::Chunked(Chunk::Size);
    let whole = decode(&mut decoder, &mut buffer);
    let mut slowly = Body::default();
    let mut decoder_of_bytes = Decoder::Chunked(Chunk::Size);
    let mut dripping = BytesMut::new();
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        if decoder_of_bytes.is_done() || slowly.error.is_some() {
            break;
        }
        dripping.put_u8(*first);
        rest = tail;
        slowly.extend(decode(&mut decoder_of_bytes, &mut dripping));
    }
    assert_eq!(whole, slowly);
    if !decoder.is_done() {
        return;
    }
    assert_eq!(buffer.len(), rest.len() + dripping.len(), "bytes of what follows");
    let mut written = BytesMut::new();
    if !whole.data.is_empty() {
        put_chunk_size(&mut written, whole.data.len());
        written.put_slice(&whole.data);
        written.put_slice(b"\r\n");
    }
    put_last_chunk(&mut written, whole.trailers.as_ref());
    let mut decoder = Decoder::Chunked(Chunk::Size);
    assert_eq!(decode(&mut decoder, &mut written), whole);
    assert!(decoder.is_done() && written.is_empty(), "a second message in it");
}

#[derive(Debug, Default, PartialEq)]
struct Body {
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    error: Option<BodyError>,
}

impl Body {
    fn extend(&mut self, more: Body) {
        self.data.extend(more.data);
        self.trailers = self.trailers.take().or(more.trailers);
        self.error = more.error;
    }
}

fn decode(decoder: &mut Decoder, buffer: &mut BytesMut) -> Body {
    let mut body = Body::default();
    loop {
        match decoder.decode(buffer) {
            Ok(Some(Part::Data(data))) => body.data.extend(data),
            Ok(Some(Part::Trailers(trailers))) => body.trailers = Some(trailers),
            Ok(None) => return body,
            Err(error) => return Body { error: Some(error), ..body },
        }
    }
}

/// What is matched has no dots, no double slashes and no NUL; and no path leads out of the prefix that
/// replaces another.
pub fn paths(bytes: &[u8]) {
    let is_plain = |&byte: &u8| byte > b' ' && byte != 0x7f && byte != b'#' && byte != b'?';
    if bytes.first() != Some(&b'/') || !bytes.iter().all(is_plain) {
        return;
    }
    let Some(normal) = normal_path(bytes) else { return };
    let leads_on = |segment: &[u8]| matches!(segment, b"." | b"..");
    assert!(normal.starts_with(b"/") && !normal.contains(&0));
    assert!(!normal.windows(2).any(|pair| pair == b"//"));
    assert!(!normal.split(|&byte| byte == b'/').any(leads_on));
    let mut head = RequestHead::new(Method::GET, "/");
    head.target = Bytes::copy_from_slice(bytes);
    for (prefix, by) in [(&b"/"[..], &b"/inner/"[..]), (b"/app", b"/inner")] {
        let Some(rest) = normal.strip_prefix(prefix) else { continue };
        let sent = target(&route(prefix, by), &head, &normal);
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        let seen = normal_path(&sent).expect("within the root");
        assert!(seen.starts_with(b"/inner"), "{sent:?}");
        assert!(seen.ends_with(rest), "{sent:?}");
    }
}

fn route(prefix: &[u8], by: &[u8]) -> Route {
    Route {
        pool: 0,
        hold: false,
        waiting: Waiting::default(),
        options: None,
        replace: Some(Replace { prefix: prefix.into(), by: by.into() }),
    }
}

/// An address that is understood is understood again as a balancer writes it.
pub fn proxy_protocol(bytes: &[u8]) {
    if let Ok(Some(source)) = parse_v1(bytes) {
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let (ip, port) = (source.ip(), source.port());
        let line = format!("PROXY {family} {ip} {ip} {port} 443\r\n");
        assert_eq!(parse_v1(line.as_bytes()), Ok(Some(source)));
    }
    let [version, family, rest @ ..] = bytes else { return };
    if let Ok(Some(source)) = parse_v2(*version, *family, rest) {
        let written = addresses(source);
        assert_eq!(parse_v2(*version, *family, &written), Ok(Some(source)));
    }
}

fn addresses(source: SocketAddr) -> Vec<u8> {
    let (ip, port) = match source {
        SocketAddr::V4(source) => (source.ip().octets().to_vec(), source.port()),
        SocketAddr::V6(source) => (source.ip().octets().to_vec(), source.port()),
    };
    [ip.as_slice(), &ip, &port.to_be_bytes(), &443_u16.to_be_bytes()].concat()
}

/// A stranger cannot say where it comes from, a trusted proxy's last word counts, and what goes up is
/// one head.
pub fn forwarded(bytes: &[u8]) {
    let last = b"\r\nX-Forwarded-For: 198.51.100.9\r\n\r\n";
    let text = [b"GET / HTTP/1.1\r\nHost: a.test\r\n", bytes, last].concat();
    let Ok(Some(parsed)) = take_request(&mut BytesMut::from(&text[..]), LIMITS) else { return };
    let peer: IpAddr = [192, 0, 2, 7].into();
    let nets = ["192.0.2.0/24".parse().expect("a network")];
    for trusted_proxies in [&[][..], &nets] {
        let client = Client { address: peer, local_port: 443, tls: true, trusted_proxies };
        let trusted = !trusted_proxies.is_empty();
        let said_last = parsed.head.fields.all("x-forwarded-for").last().map(|last| last.to_vec());
        if !trusted {
            assert_eq!(client.origin(&parsed.head), peer);
        } else if said_last.as_deref() == Some(b"198.51.100.9") {
            assert_eq!(client.origin(&parsed.head), IpAddr::from([198, 51, 100, 9]));
        }
        let sent = sent(&parsed.head, &client);
        if !trusted {
            assert_eq!(sent.fields.all("x-forwarded-for"), [b"192.0.2.7"]);
            assert_eq!(sent.fields.all("x-real-ip"), [b"192.0.2.7"]);
        }
        assert_eq!(sent.fields.all("forwarded").len(), 1);
    }
}

fn sent(head: &RequestHead, client: &Client<'_>) -> RequestHead {
    let mut out = BytesMut::from(&b"GET / HTTP/1.1\r\nHost: a.test\r\n"[..]);
    put_request(head, client, &mut out);
    out.put_slice(b"\r\n");
    let parsed = take_request(&mut out, HeadLimits { bytes: 16_384, fields: 256 });
    let parsed = parsed.expect("what goes up is right").expect("and whole");
    assert!(out.is_empty() && !parsed.chunked, "a second message in it");
    parsed.head
}

/// Where frames end does not depend on how their bytes come.
pub fn websocket(bytes: &[u8]) {
    let mut whole = Frames::default();
    whole.pass(bytes);
    let mut slowly = Frames::default();
    bytes.iter().for_each(|byte| slowly.pass(&[*byte]));
    assert_eq!(format!("{whole:?}"), format!("{slowly:?}"));
    let Some((&cut, rest)) = text(bytes).and_then(|_| bytes.split_first()) else { return };
    // A frame of text as RFC 6455 section 5.2 has it, cut anywhere.
    let length = u16::try_from(rest.len()).unwrap_or(u16::MAX);
    let frame = [&[0x81, 126][..], &length.to_be_bytes(), &rest[..length.into()]].concat();
    let mut frames = Frames::default();
    let (head, tail) = frame.split_at(usize::from(cut).min(frame.len()));
    frames.pass(head);
    frames.pass(tail);
    assert!(frames.is_between());
}
