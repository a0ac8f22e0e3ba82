//! What is ordered for whom, and what HTTPS promises.

use super::*;

/// For each host what is asked for: `host: names`, `host: no` or `host: automatic`.
fn asked(table: &Table) -> Vec<String> {
    let text = |host: &HostEntry| {
        let asked = match &host.wish.asked {
            Asked::For(names) => names.join(","),
            Asked::No => "no".to_owned(),
            Asked::Unsaid => "automatic".to_owned(),
        };
        format!("{}: {asked}", host.pattern)
    };
    table.hosts.iter().map(text).collect()
}

#[test]
fn names_to_be_ordered() {
    for (settings, want, problems) in [
        (&[][..], &["a.test: automatic", "b.test: automatic"][..], &[][..]),
        (
            &[("ACME_HOST", "a.test,b.test")],
            &["a.test: a.test,b.test", "b.test: a.test,b.test"],
            &[],
        ),
        (
            &[("LETSENCRYPT_HOST", " B.test, ,a.test,")],
            &["a.test: b.test,a.test", "b.test: b.test,a.test"],
            &[],
        ),
        (
            &[("ACME_HOST", "a.test"), ("LETSENCRYPT_HOST", "b.test")],
            &["a.test: a.test", "b.test: no"],
            &[],
        ),
        (&[("ACME_HOST", "")], &["a.test: automatic", "b.test: automatic"], &[]),
        (
            &[("ACME_HOST", "a.test,b.test"), ("ACME_SINGLE_DOMAIN_CERTS", "true")],
            &["a.test: a.test", "b.test: b.test"],
            &[],
        ),
        (
            &[("ACME_HOST", "a.test,b.test"), ("ACME_SINGLE_DOMAIN_CERTS", "yes")],
            &["a.test: a.test,b.test", "b.test: a.test,b.test"],
            &["ACME_SINGLE_DOMAIN_CERTS=yes is neither `true` nor `false`"],
        ),
        (
            &[("ACME_HOST", "a.test,gone.test")],
            &["a.test: a.test", "b.test: no"],
            &["ACME_HOST=gone.test is not routed: no certificate is ordered for it"],
        ),
        (
            &[("ACME_HOST", "a.test,~x,-")],
            &["a.test: a.test", "b.test: no"],
            &[
                "ACME_HOST=- is not routed: no certificate is ordered for it",
                "ACME_HOST=~x no certificate can be issued for a pattern of this kind",
            ],
        ),
    ] {
        let host = ("VIRTUAL_HOST", "a.test,b.test");
        let table = table(&[container("c", &[&[host], settings].concat())]);
        assert_eq!(asked(&table), want, "{settings:?}");
        let problems: Vec<String> =
            problems.iter().map(|problem| format!("c: {problem}")).collect();
        assert_eq!(diagnoses(&table), problems, "{settings:?}");
    }
}

