//! Which header fields cross the proxy, and which ones it sets: the same rules whatever protocol is
//! spoken on either side.

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

use super::access_log::http_date;
use super::message::{Fields, RequestHead, ResponseHead, Upgrade};

const HSTS: &[u8] = b"Strict-Transport-Security";

/// Where fields are written to.
pub trait FieldSink {
    fn put_field(&mut self, name: &[u8], value: &[u8]);
}

/// As lines of an HTTP/1.1 head.
impl FieldSink for BytesMut {
    fn put_field(&mut self, name: &[u8], value: &[u8]) {
        // No parser lets one through; one more look costs less than a request that becomes two.
        let splits = |text| memchr::memchr3(b'\r', b'\n', 0, text).is_some();
        if splits(name) || splits(value) {
            return;
        }
        self.reserve(name.len() + value.len() + 4);
        self.put_slice(name);
        self.put_slice(b": ");
        self.put_slice(value);
        self.put_slice(b"\r\n");
    }
}

/// For HTTP/2. A field that HTTP/2 cannot carry has been refused before it comes here.
impl FieldSink for HeaderMap {
    fn put_field(&mut self, name: &[u8], value: &[u8]) {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            self.append(name, value);
        }
    }
}

/// What the proxy knows of the client's side of a request.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// The peer of the connection.
    pub address: IpAddr,
    pub local_port: u16,
    pub tls: bool,
    /// Peers whose statements about the client are believed.
    pub trusted_proxies: &'a [IpNet],
}

impl Client<'_> {
    fn is_trusted(&self) -> bool {
        self.trusts(self.address)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_proxies.iter().any(|net| net.contains(&address))
    }

    /// As the client sees it, where a trusted proxy says so.
    pub fn scheme(&self, head: &RequestHead) -> &'static [u8] {
        let said = head.fields.get("x-forwarded-proto").filter(|_| self.is_trusted());
        match said {
            Some(said) if said.eq_ignore_ascii_case(b"https") => b"https",
            Some(said) if said.eq_ignore_ascii_case(b"http") => b"http",
            _ => self.proto().as_bytes(),
        }
    }

    /// Who asks: the peer, or where that is a trusted proxy the right-most address of X-Forwarded-For
    /// that is not one. What stands further left is anybody's word.
    pub fn origin(&self, head: &RequestHead) -> IpAddr {
        if !self.is_trusted() {
            return self.address.to_canonical();
        }
        let mut origin = self.address;
        let lists = head.fields.all("x-forwarded-for");
        let mut hops = lists.iter().rev().flat_map(|list| list.rsplit(|&byte| byte == b','));
        while self.trusts(origin) {
            let Some(hop) = hops.next().and_then(hop_address) else { break };
            origin = hop;
        }
        origin.to_canonical()
    }

    fn proto(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// Some proxies add the port.
fn hop_address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(with_port)
}

/// Writes the fields of a request as the upstream gets them, without Host and framing, which
/// differ by protocol.
pub fn put_request(head: &RequestHead, client: &Client<'_>, sink: &mut impl FieldSink) {
    let named = connection_options(&head.fields);
    let trusted = client.is_trusted();
    let cookie = joined_cookie(&head.fields);
    head.fields.for_each(|name, value| {
        if !(is_hop_by_hop(name)
            || is_replaced(name)
            || is_named(&named, name)
            || (!trusted && is_replaced_unless_trusted(name))
            || (cookie.is_some() && name.eq_ignore_ascii_case(b"cookie")))
        {
            sink.put_field(name, value);
        }
    });
    if let Some(cookie) = cookie {
        sink.put_field(b"Cookie", &cookie);
    }
    put_forwarding(head, client, trusted, sink);
}

/// RFC 9113 section 8.2.3: HTTP/2 clients send a cookie in pieces, which have to be one field again
/// for everybody else. None where there is nothing to join.
fn joined_cookie(fields: &Fields) -> Option<Vec<u8>> {
    let Fields::Map(map) = fields else { return None };
    let pieces: Vec<&[u8]> = map.get_all("cookie").iter().map(HeaderValue::as_bytes).collect();
    (pieces.len() > 1).then(|| pieces.join(&b"; "[..]))
}

