//! Where a container is reached, and whether it is in rotation.

use std::time::Duration;

use super::*;
use crate::config::HealthCheck;
use crate::protocol::options::proxy_protocol::ProxyProtocol;

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
            check: None,
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
fn tls_that_the_container_ends() {
    let passes = |settings: &[(&str, &str)]| {
        let settings = [&[("VIRTUAL_HOST", "a.test"), ("baton.tls", "passthrough")], settings];
        let table = table(&[container("c", &settings.concat())]);
        (table.hosts[0].tls == RouteTls::Passthrough, diagnoses(&table))
    };
    let unseen = |what: &str| {
        vec![format!("c: baton.tls=passthrough hides the requests to a.test: no use for {what}")]
    };
    for (settings, want, problems) in [
        (&[][..], true, vec![]),
        (&[("baton.allow", "10.0.0.0/8"), ("baton.balance", "least-loaded")], true, vec![]),
        (&[("HTTPS_METHOD", "nohttps")], false, vec![]),
        (&[("baton.max_body", "1M")], true, unseen("max_body")),
        (&[("VIRTUAL_PATH", "/x")], true, unseen("the path /x")),
    ] {
        assert_eq!(passes(settings), (want, problems), "{settings:?}");
    }
    complains(
        &[("VIRTUAL_HOST", "a.test"), ("baton.tls", "off")],
        &["a.test /: 172.17.0.2:80"],
        "baton.tls=off is not `passthrough`",
    );
}

/// The one container, and what of its probe was found.
fn with_health(settings: &[(&str, &str)], health: Health, is_passed: bool) -> Table {
    let mut container = container("c", &[&[("baton.host", "a.test")], settings].concat());
    container.health = health;
    let (incumbents, defaults) = (Incumbents::default(), Defaults::default());
    let table = |reachable: &HashSet<probe::Target>| {
        build(&Inputs {
            containers: std::slice::from_ref(&container),
            departed: &[],
            static_routes: &[],
            reachable,
            incumbents: &incumbents,
            prefer_ipv6: false,
            defaults: &defaults,
        })
    };
    let probes = table(&HashSet::new()).probes;
    table(&probes.into_iter().filter(|_| is_passed).collect())
}

#[test]
fn a_health_path_decides_beside_a_healthcheck() {
    let path = ("baton.health.path", "/up");
    for (settings, health, is_passed, want) in [
        (&[path][..], Health::None, false, " (unready)"),
        (&[path], Health::None, true, ""),
        (&[path], Health::Healthy, false, " (unready)"),
        (&[path], Health::Healthy, true, ""),
        (&[path], Health::Unhealthy, true, " (unhealthy)"),
        (&[path], Health::Starting, true, " (starting)"),
        (&[("baton.proto", "https"), path], Health::Healthy, true, "https"),
    ] {
        let table = with_health(settings, health, is_passed);
        let want = match want {
            "https" => "a.test /: https://172.17.0.2:80".to_owned(),
            state => format!("a.test /: 172.17.0.2:80{state}"),
        };
        assert_eq!(lines(&table), [want], "{settings:?} {health:?}");
        assert_eq!(diagnoses(&table), [""; 0], "{settings:?}");
        assert_eq!(table.probes.len(), 1, "{settings:?}");
    }
}

#[test]
fn what_is_said_of_a_health_check() {
    let second = Duration::from_secs(1);
    let usual = || HealthCheck { host: Some("a.test".into()), ..HealthCheck::new("/up".into()) };
    let path = ("baton.health.path", "/up");
    for (settings, want, problem) in [
        (vec![path], Some(usual()), None),
        (
            vec![path, ("baton.health.interval", "1s"), ("baton.health.fall", "1")],
            Some(HealthCheck { interval: second, fall: 1, ..usual() }),
            None,
        ),
        (
            vec![path, ("baton.health.timeout", "1s"), ("baton.health.rise", "5")],
            Some(HealthCheck { timeout: second, rise: 5, ..usual() }),
            None,
        ),
        (
            vec![path, ("baton.proxy_protocol", "v1")],
            Some(HealthCheck { proxy_protocol: Some(ProxyProtocol::V1), ..usual() }),
            None,
        ),
        (vec![path, ("baton.proto", "https")], Some(HealthCheck { tls: true, ..usual() }), None),
        (
            vec![path, ("baton.health.rise", "0")],
            Some(usual()),
            Some("baton.health.rise=0 is not a number of checks: expected 1 to 100"),
        ),
        (
            vec![path, ("baton.health.interval", "5")],
            Some(usual()),
            Some("baton.health.interval=5 is not a duration from 1ms to 366d, as 30s or 10m"),
        ),
        (
            vec![("baton.health.path", "up")],
            None,
            Some("baton.health.path=up is not a path to ask for: it begins with `/`"),
        ),
        (
            vec![path, ("baton.proto", "grpc")],
            None,
            Some("baton.health.path=/up has no effect: grpc is spoken, and not asked"),
        ),
        (vec![("baton.health.rise", "3")], None, None),
    ] {
        let table = with_health(&settings, Health::Healthy, true);
        let check = table.probes.first().map(|target| target.check.clone().expect("a check"));
        assert_eq!(check, want, "{settings:?}");
        let found = diagnoses(&table);
        assert_eq!(found.len(), usize::from(problem.is_some()), "{found:?}");
        for (found, want) in found.iter().zip(problem) {
            assert!(found.starts_with(&format!("c: {want}")), "{found}");
        }
    }
}

#[test]
fn an_upstream_of_the_configuration_is_out_until_it_has_passed() {
    let health = Some(HealthCheck::new("/up".into()));
    let route = StaticRoute { health, ..static_route("a.test", "/", RouteTls::default()) };
    let table = table_of(&[], &[route], &Incumbents::default());
    assert_eq!(lines(&table), ["a.test /: 127.0.0.1:3000 (unready)"]);
    let check = table.probes.first().and_then(|target| target.check.as_ref());
    assert_eq!(check.and_then(|check| check.host.as_deref()), Some("a.test"));
}
