//! Which names may be ordered: `acme.allow` and `acme.deny`, and what no public CA signs.

use std::net::IpAddr;

use crate::config::Acme;
use crate::protocol::pattern::{HostPattern, compile};

/// Whether `name` (a host, `*.host` or an IP address) may be ordered at all.
pub fn permits(acme: &Acme, name: &str) -> bool {
    let is_in = |list: &[HostPattern]| list.iter().any(|pattern| matches(pattern, name));
    acme.agree_tos && (acme.allow.is_empty() || is_in(&acme.allow)) && !is_in(&acme.deny)
}

/// `*.example.com` here means whatever is below, `*.example.com` itself included.
fn matches(pattern: &HostPattern, name: &str) -> bool {
    match pattern {
        HostPattern::Exact(exact) => exact == name,
        HostPattern::Leading(suffix) => name.ends_with(suffix.as_str()),
        HostPattern::Trailing(prefix) => name.starts_with(prefix.as_str()),
        // The configuration was refused if it does not compile.
        HostPattern::Regex(text) => {
            compile(text, true).is_ok_and(|regex| regex.is_match(name.as_bytes()))
        }
    }
}

/// Names that no public CA signs: those without a dot, those under RFC 2606's `.localhost` and `.test`
/// and ICANN's `.internal`, and addresses that are not public.
pub fn is_local(name: &str) -> bool {
    if let Ok(address) = name.parse() {
        return is_private(address);
    }
    let reserved = [".localhost", ".test", ".internal"].iter().any(|tld| name.ends_with(tld));
    let single_label = !name.contains(['.', ':']);
    reserved || single_label
}

/// Of this host, of a network that anybody may have, or of one link.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            // RFC 6598: between a provider and its customers.
            let is_shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || is_shared
                || v4.is_unspecified()
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_private(IpAddr::V4(v4)),
            None => {
                v6.is_loopback()
                    || v6.is_unique_local()
                    || v6.is_unicast_link_local()
                    || v6.is_unspecified()
            }
        },
    }
}

pub fn is_address(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_public_ca_signs() {
        for (name, want) in [
            ("app.example.com", false),
            ("app.test", true),
            ("app", true),
            ("127.0.0.1", true),
            ("192.168.1.1", true),
            ("100.64.0.1", true),
            ("100.128.0.1", false),
            ("203.0.113.1", false),
            ("::1", true),
            ("fd00::1", true),
            ("fe80::1", true),
            ("::ffff:10.0.0.1", true),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_local(name), want, "{name}");
        }
    }

    #[test]
    fn deny_wins_over_allow_and_nothing_goes_without_the_terms() {
        let patterns = |list: &[&str]| list.iter().map(|p| p.parse().expect("pattern")).collect();
        for (agree_tos, allow, deny, name, want) in [
            (true, &[][..], &[][..], "a.example.com", true),
            (false, &[], &[], "a.example.com", false),
            (true, &["*.example.com"], &[], "a.example.com", true),
            (true, &["*.example.com"], &[], "a.b.example.com", true),
            (true, &["*.example.com"], &[], "*.example.com", true),
            (true, &["*.example.com"], &[], "example.com", false),
            (true, &["example.com", "example.net"], &[], "example.net", true),
            (true, &["*.example.com"], &["x.example.com"], "x.example.com", false),
            (true, &[], &[r"~^dev\d"], "dev1.example.com", false),
            (true, &[], &[r"~^dev\d"], "develop.example.com", true),
        ] {
            let acme =
                Acme { agree_tos, allow: patterns(allow), deny: patterns(deny), ..Acme::default() };
            assert_eq!(permits(&acme, name), want, "{allow:?} {deny:?} {name}");
        }
    }
}