fn put_forwarding(
    head: &RequestHead,
    client: &Client<'_>,
    trusted: bool,
    sink: &mut impl FieldSink,
) {
    let address = client.address.to_canonical();
    let mut text = TextBuffer::default();
    let said = |name| head.fields.get(name).filter(|value| trusted && !value.is_empty());

    // Appended to where the peer is trusted, replaced elsewhere.
    text.clear();
    if trusted {
        for value in head.fields.all("x-forwarded-for") {
            text.raw(value);
            text.raw(b", ");
        }
    }
    text.display(address);
    sink.put_field(b"X-Forwarded-For", text.bytes());

    if said("x-real-ip").is_none() {
        text.clear();
        text.display(address);
        sink.put_field(b"X-Real-IP", text.bytes());
    }
    if said("x-forwarded-proto").is_none() {
        sink.put_field(b"X-Forwarded-Proto", client.proto().as_bytes());
    }
    if said("x-forwarded-host").is_none() {
        sink.put_field(b"X-Forwarded-Host", &head.authority);
    }
    if said("x-forwarded-port").is_none() {
        text.clear();
        text.display(client.local_port);
        sink.put_field(b"X-Forwarded-Port", text.bytes());
    }

    // RFC 7239 section 4: an IPv6 address and a host with a port are quoted.
    text.clear();
    if trusted {
        for value in head.fields.all("forwarded") {
            text.raw(value);
            text.raw(b", ");
        }
    }
    match address {
        IpAddr::V4(address) => {
            text.raw(b"for=");
            text.display(address);
        }
        IpAddr::V6(address) => {
            text.raw(b"for=\"[");
            text.display(address);
            text.raw(b"]\"");
        }
    }
    text.raw(b";host=\"");
    text.raw(&head.authority);
    text.raw(b"\";proto=");
    text.raw(client.proto().as_bytes());
    sink.put_field(b"Forwarded", text.bytes());
}

/// Writes the fields of a response as the client gets them, without framing.
pub fn put_response(head: &ResponseHead, sink: &mut impl FieldSink) {
    let named = connection_options(&head.fields);
    let mut dated = head.status.is_informational();
    let mut hsts = head.hsts.as_ref();
    head.fields.for_each(|name, value| {
        dated |= name.len() == 4 && name.eq_ignore_ascii_case(b"date");
        if hsts.is_some() && name.eq_ignore_ascii_case(HSTS) {
            // The application knows better, and RFC 6797 section 7.1 wants one alone.
            hsts = None;
        }
        if !(is_hop_by_hop(name) || is_content_length(name) || is_named(&named, name)) {
            sink.put_field(name, value);
        }
    });
    if let Some(hsts) = hsts {
        sink.put_field(HSTS, hsts);
    }
    // RFC 9110 section 6.6.1: a recipient with a clock adds the date that an origin left out.
    if !dated {
        sink.put_field(b"Date", http_date().as_bytes());
    }
}

/// Small text made for one field; no allocation for what usually comes.
#[derive(Default)]
struct TextBuffer {
    bytes: Vec<u8>,
}

