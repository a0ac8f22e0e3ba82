//! What a container says becomes routes, or a diagnosis.

use super::*;

#[test]
fn hosts() {
    for (value, want) in [
        ("a.test", &["a.test /: 172.17.0.2:80"][..]),
        (" A.Test. ", &["a.test /: 172.17.0.2:80"]),
        ("b.test, a.test,,", &["a.test /: 172.17.0.2:80", "b.test /: 172.17.0.2:80"]),
        ("a.test,A.TEST", &["a.test /: 172.17.0.2:80"]),
        ("*.a.test", &["*.a.test /: 172.17.0.2:80"]),
        ("a.b.*", &["a.b.* /: 172.17.0.2:80"]),
        (r"~^app\d+\.test$", &[r"~^app\d+\.test$ /: 172.17.0.2:80"]),
        ("192.0.2.1", &["192.0.2.1 /: 172.17.0.2:80"]),
        ("", &[]),
        (" , ", &[]),
    ] {
        if value.trim_matches([' ', ',']).is_empty() {
            assert_eq!(lines(&table(&[container("c", &[("VIRTUAL_HOST", value)])])), want);
        } else {
            routes(&[("VIRTUAL_HOST", value)], want);
            routes(&[("baton.host", value)], want);
        }
    }
}

#[test]
fn a_wrong_host_leaves_the_others() {
    complains(
        &[("VIRTUAL_HOST", "a.test, a b, b.test")],
        &["a.test /: 172.17.0.2:80", "b.test /: 172.17.0.2:80"],
        "VIRTUAL_HOST=a b `a b` is not a host name: expected letters, digits, `-`, `_` and dots",
    );
}

#[test]
fn what_a_container_says_cannot_move_the_cursor() {
    let long = "x".repeat(10_000);
    for (value, want) in [("\x1b[2Ja", "\\u{1b}[2Ja"), ("a\nb", "a\\nb"), (&long, "…")] {
        let table = table(&[container("c", &[("VIRTUAL_HOST", value)])]);
        for text in [&table.diagnoses[0].value, &table.unrouted[0].reason] {
            assert!(text.contains(want) && !text.contains(char::is_control), "{text}");
            assert!(text.chars().count() <= MAX_SHOWN + 1);
        }
    }
    let label = ("baton.a\nb\u{1b}", "x");
    let table = table(&[container("c", &[("VIRTUAL_HOST", "a.test"), label])]);
    assert_eq!(table.diagnoses[0].setting, "baton.a\\nb\\u{1b}");
}

#[test]
fn ports() {
    let host = ("VIRTUAL_HOST", "a.test");
    for (settings, exposed, want) in [
        (&[][..], &[][..], 80),
        (&[], &[(3000, false)], 3000),
        (&[], &[(3000, false), (3001, false)], 80),
        (&[], &[(53, false), (53, true)], 80),
        (&[("VIRTUAL_PORT", "8080")], &[(3000, false)], 8080),
        (&[("VIRTUAL_PORT", " 8080 ")], &[], 8080),
        (&[("VIRTUAL_PORT", "8080"), ("baton.port", "9090")], &[], 9090),
        (&[("VIRTUAL_PORT", "")], &[(3000, false)], 3000),
    ] {
        let mut container = container("c", &[&[host], settings].concat());
        container.exposed = exposed.iter().map(|&(number, udp)| Port { number, udp }).collect();
        let table = table(&[container]);
        assert_eq!(lines(&table), [format!("a.test /: 172.17.0.2:{want}")], "{settings:?}");
        assert_eq!(diagnoses(&table), [""; 0]);
    }
}

#[test]
fn paths() {
    let host = ("VIRTUAL_HOST", "a.test");
    for (settings, want) in [
        (&[("VIRTUAL_PATH", "/app")][..], "a.test /app: 172.17.0.2:80"),
        (&[("VIRTUAL_PATH", "/app/")], "a.test /app/: 172.17.0.2:80"),
        (&[("VIRTUAL_PATH", "=/app")], "a.test =/app: 172.17.0.2:80"),
        (&[("VIRTUAL_PATH", "~ ^/(a|b)/")], "a.test ~^/(a|b)/: 172.17.0.2:80"),
        (&[("VIRTUAL_PATH", "")], "a.test /: 172.17.0.2:80"),
        (&[("VIRTUAL_DEST", "/x")], "a.test / -> /x: 172.17.0.2:80"),
        (&[("VIRTUAL_PATH", "/app/"), ("VIRTUAL_DEST", "/")], "a.test /app/ -> /: 172.17.0.2:80"),
        (&[("VIRTUAL_PATH", "/app/"), ("VIRTUAL_DEST", "")], "a.test /app/: 172.17.0.2:80"),
        (&[("baton.path", "/app")], "a.test /app/*: 172.17.0.2:80"),
        (&[("baton.path", "/app/")], "a.test /app/*: 172.17.0.2:80"),
        (&[("baton.path", "/")], "a.test /: 172.17.0.2:80"),
        (&[("baton.path", "/app"), ("VIRTUAL_PATH", "/x")], "a.test /app/*: 172.17.0.2:80"),
        (
            &[("baton.path", "/app"), ("baton.strip_prefix", "true")],
            "a.test /app/* -> /: 172.17.0.2:80",
        ),
        (
            &[("VIRTUAL_PATH", "/app"), ("VIRTUAL_DEST", "/"), ("baton.strip_prefix", "false")],
            "a.test /app: 172.17.0.2:80",
        ),
    ] {
        routes(&[&[host], settings].concat(), &[want]);
    }
}

