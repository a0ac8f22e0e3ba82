//! The contract with containers, as tables. Each container is written as a user would write it.

use std::net::SocketAddr;

use super::*;
use crate::config::{ExternalAccount, RouteTls, StaticUpstream};
use crate::controller::certificates::{Named, Trust};
use crate::controller::docker::{Health, Network, Port, State};
use crate::protocol::options::Options;
use crate::protocol::pattern::PathPattern;
use crate::protocol::snapshot::{self, UpstreamProtocol};

/// A container `name` with an address in `bridge`, healthy, so that it is in rotation at once.
fn container(name: &str, settings: &[(&str, &str)]) -> Container {
    let is_label = |name: &str| name.contains('.');
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Container {
        id: format!("id-{name}"),
        name: name.to_owned(),
        env: settings.iter().filter(|(name, _)| !is_label(name)).map(pair).collect(),
        labels: settings.iter().filter(|(name, _)| is_label(name)).map(pair).collect(),
        networks: vec![network("bridge", "172.17.0.2", "")],
        health: Health::Healthy,
        started_at: "1".to_owned(),
        ..Container::default()
    }
}

fn network(name: &str, ipv4: &str, ipv6: &str) -> Network {
    Network { name: name.to_owned(), ipv4: ipv4.parse().ok(), ipv6: ipv6.parse().ok() }
}

fn in_project(mut container: Container, project: &str, created: i64) -> Container {
    container.labels.insert("com.docker.compose.project".to_owned(), project.to_owned());
    container.created = created;
    container
}

fn created(mut container: Container, created: i64) -> Container {
    container.created = created;
    container
}

fn table(containers: &[Container]) -> Table {
    table_of(containers, &[], &Incumbents::default())
}

fn table_of(
    containers: &[Container],
    static_routes: &[StaticRoute],
    incumbents: &Incumbents,
) -> Table {
    build(&Inputs {
        containers,
        departed: &[],
        static_routes,
        reachable: &HashSet::new(),
        incumbents,
        prefer_ipv6: false,
        defaults: &Defaults::default(),
    })
}

/// Each route as one line: `host path [-> replacement]: [protocol://]address[*weight] (state), ...`
/// with what is usual left out.
fn lines(table: &Table) -> Vec<String> {
    let mut lines = Vec::new();
    for host in &table.hosts {
        for route in &host.routes {
            let kind = if matches!(route.path, PathPattern::Segments(_)) { "/*" } else { "" };
            let prefix = route.replace_prefix.as_ref().map(|prefix| format!(" -> {prefix}"));
            let upstreams: Vec<String> = route.upstreams.iter().map(upstream).collect();
            lines.push(format!(
                "{} {}{kind}{}: {}",
                host.pattern,
                route.path,
                prefix.unwrap_or_default(),
                upstreams.join(", ")
            ));
        }
    }
    lines
}

fn upstream(upstream: &UpstreamEntry) -> String {
    let mut text = match upstream.protocol {
        UpstreamProtocol::Http => String::new(),
        other => format!("{}://", other.as_str()),
    };
    text += &upstream.address.map_or("nowhere".to_owned(), |address| address.to_string());
    if upstream.weight != 1 {
        text += &format!("*{}", upstream.weight);
    }
    if upstream.state != UpstreamState::Up {
        text += &format!(" ({})", upstream.state.as_str());
    }
    text
}

/// As `container: setting=value problem`.
fn diagnoses(table: &Table) -> Vec<String> {
    let text = |d: &Diagnosis| format!("{}: {}={} {}", d.container, d.setting, d.value, d.problem);
    table.diagnoses.iter().map(text).collect()
}

fn unrouted(table: &Table) -> Vec<String> {
    table.unrouted.iter().map(|u| format!("{}: {}", u.container, u.reason)).collect()
}

