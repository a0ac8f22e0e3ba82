//! What an upstream is told in front of a connection of the client that it is for: the PROXY protocol
//! (haproxy.org, proxy-protocol.txt), versions 1 and 2.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Version 2 begins with this (section 2.2).
pub const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, and a connection for somebody or of the sender's own.
const PROXY: u8 = 0x21;
const LOCAL: u8 = 0x20;
/// Family and transport.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    V1,
    V2,
}

impl ProxyProtocol {
    /// # Errors
    /// The sentence for what is no version; its subject is the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "v1" => Ok(ProxyProtocol::V1),
            "v2" => Ok(ProxyProtocol::V2),
            _ => Err("is neither `v1` nor `v2`".to_owned()),
        }
    }

    /// For a client that has connected to `destination`.
    pub fn head(self, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        let (from, to) = same_family(source.ip(), destination.ip());
        let (source, destination) =
            (SocketAddr::new(from, source.port()), SocketAddr::new(to, destination.port()));
        match self {
            ProxyProtocol::V1 => line(source, destination).into_bytes(),
            ProxyProtocol::V2 => block(source, destination),
        }
    }

    /// For a connection that is for nobody else, as that of a health check.
    pub fn of_our_own(self) -> Vec<u8> {
        match self {
            ProxyProtocol::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
            ProxyProtocol::V2 => [SIGNATURE.as_slice(), &[LOCAL, 0, 0, 0]].concat(),
        }
    }
}

/// Both of one family, as either version wants them.
fn same_family(one: IpAddr, other: IpAddr) -> (IpAddr, IpAddr) {
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(address) => IpAddr::V6(address.to_ipv6_mapped()),
        address => address,
    };
    match (one.to_canonical(), other.to_canonical()) {
        (one, other) if one.is_ipv4() == other.is_ipv4() => (one, other),
        (one, other) => (mapped(one), mapped(other)),
    }
}

fn line(source: SocketAddr, destination: SocketAddr) -> String {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port())
}

fn block(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let octets = |address: SocketAddr| match address.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let addresses = [octets(source), octets(destination)].concat();
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let family = if source.is_ipv4() { TCP4 } else { TCP6 };
    // At most 36.
    let length = (addresses.len() + ports.len()) as u8;
    [SIGNATURE.as_slice(), &[PROXY, family, 0, length], &addresses, &ports].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    #[test]
    fn lines() {
        for (source, destination, want) in [
            ("192.0.2.1:5", "198.51.100.2:443", "PROXY TCP4 192.0.2.1 198.51.100.2 5 443\r\n"),
            ("[2001:db8::1]:5", "[::1]:80", "PROXY TCP6 2001:db8::1 ::1 5 80\r\n"),
            ("[::ffff:192.0.2.1]:5", "127.0.0.1:80", "PROXY TCP4 192.0.2.1 127.0.0.1 5 80\r\n"),
            ("192.0.2.1:5", "[::1]:80", "PROXY TCP6 ::ffff:192.0.2.1 ::1 5 80\r\n"),
        ] {
            let head = ProxyProtocol::V1.head(address(source), address(destination));
            assert_eq!(String::from_utf8(head).expect("text"), want);
        }
        assert_eq!(ProxyProtocol::V1.of_our_own(), b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn blocks() {
        let head = ProxyProtocol::V2.head(address("192.0.2.1:5"), address("10.0.0.2:443"));
        let want = [0x21, 0x11, 0, 12, 192, 0, 2, 1, 10, 0, 0, 2, 0, 5, 1, 0xbb];
        assert_eq!(head, [SIGNATURE.as_slice(), &want].concat());
        let head = ProxyProtocol::V2.head(address("[2001:db8::1]:5"), address("[::1]:443"));
        assert_eq!((head.len(), &head[12..16]), (52, &[0x21, 0x21, 0, 36][..]));
        assert_eq!(ProxyProtocol::V2.of_our_own().len(), 16);
    }
}
