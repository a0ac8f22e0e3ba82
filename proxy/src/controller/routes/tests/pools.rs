//! Who answers for a route, and whose word stands: containers, projects and the configuration.

use super::*;

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