/// Routes of one container with these settings; it must not say anything wrong.
#[track_caller]
fn routes(settings: &[(&str, &str)], want: &[&str]) {
    let table = table(&[container("c", settings)]);
    assert_eq!(lines(&table), want, "{settings:?}");
    assert_eq!(diagnoses(&table), [""; 0], "{settings:?}");
    assert_eq!(table.unrouted.is_empty(), !want.is_empty(), "{settings:?}");
}

/// Routes of one container with these settings, and the one thing that is wrong with them.
#[track_caller]
fn complains(settings: &[(&str, &str)], want: &[&str], problem: &str) {
    let table = table(&[container("c", settings)]);
    assert_eq!(lines(&table), want, "{settings:?}");
    assert_eq!(diagnoses(&table), [format!("c: {problem}")], "{settings:?}");
}

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
        (&[("baton.sticky", "u:secret")], plain, "baton.sticky= is not supported yet"),
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
fn addresses() {
    let v4 = |name: &str, last: u8| network(name, &format!("172.18.0.{last}"), "");
    for (networks, settings, prefer_ipv6, want) in [
        (vec![v4("b", 2), v4("c", 3)], &[][..], false, "172.18.0.2:80"),
        (vec![network("a", "", ""), v4("b", 2)], &[], false, "172.18.0.2:80"),
        (vec![v4("ingress", 1), v4("z", 2)], &[], false, "172.18.0.2:80"),
        (vec![v4("a", 1), v4("b", 2)], &[("baton.network", "b")], false, "172.18.0.2:80"),
        (vec![v4("a", 1), v4("shop_b", 2)], &[("baton.network", "b")], false, "172.18.0.2:80"),
        (vec![network("a", "172.18.0.1", "fd00::1")], &[], false, "172.18.0.1:80"),
        (vec![network("a", "172.18.0.1", "fd00::1")], &[], true, "[fd00::1]:80"),
        (vec![network("a", "", "fd00::1")], &[], false, "[fd00::1]:80"),
        (vec![v4("a", 1)], &[], true, "172.18.0.1:80"),
        (vec![network("a", "", "")], &[], false, "nowhere (no_address)"),
        (vec![], &[], false, "nowhere (no_address)"),
    ] {
        let mut container = in_project(
            container("c", &[&[("VIRTUAL_HOST", "a.test")], settings].concat()),
            "shop",
            0,
        );
        container.networks = networks.clone();
        let table = build(&Inputs {
            containers: &[container],
            departed: &[],
            static_routes: &[],
            reachable: &HashSet::new(),
            incumbents: &Incumbents::default(),
            prefer_ipv6,
            defaults: &Defaults::default(),
        });
        assert_eq!(lines(&table), [format!("a.test /: {want}")], "{networks:?} {settings:?}");
        assert_eq!(diagnoses(&table), [""; 0], "{networks:?} {settings:?}");
    }
}

#[test]
fn the_hosts_own_network_is_loopback() {
    let mut container = container("c", &[("VIRTUAL_HOST", "a.test"), ("VIRTUAL_PORT", "3000")]);
    container.networks = vec![network("host", "", "")];
    container.host_network = true;
    assert_eq!(lines(&table(&[container])), ["a.test /: 127.0.0.1:3000"]);
}

#[test]
fn states() {
    for (state, health, stopping, want, probed) in [
        (State::Running, Health::Healthy, false, "172.17.0.2:80", false),
        (State::Running, Health::Starting, false, "172.17.0.2:80 (starting)", false),
        (State::Running, Health::Unhealthy, false, "172.17.0.2:80 (unhealthy)", false),
        (State::Running, Health::None, false, "172.17.0.2:80 (waiting)", true),
        (State::Running, Health::Healthy, true, "172.17.0.2:80 (stopping)", false),
        (State::Running, Health::None, true, "172.17.0.2:80 (stopping)", false),
        (State::Paused, Health::Healthy, false, "172.17.0.2:80 (paused)", false),
        (State::Paused, Health::None, false, "172.17.0.2:80 (paused)", false),
        (State::Restarting, Health::None, false, "172.17.0.2:80 (restarting)", false),
    ] {
        let mut container = container("c", &[("VIRTUAL_HOST", "a.test")]);
        (container.state, container.health, container.stopping) = (state, health, stopping);
        let table = table(&[container]);
        assert_eq!(lines(&table), [format!("a.test /: {want}")]);
        assert_eq!(!table.probes.is_empty(), probed, "{want}");
        let in_rotation = table.snapshot_hosts(Vec::new())[0].routes[0].upstreams.len();
        assert_eq!(in_rotation == 1, want == "172.17.0.2:80", "{want}");
    }
}