#[test]
fn what_containers_say_of_an_order() {
    use crate::config::{ChallengeKind, Directory, KeyKind};
    let wish = |settings: &[(&str, &str)]| {
        let table = table(&[container("c", &[&[("VIRTUAL_HOST", "a.test")], settings].concat())]);
        (table.hosts[0].wish.clone(), diagnoses(&table))
    };
    let usual = Wish::default;
    let staging = || Directory::named("letsencrypt-staging");
    let url = || Directory::parse("https://ca.test/dir").ok();
    for (setting, value, want) in [
        ("ACME_EMAIL", "me@a.test", Wish { email: Some("me@a.test".into()), ..usual() }),
        ("LETSENCRYPT_EMAIL", "me@a.test", Wish { email: Some("me@a.test".into()), ..usual() }),
        ("ACME_CA_URI", "https://ca.test/dir", Wish { directory: url(), ..usual() }),
        ("LETSENCRYPT_TEST", "true", Wish { directory: staging(), ..usual() }),
        ("LETSENCRYPT_TEST", "false", usual()),
        ("ACME_CHALLENGE", "HTTP-01", Wish { challenge: Some(ChallengeKind::Http01), ..usual() }),
        (
            "ACME_CHALLENGE",
            "tls-alpn-01",
            Wish { challenge: Some(ChallengeKind::TlsAlpn01), ..usual() },
        ),
        ("ACME_CERT_PROFILE", "shortlived", Wish { profile: Some("shortlived".into()), ..usual() }),
        (
            "ACME_PREFERRED_CHAIN",
            "ISRG Root X2",
            Wish { preferred_chain: Some("ISRG Root X2".into()), ..usual() },
        ),
        ("ACME_KEYSIZE", "ec-384", Wish { key: Some(KeyKind::Ec384), ..usual() }),
        ("ACME_KEYSIZE", "4096", Wish { key: Some(KeyKind::Rsa4096), ..usual() }),
        (
            "CERT_NAME",
            "shared",
            Wish { cert_name: Some(Named { name: "shared".into(), by: "c".into() }), ..usual() },
        ),
    ] {
        assert_eq!(wish(&[(setting, value)]), (want, Vec::new()), "{setting}={value}");
    }
    let account = [("ACME_EAB_KID", "kid-1"), ("ACME_EAB_HMAC_KEY", "c2VjcmV0")];
    let bound = ExternalAccount::new("kid-1", "c2VjcmV0").ok();
    assert!(bound.is_some());
    assert_eq!(wish(&account), (Wish { external_account: bound, ..usual() }, Vec::new()));
    let both = [("LETSENCRYPT_TEST", "true"), ("ACME_CA_URI", "https://ca.test/dir")];
    assert_eq!(wish(&both), (Wish { directory: staging(), ..usual() }, Vec::new()));
    for (setting, value, problem) in [
        ("ACME_EMAIL", "me", "is not an e-mail address"),
        ("ACME_CA_URI", "http://ca.test", "is not the https URL of an ACME directory"),
        ("LETSENCRYPT_TEST", "maybe", "is neither `true` nor `false`"),
        ("ACME_EAB_KID", "kid-1", "has no ACME_EAB_HMAC_KEY beside it"),
        ("ACME_CERT_PROFILE", "a b", "has more in it than letters, digits, `-`, `_` and dots"),
        ("ACME_KEYSIZE", "1024", "is not one of ec-256, ec-384, 2048, 3072, 4096"),
        ("CERT_NAME", "../x", "has more in it than letters, digits, `-`, `_` and dots"),
    ] {
        let want = (usual(), vec![format!("c: {setting}={value} {problem}")]);
        assert_eq!(wish(&[(setting, value)]), want);
    }
}

#[test]
fn of_two_that_list_a_name_the_older_stands() {
    let listing = |name: &str, hosts: &str, list: &str, age| {
        created(container(name, &[("VIRTUAL_HOST", hosts), ("ACME_HOST", list)]), age)
    };
    let old = || listing("z-old", "a.test,b.test", "a.test,b.test", 1);
    for (new, want, problems) in [
        (
            listing("new", "a.test,b.test", "b.test,a.test", 2),
            &["a.test: a.test,b.test", "b.test: a.test,b.test"][..],
            &[][..],
        ),
        (
            listing("new", "b.test,c.test", "b.test,c.test", 2),
            &["a.test: a.test,b.test", "b.test: a.test,b.test", "c.test: c.test"],
            &["new: ACME_HOST=b.test,c.test disagrees with z-old, which is older, on b.test: \
               `a.test,b.test` stands"],
        ),
        // One that does not list it does not disagree.
        (
            container("new", &[("VIRTUAL_HOST", "a.test")]),
            &["a.test: a.test,b.test", "b.test: a.test,b.test"],
            &[],
        ),
    ] {
        let table = table(&[new, old()]);
        assert_eq!(asked(&table), want);
        assert_eq!(diagnoses(&table), problems);
    }
}

