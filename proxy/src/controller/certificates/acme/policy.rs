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

/// Names that no public CA signs: those without a dot, and those under RFC 2606's `.localhost` and
/// `.test` and ICANN's `.internal`.
pub fn is_local(name: &str) -> bool {
    let reserved = [".localhost", ".test", ".internal"].iter().any(|tld| name.ends_with(tld));
    let single_label = !name.contains(['.', ':']);
    reserved || single_label
}

pub fn is_address(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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