#[test]
fn without_a_healthcheck_the_port_decides() {
    let mut container = container("c", &[("VIRTUAL_HOST", "a.test")]);
    container.health = Health::None;
    let reachable = |started_at: &str| {
        HashSet::from([probe::Target {
            address: "172.17.0.2:80".parse().expect("address"),
            container: "id-c".to_owned(),
            started_at: started_at.to_owned(),
        }])
    };
    for (reachable, want) in [
        (reachable("1"), "a.test /: 172.17.0.2:80"),
        // What was found of the run before a restart says nothing of this one.
        (reachable("0"), "a.test /: 172.17.0.2:80 (waiting)"),
        (HashSet::new(), "a.test /: 172.17.0.2:80 (waiting)"),
    ] {
        let table = build(&Inputs {
            containers: std::slice::from_ref(&container),
            departed: &[],
            static_routes: &[],
            reachable: &reachable,
            incumbents: &Incumbents::default(),
            prefer_ipv6: false,
            defaults: &Defaults::default(),
        });
        assert_eq!(lines(&table), [want]);
        assert_eq!(table.probes.len(), 1, "in rotation too: it stays wanted");
    }
}

#[test]
fn the_same_host_and_path_is_one_pool() {
    let table = table(&[
        created(container("new", &[("baton.host", "a.test"), ("baton.weight", "3")]), 2),
        created(container("old", &[("VIRTUAL_HOST", "a.test"), ("VIRTUAL_PORT", "81")]), 1),
        container("path", &[("VIRTUAL_HOST", "a.test"), ("VIRTUAL_PATH", "/p")]),
    ]);
    assert_eq!(
        lines(&table),
        ["a.test /: 172.17.0.2:81, 172.17.0.2:80*3", "a.test /p: 172.17.0.2:80"]
    );
    assert_eq!(diagnoses(&table), [""; 0]);
}

#[test]
fn of_two_that_disagree_the_older_stands() {
    for (setting, old, new, problem) in [
        (
            "HTTPS_METHOD",
            "nohttp",
            "noredirect",
            "HTTPS_METHOD=noredirect disagrees with z-old, which is older, on a.test: `nohttp` \
             stands",
        ),
        (
            "VIRTUAL_DEST",
            "/x",
            "/y",
            "VIRTUAL_DEST=/y disagrees with z-old, which is older, on a.test/: `/x` stands",
        ),
        (
            "VIRTUAL_DEST",
            "/x",
            "",
            "VIRTUAL_HOST= disagrees with z-old, which is older, on a.test/: `/x` stands",
        ),
        (
            "VIRTUAL_DEST",
            "",
            "/y",
            "VIRTUAL_DEST=/y disagrees with z-old, which is older, on a.test/: `unset` stands",
        ),
    ] {
        let host = ("VIRTUAL_HOST", "a.test");
        let old = created(container("z-old", &[host, (setting, old)]), 1);
        let new = created(container("a-new", &[host, (setting, new)]), 2);
        let table = table(&[new, old]);
        assert_eq!(diagnoses(&table), [format!("a-new: {problem}")]);
        assert_eq!(table.hosts[0].routes[0].upstreams.len(), 2);
    }
}

#[test]
fn one_that_does_not_say_does_not_disagree_on_https() {
    let old = created(container("old", &[("VIRTUAL_HOST", "a.test")]), 1);
    let new =
        created(container("new", &[("VIRTUAL_HOST", "a.test"), ("HTTPS_METHOD", "nohttp")]), 2);
    let table = table(&[old, new]);
    assert_eq!(table.hosts[0].policy.https, HttpsMethod::NoHttp);
    assert_eq!(diagnoses(&table), [""; 0]);
}

