//! Where a container is reached, and whether it is in rotation.

use super::*;

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