impl TextBuffer {
    fn clear(&mut self) {
        self.bytes.clear();
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn display(&mut self, value: impl std::fmt::Display) {
        use std::io::Write;
        // Writing to a Vec cannot fail.
        let _ = write!(self.bytes, "{value}");
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// RFC 9110 section 7.6.1: the fields that `Connection` names belong to this hop alone.
pub fn connection_options(fields: &Fields) -> Vec<Vec<u8>> {
    let mut named = Vec::new();
    fields.for_each(|name, value| {
        if name.len() == 10 && name.eq_ignore_ascii_case(b"connection") {
            let options = value.split(|&b| b == b',').map(<[u8]>::trim_ascii);
            // The usual two are dropped under their own names.
            named.extend(
                options
                    .filter(|option| {
                        !(option.is_empty()
                            || option.eq_ignore_ascii_case(b"close")
                            || option.eq_ignore_ascii_case(b"keep-alive")
                            || option.eq_ignore_ascii_case(b"upgrade")
                            || is_end_to_end(option))
                    })
                    .map(<[u8]>::to_ascii_lowercase),
            );
        }
    });
    named
}

pub fn is_named(named: &[Vec<u8>], name: &[u8]) -> bool {
    !named.is_empty() && named.iter().any(|option| option.eq_ignore_ascii_case(name))
}

/// A client cannot have these removed by naming them in Connection: upstreams decide by them.
fn is_end_to_end(name: &[u8]) -> bool {
    [&b"host"[..], b"authorization", b"cookie", b"content-type", b"content-length", b"expect"]
        .iter()
        .any(|kept| name.eq_ignore_ascii_case(kept))
        || name.len() > 11 && name[..11].eq_ignore_ascii_case(b"x-forwarded")
}

fn is_hop_by_hop(name: &[u8]) -> bool {
    match name.len() {
        2 => name.eq_ignore_ascii_case(b"te"),
        7 => name.eq_ignore_ascii_case(b"upgrade") || name.eq_ignore_ascii_case(b"trailer"),
        10 => name.eq_ignore_ascii_case(b"connection") || name.eq_ignore_ascii_case(b"keep-alive"),
        16 => name.eq_ignore_ascii_case(b"proxy-connection"),
        17 => name.eq_ignore_ascii_case(b"transfer-encoding"),
        _ => false,
    }
}

/// Fields of a request that are always written anew, or never sent.
fn is_replaced(name: &[u8]) -> bool {
    match name.len() {
        4 => name.eq_ignore_ascii_case(b"host"),
        // httpoxy: CGI programs read it as HTTP_PROXY.
        5 => name.eq_ignore_ascii_case(b"proxy"),
        9 => name.eq_ignore_ascii_case(b"forwarded"),
        15 => name.eq_ignore_ascii_case(b"x-forwarded-for"),
        // In any spelling: an application that reads `_` as `-` would frame the request by it.
        14 => is_spelled(name, b"content-length"),
        17 => is_spelled(name, b"transfer-encoding"),
        _ => false,
    }
}

/// What says where a request comes from, in any spelling that an application could take for it: CGI
/// and its heirs read `X_Real_IP` and `X-Real-IP` as one name.
fn is_replaced_unless_trusted(name: &[u8]) -> bool {
    if !matches!(name.first(), Some(b'x' | b'X' | b'f' | b'F' | b'p' | b'P')) {
        return false;
    }
    begins(name, b"x-forwarded-") || begins(name, b"x-original-") || is_spelled(name, b"x-real-ip")
}

fn begins(name: &[u8], with: &[u8]) -> bool {
    name.get(..with.len()).is_some_and(|start| is_spelled(start, with))
}

/// Where `_` is read as `-`.
fn is_spelled(name: &[u8], other: &[u8]) -> bool {
    name.len() == other.len()
        && name.iter().zip(other).all(|(&byte, &want)| {
            byte.eq_ignore_ascii_case(&want) || (byte == b'_' && want == b'-')
        })
}

fn is_content_length(name: &[u8]) -> bool {
    name.len() == 14 && name.eq_ignore_ascii_case(b"content-length")
}

/// The `Upgrade` and `Connection` of a request that asks an HTTP/1.1 upstream to switch.
pub fn put_upgrade(upgrade: &Upgrade, sink: &mut impl FieldSink) {
    let (Upgrade::Http1(token) | Upgrade::Connect(token)) = upgrade;
    sink.put_field(b"Connection", b"upgrade");
    sink.put_field(b"Upgrade", token);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::http1::head::{HeadLimits, take_request};

    fn forwarded(fields: &str, trusted: bool) -> String {
        let text = format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
        let limits = HeadLimits { bytes: 4096, fields: 32 };
        let parsed = take_request(&mut BytesMut::from(text.as_str()), limits);
        let head = parsed.expect("parses").expect("whole").head;
        let nets = ["192.0.2.0/24".parse().expect("net")];
        let client = Client {
            address: "192.0.2.7".parse().expect("address"),
            local_port: 443,
            tls: true,
            trusted_proxies: if trusted { &nets } else { &[] },
        };
        let mut out = BytesMut::new();
        put_request(&head, &client, &mut out);
        String::from_utf8(out.to_vec()).expect("utf-8")
    }

    const SET: &str = "X-Forwarded-For: 192.0.2.7\r\nX-Real-IP: 192.0.2.7\r\n\
        X-Forwarded-Proto: https\r\nX-Forwarded-Host: a.example\r\nX-Forwarded-Port: 443\r\n\
        Forwarded: for=192.0.2.7;host=\"a.example\";proto=https\r\n";

    #[test]
    fn hop_by_hop_fields_stay_behind() {
        let got = forwarded(
            "Connection: close, X-Hop, Cookie\r\nX-Hop: 1\r\nTE: trailers\r\nKeep-Alive: 1\r\n\
             Proxy-Connection: x\r\nUpgrade: h2c\r\nTrailer: x\r\nProxy: evil\r\nCookie: c\r\n\
             X-Kept: yes\r\n",
            false,
        );
        assert_eq!(got, format!("Cookie: c\r\nX-Kept: yes\r\n{SET}"));
    }

    #[test]
    fn a_client_cannot_say_where_it_comes_from() {
        let said = "X-Forwarded-For: 1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\nX-Forwarded-Proto: http\r\n\
            X-Forwarded-Host: b\r\nX-Forwarded-Port: 1\r\nForwarded: for=1.1.1.1\r\n";
        assert_eq!(forwarded(said, false), SET);
    }

    #[test]
    fn no_spelling_of_a_forwarding_field_passes() {
        let said = "X_Forwarded_Proto: http\r\nx_real_ip: 1.1.1.1\r\nX-Forwarded-Ssl: on\r\n\
            X-Original-URI: /x\r\nX-Forwarded-Prefix: /x\r\n";
        assert_eq!(forwarded(said, false), SET);
    }

    #[test]
    fn the_applications_own_hsts_is_not_doubled() {
        let ours = "Strict-Transport-Security: max-age=31536000\r\n";
        for (own, hsts, want) in [
            ("", None, ""),
            ("", Some("max-age=31536000"), ours),
            ("strict-transport-security", Some("max-age=31536000"), ""),
            ("strict-transport-security", None, ""),
        ] {
            let mut map = HeaderMap::new();
            map.insert("date", HeaderValue::from_static("x"));
            let mut want = format!("date: x\r\n{want}");
            if !own.is_empty() {
                map.insert(own, HeaderValue::from_static("max-age=1"));
                want = format!("{own}: max-age=1\r\ndate: x\r\n");
            }
            let head = ResponseHead {
                status: http::StatusCode::OK,
                fields: Fields::Map(map),
                body: crate::worker::message::BodyLength::Empty,
                hsts: hsts.map(|value| bytes::Bytes::from_static(value.as_bytes())),
            };
            let mut out = BytesMut::new();
            put_response(&head, &mut out);
            let sorted = |text: &str| {
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            let (got, want) = (sorted(&String::from_utf8_lossy(&out)), sorted(&want));
            assert_eq!(got, want, "{own} {hsts:?}");
        }
    }

    #[test]
    fn pieces_of_a_cookie_become_one_field() {
        let mut map = HeaderMap::new();
        assert_eq!(joined_cookie(&Fields::Map(map.clone())), None);
        for piece in ["a=1", "b=2"] {
            map.append("cookie", HeaderValue::from_static(piece));
        }
        assert_eq!(joined_cookie(&Fields::Map(map)), Some(b"a=1; b=2".to_vec()));
    }

    #[test]
    fn a_field_cannot_end_its_line() {
        let mut out = BytesMut::new();
        out.put_field(b"A", b"b\r\nC: d");
        out.put_field(b"A\n", b"b");
        assert!(out.is_empty());
    }

    #[test]
    fn the_right_most_address_that_is_not_trusted_asks() {
        let nets = ["192.0.2.0/24".parse().expect("net"), "10.0.0.0/8".parse().expect("net")];
        for (peer, said, want) in [
            ("198.51.100.1", "X-Forwarded-For: 1.1.1.1\r\n", "198.51.100.1"),
            ("192.0.2.7", "", "192.0.2.7"),
            ("192.0.2.7", "X-Forwarded-For: 1.1.1.1\r\n", "1.1.1.1"),
            ("::ffff:192.0.2.7", "X-Forwarded-For: 1.1.1.1\r\n", "1.1.1.1"),
            ("192.0.2.7", "X-Forwarded-For: 6.6.6.6, 1.1.1.1, 10.0.0.1\r\n", "1.1.1.1"),
            (
                "192.0.2.7",
                "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 1.1.1.1:99,10.0.0.1\r\n",
                "1.1.1.1",
            ),
            ("192.0.2.7", "X-Forwarded-For: [2001:db8::1]:99\r\n", "2001:db8::1"),
            ("192.0.2.7", "X-Forwarded-For: 2001:db8::1\r\n", "2001:db8::1"),
            // Nobody knows who that is: the last one known counts.
            ("192.0.2.7", "X-Forwarded-For: 1.1.1.1, unknown\r\n", "192.0.2.7"),
            ("192.0.2.7", "X-Forwarded-For: 10.0.0.1\r\n", "10.0.0.1"),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{said}\r\n");
            let limits = HeadLimits { bytes: 4096, fields: 32 };
            let parsed = take_request(&mut BytesMut::from(text.as_str()), limits);
            let head = parsed.expect("parses").expect("whole").head;
            let address = peer.parse().expect("address");
            let client = Client { address, local_port: 443, tls: true, trusted_proxies: &nets };
            assert_eq!(client.origin(&head).to_string(), want, "{peer} {said}");
        }
    }

    #[test]
    fn a_trusted_peer_is_believed() {
        let said = "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: http\r\n";
        assert_eq!(
            forwarded(said, true),
            "X-Forwarded-Proto: http\r\nX-Forwarded-For: 1.1.1.1, 192.0.2.7\r\n\
             X-Real-IP: 192.0.2.7\r\nX-Forwarded-Host: a.example\r\nX-Forwarded-Port: 443\r\n\
             Forwarded: for=192.0.2.7;host=\"a.example\";proto=https\r\n"
        );
    }
}
