//! Which client addresses a route answers.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Longer than any list that somebody writes, and short enough to be looked through.
const MAX_NETWORKS: usize = 1000;

/// What nginx-proxy calls internal (its `network_internal.conf`), and the loopback of IPv6.
const INTERNAL: &str = "127.0.0.0/8,10.0.0.0/8,192.168.0.0/16,172.16.0.0/12,fc00::/7,::1/128";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Access {
    /// These alone; `None`: everybody. An empty list lets nobody in.
    pub allow: Option<Vec<IpNet>>,
    /// Not these, whatever is allowed.
    pub deny: Vec<IpNet>,
}

impl Access {
    pub fn admits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let is_in = |networks: &[IpNet]| networks.iter().any(|net| net.contains(&address));
        !is_in(&self.deny) && self.allow.as_deref().is_none_or(is_in)
    }
}

/// What is left of a list, and what in it is not a network.
#[derive(Debug, PartialEq, Eq)]
pub struct Networks {
    pub good: Vec<IpNet>,
    /// Item and problem.
    pub bad: Vec<(String, String)>,
}

/// A comma list; a bare address is a network of one.
pub fn networks(text: &str) -> Networks {
    let mut networks = Networks { good: Vec::new(), bad: Vec::new() };
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        match network(item) {
            Ok(_) if networks.good.len() == MAX_NETWORKS => {
                let problem = format!("is one of more than {MAX_NETWORKS}: it is left out");
                networks.bad.push((item.to_owned(), problem));
            }
            Ok(network) => networks.good.push(network),
            Err(problem) => networks.bad.push((item.to_owned(), problem)),
        }
    }
    networks
}

/// # Errors
/// The sentence for what is none; its subject is the text.
pub fn network(text: &str) -> Result<IpNet, String> {
    let single = || text.parse::<IpAddr>().ok().map(IpNet::from);
    let network = text.parse::<IpNet>().ok().or_else(single);
    network.ok_or_else(|| "is not a network, as 10.0.0.0/8 or fd00::/8".to_owned())
}

/// NETWORK_ACCESS=internal
pub fn internal() -> Vec<IpNet> {
    networks(INTERNAL).good
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_admitted() {
        for (allow, deny, address, want) in [
            (None, "", "192.0.2.1", true),
            (None, "192.0.2.0/24", "192.0.2.1", false),
            (None, "192.0.2.0/24", "::ffff:192.0.2.1", false),
            (Some("192.0.2.0/24"), "", "192.0.2.1", true),
            (Some("192.0.2.0/24"), "", "192.0.3.1", false),
            (Some("192.0.2.0/24, 2001:db8::/32"), "192.0.2.7", "192.0.2.7", false),
            (Some("192.0.2.0/24, 2001:db8::/32"), "192.0.2.7", "2001:db8::1", true),
            (Some(""), "", "192.0.2.1", false),
            (Some(INTERNAL), "", "127.0.0.1", true),
            (Some(INTERNAL), "", "172.31.255.255", true),
            (Some(INTERNAL), "", "172.32.0.0", false),
            (Some(INTERNAL), "", "fd00::1", true),
            (Some(INTERNAL), "", "2001:db8::1", false),
        ] {
            let allow = allow.map(|text| networks(text).good);
            let access = Access { allow, deny: networks(deny).good };
            let address = address.parse().expect("address");
            assert_eq!(access.admits(address), want, "{access:?} {address}");
        }
    }

    #[test]
    fn what_is_no_network_is_named() {
        let read = networks("10.0.0.0/8, 10.0.0.0/33,,a.test, ::1");
        assert_eq!(read.good, ["10.0.0.0/8", "::1/128"].map(|net| net.parse().expect("net")));
        let bad: Vec<&str> = read.bad.iter().map(|(item, _)| item.as_str()).collect();
        assert_eq!(bad, ["10.0.0.0/33", "a.test"]);
        assert_eq!(internal().len(), 6);
        let many = vec!["192.0.2.1"; MAX_NETWORKS + 1].join(",");
        assert_eq!((networks(&many).good.len(), networks(&many).bad.len()), (MAX_NETWORKS, 1));
    }
}
