//! Another server that is asked about every request of a route.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::Uri;
use serde::{Deserialize, Serialize};

use super::fields::{Side, check_name};

/// Fields that are copied, at most.
const MAX_COPIED: usize = 50;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardAuth {
    /// An address, or the name of a container.
    pub host: String,
    pub port: u16,
    /// Path and query.
    pub target: String,
    /// Where that is now; `None`: nobody knows, and nobody gets in.
    pub address: Option<SocketAddr>,
}

impl ForwardAuth {
    /// `http://HOST[:PORT]/PATH`
    ///
    /// # Errors
    /// The sentence for what cannot be asked; its subject is the text, of which nothing is shown.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = || "is not a URL as http://CONTAINER:PORT/PATH".to_owned();
        let uri: Uri = text.parse().map_err(|_| form())?;
        if uri.scheme_str() == Some("https") {
            return Err("is over TLS: baton asks by http:// alone, on this host".to_owned());
        }
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
        let authority = authority.ok_or_else(form)?;
        if authority.as_str().contains('@') {
            return Err("has a name or password in it, which is not sent".to_owned());
        }
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => 80,
            _ => authority.port_u16().filter(|port| *port > 0).ok_or_else(form)?,
        };
        if host.is_empty() {
            return Err(form());
        }
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let address = literal(&host).map(|ip| SocketAddr::new(ip, port));
        Ok(ForwardAuth { host, port, target, address })
    }

    /// In place of one that was written wrongly.
    pub fn nobody() -> Self {
        ForwardAuth { host: String::new(), port: 0, target: "/".to_owned(), address: None }
    }

    /// As it stands in `Host`.
    pub fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        if self.port == 80 { host } else { format!("{host}:{}", self.port) }
    }
}

fn literal(host: &str) -> Option<IpAddr> {
    if host == "localhost" {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    host.parse().ok()
}

/// Names of fields, with commas between: those that can be copied, and item and problem of the others.
pub fn copied(text: &str) -> (Vec<String>, Vec<(String, String)>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        match check_name(Side::Request, item) {
            Ok(()) if good.len() == MAX_COPIED => {
                bad.push((item.to_owned(), format!("is one of more than {MAX_COPIED}")));
            }
            Ok(()) => good.push(item.to_owned()),
            Err(problem) => bad.push((item.to_owned(), problem)),
        }
    }
    (good, bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked() {
        let known = |host: &str, port, target: &str, address: Option<&str>| {
            let address = address.map(|text| text.parse().expect("address"));
            Ok(ForwardAuth { host: host.into(), port, target: target.into(), address })
        };
        for (text, want) in [
            (
                "http://127.0.0.1:9091/a?b=c",
                known("127.0.0.1", 9091, "/a?b=c", Some("127.0.0.1:9091")),
            ),
            ("http://localhost/", known("localhost", 80, "/", Some("127.0.0.1:80"))),
            ("http://[::1]:81", known("::1", 81, "/", Some("[::1]:81"))),
            ("http://Authelia:9091/verify", known("authelia", 9091, "/verify", None)),
            ("https://auth.test/", Err("is over TLS")),
            ("http://u:p@auth/", Err("has a name or password")),
            ("auth:9091/verify", Err("is not a URL")),
            ("/verify", Err("is not a URL")),
            ("http://auth:0/", Err("is not a URL")),
            ("http://auth:99999/", Err("is not a URL")),
            ("http:///x", Err("is not a URL")),
            ("unix:///x", Err("is not a URL")),
        ] {
            match (ForwardAuth::parse(text), want) {
                (Err(found), Err(want)) => assert!(found.starts_with(want), "{text}: {found}"),
                (found, want) => assert_eq!(found, want.map_err(str::to_owned), "{text}"),
            }
        }
        for (text, want) in
            [("http://[::1]:81/", "[::1]:81"), ("http://a/", "a"), ("http://a:8080/", "a:8080")]
        {
            assert_eq!(ForwardAuth::parse(text).map(|auth| auth.authority()), Ok(want.to_owned()));
        }
    }

    #[test]
    fn what_is_copied() {
        let (good, bad) = copied("Remote-User, Remote-Groups,,Connection,a b");
        assert_eq!(good, ["Remote-User", "Remote-Groups"]);
        let bad: Vec<&str> = bad.iter().map(|(item, _)| item.as_str()).collect();
        assert_eq!(bad, ["Connection", "a b"]);
    }
}
