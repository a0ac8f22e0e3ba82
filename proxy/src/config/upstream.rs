//! An upstream as the file writes it: `[SCHEME://]ADDRESS:PORT`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use super::StaticUpstream;
use crate::protocol::snapshot::UpstreamProtocol;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    #[error("`{0}` is not an upstream: expected ADDRESS:PORT, as \"127.0.0.1:3000\"")]
    Form(String),
    #[error("`{0}` has a scheme that is not one of http, https, grpc, grpcs")]
    Scheme(String),
    #[error("`{0}` has no port")]
    NoPort(String),
    #[error("`{0}` has a path: an upstream is an address alone (strip_prefix changes paths)")]
    Path(String),
    #[error("`{0}` names a host: names are not resolved in this version, write its IP address")]
    Name(String),
}

impl FromStr for StaticUpstream {
    type Err = UpstreamError;

    fn from_str(text: &str) -> Result<Self, UpstreamError> {
        let (protocol, authority) = split_scheme(text)?;
        if authority.contains(['/', '?', '#']) {
            return Err(UpstreamError::Path(text.to_owned()));
        }
        let address = address(authority, text)?;
        Ok(StaticUpstream { text: text.to_owned(), address, protocol })
    }
}

fn split_scheme(text: &str) -> Result<(UpstreamProtocol, &str), UpstreamError> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok((UpstreamProtocol::Http, text));
    };
    let protocol = match scheme {
        "http" => UpstreamProtocol::Http,
        "https" => UpstreamProtocol::Https,
        "grpc" => UpstreamProtocol::Grpc,
        "grpcs" => UpstreamProtocol::Grpcs,
        _ => return Err(UpstreamError::Scheme(text.to_owned())),
    };
    Ok((protocol, rest))
}

fn address(authority: &str, text: &str) -> Result<SocketAddr, UpstreamError> {
    let form = || UpstreamError::Form(text.to_owned());
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return if address.port() == 0 { Err(form()) } else { Ok(address) };
    }
    if bare(authority).parse::<IpAddr>().is_ok() || authority == "localhost" {
        return Err(UpstreamError::NoPort(text.to_owned()));
    }
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(form)?;
    match host {
        "localhost" => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        name if is_name(name) => Err(UpstreamError::Name(text.to_owned())),
        _ => Err(form()),
    }
}

fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Looks like a host name, as opposed to a slip in an address (`127.0.0.1.1`, `::1:80`).
fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.bytes().all(allowed) && text.bytes().any(|b| b.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_parse() {
        use UpstreamProtocol::*;
        for (text, address, protocol) in [
            ("127.0.0.1:3000", "127.0.0.1:3000", Http),
            ("http://[::1]:3001", "[::1]:3001", Http),
            ("https://192.0.2.1:443", "192.0.2.1:443", Https),
            ("grpc://192.0.2.1:50051", "192.0.2.1:50051", Grpc),
            ("grpcs://[2001:db8::1]:443", "[2001:db8::1]:443", Grpcs),
            ("localhost:3000", "127.0.0.1:3000", Http),
        ] {
            let upstream: StaticUpstream = text.parse().expect(text);
            assert_eq!(upstream.text, text);
            assert_eq!(upstream.address, address.parse().expect(address), "{text}");
            assert_eq!(upstream.protocol, protocol, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_its_reason() {
        let form = |text: &str| UpstreamError::Form(text.into());
        let no_port = |text: &str| UpstreamError::NoPort(text.into());
        let name = |text: &str| UpstreamError::Name(text.into());
        for (text, want) in [
            ("", form("")),
            (":3000", form(":3000")),
            ("3000", form("3000")),
            ("127.0.0.1:0", form("127.0.0.1:0")),
            ("127.0.0.1:65536", form("127.0.0.1:65536")),
            ("127.0.0.1.1:80", form("127.0.0.1.1:80")),
            ("a b:80", form("a b:80")),
            ("127.0.0.1", no_port("127.0.0.1")),
            ("http://[::1]", no_port("http://[::1]")),
            ("::1", no_port("::1")),
            ("localhost", no_port("localhost")),
            ("app.example.com:80", name("app.example.com:80")),
            ("https://app.example.com", name("https://app.example.com")),
            ("ftp://127.0.0.1:21", UpstreamError::Scheme("ftp://127.0.0.1:21".into())),
            ("http://127.0.0.1:80/x", UpstreamError::Path("http://127.0.0.1:80/x".into())),
        ] {
            assert_eq!(text.parse::<StaticUpstream>(), Err(want), "{text}");
        }
    }
}