#[test]
fn of_two_that_order_differently_the_older_stands() {
    for (setting, old, new) in [
        ("ACME_EMAIL", "old@a.test", "new@a.test"),
        ("ACME_CA_URI", "https://old.test/dir", "https://new.test/dir"),
        ("ACME_CHALLENGE", "http-01", "tls-alpn-01"),
        ("ACME_CERT_PROFILE", "tlsserver", "shortlived"),
        ("ACME_KEYSIZE", "ec-384", "2048"),
        ("CERT_NAME", "old", "new"),
        ("HSTS", "off", "max-age=1"),
        ("NON_GET_REDIRECT", "307", "308"),
        ("ENABLE_HTTP_ON_MISSING_CERT", "false", "true"),
        ("com.github.nginx-proxy.nginx-proxy.ssl_verify_client", "off", "on"),
    ] {
        let with = |name: &str, value, age| {
            created(container(name, &[("VIRTUAL_HOST", "a.test"), (setting, value)]), age)
        };
        let alone = table(&[with("z-old", old, 1)]);
        let both = table(&[with("a-new", new, 2), with("z-old", old, 1)]);
        let host = |table: &Table| {
            let HostEntry { policy, wish, clients, .. } = table.hosts[0].clone();
            (policy, wish, clients)
        };
        assert_eq!(host(&both), host(&alone), "{setting}");
        assert_ne!(host(&table(&[with("c", new, 1)])), host(&alone), "{setting}");
        let want = format!(
            "a-new: {setting}={new} disagrees with z-old, which is older, on a.test: `{old}` stands"
        );
        assert_eq!(diagnoses(&both), [want]);
    }
}

#[test]
fn hsts_is_for_those_who_are_trusted_by_everybody_over_https() {
    use crate::config::Hsts;
    let usual = Some("max-age=31536000");
    for (settings, trust, want) in [
        (&[][..], Trust::Public, usual),
        (&[], Trust::Local, None),
        (&[], Trust::None, None),
        (&[("HSTS", "off")], Trust::Public, None),
        (&[("HSTS", "max-age=1; preload")], Trust::Public, Some("max-age=1; preload")),
        (&[("HSTS", "max-age=1")], Trust::Local, None),
        (&[("baton.hsts", "max-age=2"), ("HSTS", "max-age=1")], Trust::Public, Some("max-age=2")),
        (&[("HTTPS_METHOD", "nohttp")], Trust::Public, usual),
        (&[("HTTPS_METHOD", "noredirect")], Trust::Public, None),
        (&[("HTTPS_METHOD", "nohttps")], Trust::Public, None),
    ] {
        let host = ("VIRTUAL_HOST", "a.test");
        let table = table(&[container("c", &[&[host], settings].concat())]);
        assert_eq!(diagnoses(&table), [""; 0]);
        let hosts = table.snapshot_hosts(vec![Served { trust, client_auth: None }]);
        assert_eq!(hosts[0].hsts.as_deref(), want, "{settings:?} {trust:?}");
    }
    complains(
        &[("VIRTUAL_HOST", "a.test"), ("HSTS", "on")],
        &["a.test /: 172.17.0.2:80"],
        "HSTS=on is neither `off` nor a value with `max-age=SECONDS`",
    );
    let mut route = static_route("a.test", "/", RouteTls::Auto);
    route.hsts = Some(Hsts::Value("max-age=3".to_owned()));
    let table = table_of(&[], &[route], &Incumbents::default());
    assert_eq!(table.hosts[0].policy.hsts, Hsts::Value("max-age=3".to_owned()));
}

#[test]
fn a_host_without_https_needs_no_certificate_unless_it_is_asked_for() {
    let plain = ("HTTPS_METHOD", "nohttps");
    for (env, want) in [
        (vec![], RouteTls::Auto),
        (vec![plain], RouteTls::Off),
        (vec![plain, ("ACME_HOST", "a.test")], RouteTls::Auto),
    ] {
        let env = [vec![("VIRTUAL_HOST", "a.test")], env].concat();
        assert_eq!(table(&[container("c", &env)]).hosts[0].tls, want, "{env:?}");
    }
}
