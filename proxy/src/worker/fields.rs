//! Which header fields cross the proxy, and which ones it sets: the same rules whatever protocol is
//! spoken on either side.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

use super::access_log::http_date;
use super::message::{Fields, RequestHead, ResponseHead, Upgrade, list_items};

const HSTS: &[u8] = b"Strict-Transport-Security";

/// Where fields are written to.
pub trait FieldSink {
    /// A field whose value comes in pieces.
    fn put_pieces(&mut self, name: &[u8], value: &[&[u8]]);

    fn put_field(&mut self, name: &[u8], value: &[u8]) {
        self.put_pieces(name, &[value]);
    }

    /// One that HTTP/2 has decoded.
    fn put_decoded(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.put_field(name.as_str().as_bytes(), value.as_bytes());
    }
}

/// As lines of an HTTP/1.1 head.
impl FieldSink for BytesMut {
    fn put_pieces(&mut self, name: &[u8], value: &[&[u8]]) {
        let start = self.len();
        self.extend_from_slice(name);
        self.extend_from_slice(b": ");
        value.iter().for_each(|piece| self.extend_from_slice(piece));
        // No parser lets one through; one more look costs less than a request that becomes two.
        if memchr::memchr3(b'\r', b'\n', 0, &self[start..]).is_some() {
            self.truncate(start);
        } else {
            self.extend_from_slice(b"\r\n");
        }
    }
}

/// For HTTP/2. A field that HTTP/2 cannot carry has been refused before it comes here.
impl FieldSink for HeaderMap {
    fn put_pieces(&mut self, name: &[u8], value: &[&[u8]]) {
        let value = match value {
            [whole] => HeaderValue::from_bytes(whole),
            pieces => HeaderValue::from_maybe_shared(Bytes::from(pieces.concat())),
        };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
            self.append(name, value);
        }
    }

    fn put_decoded(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.append(name, value.clone());
    }
}

/// Writes those fields that are to be kept, in their order.
fn put_fields(fields: &Fields, sink: &mut impl FieldSink, mut keep: impl FnMut(&[u8]) -> bool) {
    match fields {
        Fields::Raw(raw) => {
            let kept = raw.iter().filter(|(name, _)| keep(name));
            kept.for_each(|(name, value)| sink.put_field(name, value));
        }
        Fields::Map(map) => {
            let kept = map.iter().filter(|(name, _)| keep(name.as_str().as_bytes()));
            kept.for_each(|(name, value)| sink.put_decoded(name, value));
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
        let said = || head.fields.get("x-forwarded-proto");
        match self.is_trusted().then(said).flatten() {
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
    put_fields(&head.fields, sink, |name| {
        !(is_hop_by_hop(name)
            || is_replaced(name)
            || is_named(&named, name)
            || (!trusted && is_replaced_unless_trusted(name))
            || (cookie.is_some() && name.eq_ignore_ascii_case(b"cookie")))
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
    let text = address_text(address);
    let proto = client.proto().as_bytes();
    let is_said = |name| trusted && head.fields.get(name).is_some_and(|value| !value.is_empty());
    // Appended to where the peer is trusted, replaced elsewhere.
    let earlier = |name| if trusted { head.fields.all(name) } else { Vec::new() };

    put_appended(b"X-Forwarded-For", &earlier("x-forwarded-for"), &[text.as_bytes()], sink);
    if !is_said("x-real-ip") {
        sink.put_field(b"X-Real-IP", text.as_bytes());
    }
    if !is_said("x-forwarded-proto") {
        sink.put_field(b"X-Forwarded-Proto", proto);
    }
    if !is_said("x-forwarded-host") {
        sink.put_field(b"X-Forwarded-Host", &head.authority);
    }
    if !is_said("x-forwarded-port") {
        let mut port = itoa::Buffer::new();
        sink.put_field(b"X-Forwarded-Port", port.format(client.local_port).as_bytes());
    }
    // RFC 7239 section 4: an IPv6 address and a host with a port are quoted.
    let (open, close): (&[u8], &[u8]) =
        if address.is_ipv6() { (b"for=\"[", b"]\";host=\"") } else { (b"for=", b";host=\"") };
    let ours = [open, text.as_bytes(), close, &head.authority, b"\";proto=", proto];
    put_appended(b"Forwarded", &earlier("forwarded"), &ours, sink);
}

/// A list that ends with what is added here.
fn put_appended(name: &[u8], earlier: &[&[u8]], ours: &[&[u8]], sink: &mut impl FieldSink) {
    if earlier.is_empty() {
        sink.put_pieces(name, ours);
    } else {
        let before = earlier.iter().flat_map(|value| [*value, b", "]);
        sink.put_pieces(name, &before.chain(ours.iter().copied()).collect::<Vec<_>>());
    }
}

/// Of IPv4 without `fmt`, which took four tenths of all that is done with a request's fields.
fn address_text(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let mut text = String::with_capacity("255.255.255.255".len());
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    text.push('.');
                }
                text.push_str(itoa::Buffer::new().format(octet));
            }
            text
        }
        IpAddr::V6(address) => address.to_string(),
    }
}

/// Writes the fields of a response as the client gets them, without framing.
pub fn put_response(head: &ResponseHead, sink: &mut impl FieldSink) {
    let named = connection_options(&head.fields);
    let mut dated = head.status.is_informational();
    let mut hsts = head.hsts.as_ref();
    put_fields(&head.fields, sink, |name| {
        dated |= name.len() == 4 && name.eq_ignore_ascii_case(b"date");
        if hsts.is_some() && name.eq_ignore_ascii_case(HSTS) {
            // The application knows better, and RFC 6797 section 7.1 wants one alone.
            hsts = None;
        }
        !(is_hop_by_hop(name) || is_content_length(name) || is_named(&named, name))
    });
    if let Some(hsts) = hsts {
        sink.put_field(HSTS, hsts);
    }
    // RFC 9110 section 6.6.1: a recipient with a clock adds the date that an origin left out.
    if !dated {
        sink.put_field(b"Date", http_date().as_bytes());
    }
}

/// RFC 9110 section 7.6.1: the fields that `Connection` names belong to this hop alone.
pub fn connection_options(fields: &Fields) -> Vec<Vec<u8>> {
    let mut named = Vec::new();
    fields.for_each(|name, value| {
        if name.len() == 10 && name.eq_ignore_ascii_case(b"connection") {
            // The usual two are dropped under their own names.
            named.extend(
                list_items(value)
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
                hsts: hsts.map(|value| Bytes::from_static(value.as_bytes())),
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