#[test]
fn protocols() {
    for (proto, want) in [
        ("http", "172.17.0.2:80"),
        ("https", "https://172.17.0.2:80"),
        ("grpc", "grpc://172.17.0.2:80"),
        ("GRPCS", "grpcs://172.17.0.2:80"),
    ] {
        for setting in ["VIRTUAL_PROTO", "baton.proto"] {
            let want = format!("a.test /: {want}");
            routes(&[("VIRTUAL_HOST", "a.test"), (setting, proto)], &[&want]);
        }
    }
}

#[test]
fn a_wrong_value_disables_that_setting_alone() {
    let host = ("VIRTUAL_HOST", "a.test");
    let plain = &["a.test /: 172.17.0.2:80"][..];
    for (settings, want, problem) in [
        (
            &[("VIRTUAL_PORT", "http")][..],
            plain,
            "VIRTUAL_PORT=http is not a port: expected 1 to 65535",
        ),
        (&[("VIRTUAL_PORT", "0")], plain, "VIRTUAL_PORT=0 is not a port: expected 1 to 65535"),
        (
            &[("VIRTUAL_PORT", "65536")],
            plain,
            "VIRTUAL_PORT=65536 is not a port: expected 1 to 65535",
        ),
        (
            &[("baton.port", "x"), ("VIRTUAL_PORT", "81")],
            &["a.test /: 172.17.0.2:81"],
            "baton.port=x is not a port: expected 1 to 65535",
        ),
        (
            &[("VIRTUAL_PROTO", "htpp")],
            plain,
            "VIRTUAL_PROTO=htpp is not a protocol: expected http, https, grpc or grpcs",
        ),
        (
            &[("VIRTUAL_DEST", "x")],
            plain,
            "VIRTUAL_DEST=x is not a path: it must begin with `/` and have no blank",
        ),
        (
            &[("VIRTUAL_PATH", "~^/a"), ("VIRTUAL_DEST", "/")],
            &["a.test ~^/a: 172.17.0.2:80"],
            "VIRTUAL_DEST=/ has no effect: the path is a regular expression",
        ),
        (
            &[("baton.strip_prefix", "yes")],
            plain,
            "baton.strip_prefix=yes is neither `true` nor `false`",
        ),
        (&[("baton.weight", "0")], plain, "baton.weight=0 is not a weight: expected 1 to 100"),
        (
            &[("baton.network", "front")],
            plain,
            "baton.network=front is not a network of this container",
        ),
        (
            &[("HTTPS_METHOD", "always")],
            plain,
            "HTTPS_METHOD=always is not one of redirect, noredirect, nohttp and nohttps",
        ),
        (&[("VIRTUAL_SOMETHING", "{}")], plain, "VIRTUAL_SOMETHING= is not supported yet"),
        (&[("baton.prot", "1")], plain, "baton.prot= is not known; the nearest is `baton.port`"),
    ] {
        complains(&[&[host], settings].concat(), want, problem);
    }
}

#[test]
fn every_container_is_routed_or_says_why_not() {
    for (settings, want) in [
        (&[][..], "c: no VIRTUAL_HOST or baton.host"),
        (&[("baton.port", "80")], "c: no VIRTUAL_HOST or baton.host"),
        (&[("VIRTUAL_HOST", " ")], "c: VIRTUAL_HOST is empty"),
        (&[("VIRTUAL_HOST", "a b")], "c: VIRTUAL_HOST `a b` has no usable host"),
        (&[("baton.host", "~(")], "c: baton.host `~(` has no usable host"),
        (
            &[("VIRTUAL_HOST", "a.test"), ("VIRTUAL_PROTO", "fastcgi")],
            "c: VIRTUAL_PROTO `fastcgi` is not supported",
        ),
        (
            &[("VIRTUAL_HOST", "a.test"), ("baton.proto", "uwsgi")],
            "c: baton.proto `uwsgi` is not supported",
        ),
        // At `/` it would be in the pool of another container.
        (
            &[("VIRTUAL_HOST", "a.test"), ("VIRTUAL_PATH", "app")],
            "c: VIRTUAL_PATH: `app` is not a path: it must begin with `/`, `=/` or `~`",
        ),
    ] {
        let table = table(&[container("c", settings)]);
        assert_eq!(lines(&table), [""; 0], "{settings:?}");
        assert_eq!(unrouted(&table), [want], "{settings:?}");
    }
}

#[test]
fn several_routers_on_one_container() {
    routes(
        &[
            ("VIRTUAL_HOST", "a.test"),
            ("VIRTUAL_PORT", "8080"),
            ("VIRTUAL_PATH", "/web"),
            ("baton.api.host", "a.test,api.test"),
            ("baton.api.path", "/api"),
            ("baton.api.port", "9090"),
            ("baton.api.proto", "grpc"),
            ("baton.admin.host", "admin.test"),
        ],
        &[
            "a.test /api/*: grpc://172.17.0.2:9090",
            "a.test /web: 172.17.0.2:8080",
            "admin.test /: 172.17.0.2:8080",
            "api.test /api/*: grpc://172.17.0.2:9090",
        ],
    );
    complains(
        &[("VIRTUAL_HOST", "a.test"), ("baton.api.port", "81")],
        &["a.test /: 172.17.0.2:80"],
        "baton.api.host= is missing: nothing is routed for the router `api`",
    );
    complains(
        &[("baton.api.host", "a.test"), ("baton.web.host", "b.test"), ("VIRTUAL_PORT", "x")],
        &["a.test /: 172.17.0.2:80", "b.test /: 172.17.0.2:80"],
        "VIRTUAL_PORT=x is not a port: expected 1 to 65535",
    );
}