#[test]
fn the_older_kind_of_prefix_stands() {
    let old = created(container("old", &[("VIRTUAL_HOST", "a.test"), ("VIRTUAL_PATH", "/p")]), 1);
    let new = created(container("new", &[("baton.host", "a.test"), ("baton.path", "/p")]), 2);
    let table = table(&[old, new]);
    assert_eq!(lines(&table), ["a.test /p: 172.17.0.2:80, 172.17.0.2:80"]);
    assert_eq!(
        diagnoses(&table),
        ["new: baton.path=/p disagrees with old, which is older, on a.test/p: `the other kind of \
         prefix` stands"]
    );
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

#[test]
fn a_name_claimed_by_two_projects_stays_with_the_incumbent() {
    let host = [("VIRTUAL_HOST", "a.test")];
    let blue = in_project(container("blue", &host), "blue", 1);
    let green = in_project(container("green", &host), "green", 2);
    let green2 = in_project(container("green2", &host), "green", 0);
    let plain = created(container("plain", &host), 0);
    let holds = |table: &Table| -> Vec<String> {
        let upstreams = table.hosts.iter().flat_map(|host| &host.routes[0].upstreams);
        upstreams.map(|upstream| upstream.name.clone()).collect()
    };

    let first = table(&[green.clone(), blue.clone()]);
    assert_eq!(holds(&first), ["blue"], "nobody held it: the oldest does");
    assert_eq!(unrouted(&first), ["green: a.test/ belongs to the compose project `blue`"]);
    assert_eq!(
        diagnoses(&first),
        [
            "green: VIRTUAL_HOST=a.test a.test/ belongs to the compose project `blue`, which keeps it"
        ]
    );

    let older = table_of(&[green2.clone(), blue.clone()], &[], &first.incumbents);
    assert_eq!(holds(&older), ["blue"], "age does not count against the incumbent");

    let joined = table_of(&[green.clone(), blue.clone(), plain], &[], &first.incumbents);
    assert_eq!(holds(&joined), ["plain", "blue"], "a container outside compose joins");

    let gone = table_of(&[green.clone(), green2], &[], &older.incumbents);
    assert_eq!(holds(&gone), ["green2", "green"]);
    let back = table_of(&[green, blue], &[], &gone.incumbents);
    assert_eq!(holds(&back), ["green"], "now green is the incumbent");
}

#[test]
fn projects_may_share_a_name_by_path() {
    let web = in_project(container("web", &[("VIRTUAL_HOST", "a.test")]), "web", 1);
    let api = container("api", &[("VIRTUAL_HOST", "a.test"), ("VIRTUAL_PATH", "/api")]);
    let table = table(&[web, in_project(api, "api", 2)]);
    assert_eq!(lines(&table), ["a.test /: 172.17.0.2:80", "a.test /api: 172.17.0.2:80"]);
    assert_eq!(diagnoses(&table), [""; 0]);
}

fn static_route(host: &str, path: &str, tls: RouteTls) -> StaticRoute {
    StaticRoute {
        host: host.parse().expect("host"),
        path: PathPattern::from_label(path).expect("path"),
        replace_prefix: None,
        options: Options::default(),
        upstreams: vec![StaticUpstream {
            text: "127.0.0.1:3000".to_owned(),
            address: "127.0.0.1:3000".parse().expect("address"),
            protocol: UpstreamProtocol::Http,
        }],
        tls,
        hsts: None,
        client_ca: None,
        client_auth: None,
    }
}

#[test]
fn what_the_configuration_routes_stands() {
    let containers = [
        container("both", &[("VIRTUAL_HOST", "a.test,b.test")]),
        container("path", &[("VIRTUAL_HOST", "a.test"), ("VIRTUAL_PATH", "/p")]),
        container("only", &[("baton.host", "a.test")]),
    ];
    let table = table_of(
        &containers,
        &[static_route("a.test", "/", RouteTls::Local)],
        &Incumbents::default(),
    );
    assert_eq!(
        lines(&table),
        ["a.test /: 127.0.0.1:3000", "a.test /p: 172.17.0.2:80", "b.test /: 172.17.0.2:80"]
    );
    assert_eq!(table.hosts[0].tls, RouteTls::Local);
    assert_eq!(unrouted(&table), ["only: a.test/ belongs to the configuration"]);
    assert_eq!(
        diagnoses(&table),
        [
            "both: VIRTUAL_HOST=a.test a.test/ belongs to the configuration, which keeps it",
            "only: baton.host=a.test a.test/ belongs to the configuration, which keeps it"
        ]
    );
}

#[test]
fn a_route_without_tls_is_plain_http_alone() {
    let container = container(
        "c",
        &[("VIRTUAL_HOST", "a.test"), ("VIRTUAL_PATH", "/p"), ("HTTPS_METHOD", "redirect")],
    );
    let route = static_route("a.test", "/", RouteTls::Off);
    let table = table_of(&[container], &[route], &Incumbents::default());
    assert_eq!(table.hosts[0].policy.https, HttpsMethod::NoHttps);
    assert_eq!(
        diagnoses(&table),
        ["c: HTTPS_METHOD=redirect disagrees with the configuration on a.test: `nohttps` stands"]
    );
}

#[test]
fn a_route_that_is_configured_twice_is_reported() {
    let routes = [
        static_route("a.test", "/p", RouteTls::Auto),
        static_route("a.test", "/p/", RouteTls::Auto),
    ];
    let table = table_of(&[], &routes, &Incumbents::default());
    assert_eq!(lines(&table), ["a.test /p/*: 127.0.0.1:3000"]);
    assert_eq!(
        diagnoses(&table),
        ["the configuration: route=a.test/p is there twice; the first one stands"]
    );
}

#[test]
fn the_order_of_containers_does_not_matter() {
    let mut containers = vec![
        container("a", &[("VIRTUAL_HOST", "x.test"), ("HTTPS_METHOD", "nohttp")]),
        container("b", &[("VIRTUAL_HOST", "x.test"), ("HTTPS_METHOD", "nohttps")]),
        container("c", &[]),
        in_project(container("d", &[("VIRTUAL_HOST", "y.test")]), "p", 0),
        in_project(container("e", &[("VIRTUAL_HOST", "y.test")]), "q", 0),
    ];
    let want = table(&containers);
    for _ in 0..containers.len() {
        containers.rotate_left(1);
        assert_eq!(table(&containers), want);
        containers.reverse();
        assert_eq!(table(&containers), want);
    }
}

#[test]
fn a_snapshot_has_what_is_in_rotation_alone() {
    let up = created(container("up", &[("VIRTUAL_HOST", "a.test"), ("VIRTUAL_DEST", "/x")]), 1);
    let mut down = created(container("down", &[("VIRTUAL_HOST", "a.test,b.test")]), 2);
    down.health = Health::Unhealthy;
    let hosts =
        table(&[up, down]).snapshot_hosts(vec![Served { trust: Trust::Local, client_auth: None }]);
    let address: SocketAddr = "172.17.0.2:80".parse().expect("address");
    let route = |replace_prefix, upstreams| snapshot::Route {
        path: PathPattern::Prefix("/".to_owned()),
        replace_prefix,
        options: Options { compress: true, ..Options::default() },
        upstreams,
        hold: false,
    };
    let upstream = snapshot::Upstream {
        name: "up".to_owned(),
        address,
        protocol: UpstreamProtocol::Http,
        weight: 1,
    };
    let host = |name: &str, trusted, route| snapshot::Host {
        trusted,
        ..snapshot::Host::new(name, vec![route])
    };
    assert_eq!(
        hosts,
        [
            host("a.test", true, route(Some("/x".to_owned()), vec![upstream])),
            host("b.test", false, route(None, vec![])),
        ]
    );
}

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
