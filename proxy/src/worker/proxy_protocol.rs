//! The PROXY protocol, versions 1 and 2 (haproxy, doc/proxy-protocol.txt): a load balancer before us says
//! for whom it has connected. No byte behind the header is read.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::protocol::options::proxy_protocol::SIGNATURE;

/// Version 1 begins with this.
const PREFIX: &[u8] = b"PROXY ";
/// Longest line of version 1, its CR LF included.
const MAX_LINE: usize = 107;
/// Longest header of version 2 behind its first 16 bytes, in bytes: addresses, and what a balancer says
/// beside them.
const MAX_REST: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("no PROXY protocol header before the data")]
    Missing,
    #[error("PROXY protocol header: {0}")]
    Malformed(&'static str),
    #[error("PROXY protocol header: {0}")]
    Io(#[from] io::Error),
}

/// The client's address; `None` where the balancer speaks for itself, or does not know.
///
/// # Errors
/// [`HeaderError`]: who has agreed to send a header and does not, is not guessed at.
pub async fn read(stream: &mut TcpStream) -> Result<Option<SocketAddr>, HeaderError> {
    // No header is shorter than 15 bytes.
    let mut first = [0; SIGNATURE.len()];
    stream.read_exact(&mut first).await?;
    if first == *SIGNATURE {
        read_v2(stream).await
    } else if first.starts_with(PREFIX) {
        read_v1(stream, &first).await
    } else {
        Err(HeaderError::Missing)
    }
}

async fn read_v1(stream: &mut TcpStream, first: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    let mut line = first.to_vec();
    let mut seen = [0; MAX_LINE];
    loop {
        let room = MAX_LINE - line.len();
        let length = stream.peek(&mut seen[..room]).await?;
        if length == 0 {
            return Err(HeaderError::Malformed("it is cut short"));
        }
        // What comes before the end of the line is the header's.
        let end = seen[..length].iter().position(|&byte| byte == b'\n');
        let taken = end.map_or(length, |end| end + 1);
        stream.read_exact(&mut seen[..taken]).await?;
        line.extend_from_slice(&seen[..taken]);
        if end.is_some() {
            return parse_v1(&line).map_err(HeaderError::Malformed);
        }
        if line.len() >= MAX_LINE {
            return Err(HeaderError::Malformed("its line does not end"));
        }
    }
}

async fn read_v2(stream: &mut TcpStream) -> Result<Option<SocketAddr>, HeaderError> {
    let mut fixed = [0; 4];
    stream.read_exact(&mut fixed).await?;
    let [version, family, high, low] = fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_REST {
        return Err(HeaderError::Malformed("it is longer than 4 KiB"));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    parse_v2(version, family, &rest).map_err(HeaderError::Malformed)
}

/// `PROXY TCP4 203.0.113.7 192.0.2.1 56324 443`
pub(crate) fn parse_v1(line: &[u8]) -> Result<Option<SocketAddr>, &'static str> {
    let line = line.strip_suffix(b"\r\n").ok_or("its line does not end with CR LF")?;
    let line = str::from_utf8(line).map_err(|_| "it is not text")?;
    let mut words = line.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(None);
    }
    let [source, _destination, port, _other_port] =
        words.collect::<Vec<_>>().try_into().map_err(|_| "it has not four addresses and ports")?;
    let address: IpAddr = source.parse().map_err(|_| "its source is no address")?;
    let port = port.parse().map_err(|_| "its source has no port")?;
    match (family, address) {
        (Some("TCP4"), IpAddr::V4(_)) | (Some("TCP6"), IpAddr::V6(_)) => {
            Ok(Some(SocketAddr::new(address, port)))
        }
        _ => Err("its family is not that of its source"),
    }
}

pub(crate) fn parse_v2(
    version: u8,
    family: u8,
    rest: &[u8],
) -> Result<Option<SocketAddr>, &'static str> {
    match version {
        // LOCAL: a look whether we are there.
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err("its version or command is unknown"),
    }
    let short = "it is shorter than its addresses";
    match family {
        0x11 => {
            let (addresses, _) = rest.split_first_chunk::<12>().ok_or(short)?;
            let [a, b, c, d, .., high, low, _, _] = *addresses;
            let source = Ipv4Addr::new(a, b, c, d);
            Ok(Some((source, u16::from_be_bytes([high, low])).into()))
        }
        0x21 => {
            let (addresses, _) = rest.split_first_chunk::<36>().ok_or(short)?;
            let (source, _) = addresses.split_first_chunk::<16>().ok_or(short)?;
            let [.., high, low, _, _] = *addresses;
            Ok(Some((Ipv6Addr::from(*source), u16::from_be_bytes([high, low])).into()))
        }
        // Other families have no address that we know.
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<SocketAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn lines_of_version_1() {
        for (line, want) in [
            ("PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n", Ok(address("203.0.113.7:56324"))),
            (
                "PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n",
                Ok(address("[2001:db8::7]:56324")),
            ),
            ("PROXY UNKNOWN\r\n", Ok(None)),
            ("PROXY UNKNOWN ffff:f:f ffff:f:f 1 2\r\n", Ok(None)),
            (
                "PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
                Err("its family is not that of its source"),
            ),
            (
                "PROXY UDP4 203.0.113.7 192.0.2.1 1 2\r\n",
                Err("its family is not that of its source"),
            ),
            ("PROXY TCP4 203.0.113.7 192.0.2.1 1\r\n", Err("it has not four addresses and ports")),
            ("PROXY TCP4 a.test 192.0.2.1 1 2\r\n", Err("its source is no address")),
            ("PROXY TCP4 203.0.113.7 192.0.2.1 70000 2\r\n", Err("its source has no port")),
            ("PROXY TCP4 203.0.113.7 192.0.2.1 1 2\n", Err("its line does not end with CR LF")),
        ] {
            assert_eq!(parse_v1(line.as_bytes()), want, "{line}");
        }
    }

    #[test]
    fn headers_of_version_2() {
        let v4 = [203, 0, 113, 7, 192, 0, 2, 1, 0xdc, 0x04, 0x01, 0xbb];
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&Ipv6Addr::LOCALHOST.octets());
        v6[32..34].copy_from_slice(&[0xdc, 0x04]);
        let more = [v4.as_slice(), &[4, 0, 1, 0]].concat();
        for (version, family, rest, want) in [
            (0x21, 0x11, v4.as_slice(), Ok(address("203.0.113.7:56324"))),
            (0x21, 0x11, &more, Ok(address("203.0.113.7:56324"))),
            (0x21, 0x21, &v6, Ok(address("[::1]:56324"))),
            (0x20, 0x00, &[], Ok(None)),
            (0x21, 0x31, &[0; 216], Ok(None)),
            (0x21, 0x11, &v4[..11], Err("it is shorter than its addresses")),
            (0x21, 0x21, &v4, Err("it is shorter than its addresses")),
            (0x31, 0x11, &v4, Err("its version or command is unknown")),
        ] {
            assert_eq!(parse_v2(version, family, rest), want, "{version:x} {family:x}");
        }
    }
}
