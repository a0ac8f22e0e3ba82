//! Options as containers say them, as tables.

use std::collections::HashSet;

use super::*;
use crate::controller::docker::{Container, Health, Network};
use crate::controller::environment::Defaults;
use crate::controller::routes::{Incumbents, Inputs, Table, build};
use crate::protocol::options::access::Access;
use crate::protocol::options::rate_limit::{Period, RateLimit};
use crate::protocol::options::redirect::Redirects;
use crate::protocol::options::timeouts::RouteTimeouts;
use crate::protocol::settings::Balance;

fn container(name: &str, created: i64, settings: &[(&str, &str)]) -> Container {
    let is_label = |name: &str| name.contains('.');
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let network =
        Network { name: "bridge".to_owned(), ipv4: "172.17.0.2".parse().ok(), ipv6: None };
    Container {
        id: format!("id-{name}"),
        name: name.to_owned(),
        created,
        env: settings.iter().filter(|(name, _)| !is_label(name)).map(pair).collect(),
        labels: settings.iter().filter(|(name, _)| is_label(name)).map(pair).collect(),
        networks: vec![network],
        health: Health::Healthy,
        ..Container::default()
    }
}

fn table(containers: &[Container]) -> Table {
    build(&Inputs {
        containers,
        departed: &[],
        static_routes: &[],
        reachable: &HashSet::new(),
        incumbents: &Incumbents::default(),
        prefer_ipv6: false,
        defaults: &Defaults::default(),
    })
}

/// Of the route at `host`.
fn options(table: &Table, host: &str) -> Options {
    let found = table.hosts.iter().find(|entry| entry.pattern.to_string() == host);
    found.expect("it is routed").routes[0].options.clone()
}

fn diagnoses(table: &Table) -> Vec<String> {
    let lines = table.diagnoses.iter();
    lines.map(|d| format!("{}: {}={} {}", d.container, d.setting, d.value, d.problem)).collect()
}

/// What one container with a host and these settings gets, and the beginning of what is wrong.
#[track_caller]
fn says(settings: &[(&str, &str)], want: &Options, problems: &[&str]) {
    let all = [&[("VIRTUAL_HOST", "a.test")], settings].concat();
    let table = table(&[container("c", 1, &all)]);
    let got = options(&table, "a.test");
    // Which is on when nothing is said.
    let is_about_it = settings.iter().any(|(name, _)| *name == "baton.compress");
    assert!(is_about_it || got.compress, "{settings:?}");
    let want = &Options { compress: want.compress || !is_about_it, ..want.clone() };
    assert_eq!(got, *want, "{settings:?}");
    let found = diagnoses(&table);
    assert_eq!(found.len(), problems.len(), "{settings:?}: {found:?}");
    for (found, want) in found.iter().zip(problems) {
        assert!(found.starts_with(&format!("c: {want}")), "{found}\n{want}");
    }
}

fn change(name: &str, change: Change) -> FieldChange {
    FieldChange { name: name.to_owned(), change }
}

#[test]
fn fields() {
    let set = |name: &str, value: &str| change(name, Change::Set(value.to_owned()));
    let response = |fields| Options { response_fields: fields, ..Options::default() };
    let off = Options::default();
    says(
        &[("baton.headers.set.X-Frame-Options", " DENY ")],
        &response(vec![set("X-Frame-Options", "DENY")]),
        &[],
    );
    says(
        &[
            ("baton.headers.add.X-A", "1"),
            ("baton.headers.remove.Server", "true"),
            ("baton.headers.remove.X-B", "false"),
            ("baton.request_headers.set.Authorization", "Bearer hunter2"),
        ],
        &Options {
            request_fields: vec![set("Authorization", "Bearer hunter2")],
            response_fields: vec![
                change("X-A", Change::Add("1".to_owned())),
                change("Server", Change::Remove),
            ],
            ..Options::default()
        },
        &[],
    );
    says(
        &[("baton.headers.set.Connection", "close"), ("baton.headers.set.X", "1")],
        &response(vec![set("X", "1")]),
        &["baton.headers.set.Connection= cannot be changed"],
    );
    for (label, value, problem) in [
        ("baton.headers.set.X", "a\nb", "baton.headers.set.X= has a value"),
        ("baton.headers.set.A B", "x", "baton.headers.set.A B= is not the name"),
        ("baton.headers.remove.X", "1", "baton.headers.remove.X= is neither"),
        ("baton.request_headers.set.X-Real-IP", "x", "baton.request_headers.set.X-Real-IP= cannot"),
    ] {
        says(&[(label, value)], &off, &[problem]);
    }
}

#[test]
fn networks() {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("net")).collect();
    let access = |allow: Option<&[&str]>, deny: &[&str]| Options {
        access: Access { allow: allow.map(nets), deny: nets(deny) },
        ..Options::default()
    };
    let label = "baton.allow";
    says(&[(label, "10.0.0.0/8, ::1")], &access(Some(&["10.0.0.0/8", "::1/128"]), &[]), &[]);
    says(&[("baton.deny", "10.0.0.1")], &access(None, &["10.0.0.1/32"]), &[]);
    says(
        &[(label, "10.0.0.0/8,10.0.0.0/33")],
        &access(Some(&["10.0.0.0/8"]), &[]),
        &["baton.allow=10.0.0.0/33 is not a network"],
    );
    // A slip does not open the door.
    says(
        &[(label, "10.0.0.O/8")],
        &access(Some(&[]), &[]),
        &["baton.allow=10.0.0.O/8 has no network", "baton.allow=10.0.0.O/8 is not a network"],
    );
    says(&[("baton.deny", "x")], &access(None, &[]), &["baton.deny=x is not a network"]);
    let internal = Access { allow: Some(access::internal()), deny: Vec::new() };
    let internal = Options { access: internal, ..Options::default() };
    says(&[("NETWORK_ACCESS", "internal")], &internal, &[]);
    says(&[("NETWORK_ACCESS", "external")], &Options::default(), &[]);
    says(&[("NETWORK_ACCESS", "x")], &Options::default(), &["NETWORK_ACCESS=x is neither"]);
    let both = [("NETWORK_ACCESS", "internal"), (label, "192.0.2.0/24")];
    says(&both, &access(Some(&["192.0.2.0/24"]), &[]), &[]);
    says(&[("NETWORK_ACCESS", "internal"), (label, "off")], &Options::default(), &[]);
}

#[test]
fn sizes_rates_and_redirects() {
    let redirects = |redirects| Options { redirects, ..Options::default() };
    let size = |max_body| Options { max_body, ..Options::default() };
    let rate = |requests, burst| Options {
        rate_limit: Some(RateLimit { requests, period: Period::Second, burst, header: None }),
        ..Options::default()
    };
    let patient = |seconds| {
        let response_head = Some(Duration::from_secs(seconds));
        let timeouts = RouteTimeouts { response_head, ..RouteTimeouts::default() };
        Options { timeouts, ..Options::default() }
    };
    let off = Options::default;
    let fixed = Fixed { status: 301, location: "https://b.test/".to_owned() };
    for (label, value, want, problem) in [
        ("baton.compress", "off", off(), ""),
        ("baton.compress", "on", Options { compress: true, ..off() }, ""),
        (
            "baton.compress",
            "br",
            Options { compress: true, ..off() },
            "baton.compress=br is neither",
        ),
        (
            "baton.priority",
            "u=1",
            Options { priority: Some(Priority { urgency: 1, incremental: false }), ..off() },
            "",
        ),
        ("baton.priority", "off", Options { priority: Some(Priority::EQUAL), ..off() }, ""),
        ("baton.priority", "on", off(), ""),
        ("baton.priority", "high", off(), "baton.priority=high is neither on, off nor a priority"),
        ("baton.cors", "*", Options { cors: Cors::parse("*").ok(), ..off() }, ""),
        ("baton.cors", "a.test", off(), "baton.cors=a.test has `a.test`, which is no origin"),
        ("baton.security_headers", "on", Options { security_headers: true, ..off() }, ""),
        ("baton.security_headers", "off", off(), ""),
        ("baton.security_headers", "all", off(), "baton.security_headers=all is neither"),
        ("baton.max_body", "10m", size(10 << 20), ""),
        ("baton.max_body", "off", off(), ""),
        ("baton.rate_limit", "100/s burst=50", rate(100, 50), ""),
        ("baton.rate_limit", "100", off(), "baton.rate_limit=100 is not a rate"),
        ("baton.rate_limit", "0/s", off(), "baton.rate_limit=0/s has a number"),
        ("baton.timeout.response_head", "5m", patient(300), ""),
        (
            "baton.timeout.response_head",
            "5",
            off(),
            "baton.timeout.response_head=5 is not a duration",
        ),
        ("baton.timeout.send_idle", "0s", off(), "baton.timeout.send_idle=0s is not a duration"),
        ("baton.max_body", "ten", off(), "baton.max_body=ten is not a size"),
        (
            "baton.redirect.to",
            "301 https://b.test/",
            redirects(Redirects { to: Some(fixed), ..Redirects::default() }),
            "",
        ),
        ("baton.redirect.to", "/x", off(), "baton.redirect.to=/x is not a place"),
        (
            "baton.redirect.host",
            "B.test",
            redirects(Redirects { host: Some("b.test".to_owned()), ..Redirects::default() }),
            "",
        ),
        ("baton.redirect.host", "*.test", off(), "baton.redirect.host=*.test is not one host"),
        (
            "baton.redirect.www",
            "apex",
            redirects(Redirects { www: Some(Www::Apex), ..Redirects::default() }),
            "",
        ),
        ("baton.redirect.www", "true", off(), "baton.redirect.www=true is neither"),
    ] {
        let problems: Vec<&str> =
            Some(problem).filter(|text| !text.is_empty()).into_iter().collect();
        says(&[(label, value)], &want, &problems);
    }
}

#[test]
fn another_server_is_asked() {
    let address = |table: &Table| {
        let auth = options(table, "a.test").forward_auth.expect("it is asked");
        auth.address.map(|address| address.to_string())
    };
    let in_project = |mut container: Container| {
        container.labels.insert("com.docker.compose.project".to_owned(), "p".to_owned());
        container
    };
    let server = |name: &str| in_project(container(name, 1, &[]));
    for (url, want, problem) in [
        ("http://192.0.2.1:81/verify", Some("192.0.2.1:81"), ""),
        ("http://p-auth-1:81/", Some("172.17.0.2:81"), ""),
        // The name of its service.
        ("http://auth:81/", Some("172.17.0.2:81"), ""),
        ("http://other/", None, "c: baton.auth.forward=other is not the name of a running"),
        ("https://auth/", None, "c: baton.auth.forward= is over TLS"),
        ("http://u:hunter2@auth/", None, "c: baton.auth.forward= has a name or password"),
    ] {
        let asking = [("VIRTUAL_HOST", "a.test"), ("baton.auth.forward", url)];
        let table = table(&[
            in_project(container("c", 1, &asking)),
            server("p-auth-1"),
            server("p-other-2"),
        ]);
        assert_eq!(address(&table).as_deref(), want, "{url}");
        let found = diagnoses(&table);
        assert_eq!(found.is_empty(), problem.is_empty(), "{url}: {found:?}");
        assert!(found.iter().all(|line| line.starts_with(problem)), "{url}: {found:?}");
        assert!(!found.iter().any(|line| line.contains("hunter2")), "{found:?}");
    }
    says(
        &[("baton.auth.forward_headers", "Remote-User, Host")],
        &Options { forward_headers: vec!["Remote-User".to_owned()], ..Options::default() },
        &["baton.auth.forward_headers=Host cannot be changed"],
    );
}

#[test]
fn a_routers_own_word_stands_before_the_containers() {
    let table = table(&[container(
        "c",
        1,
        &[
            ("baton.host", "own.test"),
            ("baton.api.host", "api.test"),
            ("baton.headers.set.X", "1"),
            ("baton.headers.set.Y", "1"),
            ("baton.api.headers.set.x", "2"),
        ],
    )]);
    let fields = |host: &str| -> Vec<(String, Change)> {
        let changes = options(&table, host).response_fields;
        changes.into_iter().map(|field| (field.name, field.change)).collect()
    };
    let set = |name: &str, value: &str| (name.to_owned(), Change::Set(value.to_owned()));
    assert_eq!(fields("own.test"), [set("X", "1"), set("Y", "1")]);
    assert_eq!(fields("api.test"), [set("x", "2"), set("Y", "1")]);
    assert_eq!(diagnoses(&table), [""; 0]);
}

#[test]
fn of_two_containers_the_older_ones_word_stands_and_no_value_is_shown() {
    let host = ("VIRTUAL_HOST", "a.test");
    let table = table(&[
        container(
            "new",
            2,
            &[host, ("baton.headers.set.X", "hunter2"), ("baton.headers.set.Y", "1")],
        ),
        container("old", 1, &[host, ("baton.headers.set.X", "hunter1")]),
    ]);
    let set = |name: &str, value: &str| change(name, Change::Set(value.to_owned()));
    assert_eq!(options(&table, "a.test").response_fields, [set("X", "hunter1"), set("Y", "1")]);
    assert_eq!(
        diagnoses(&table),
        ["new: baton.headers.set.X=(hidden) disagrees with old, which is older, on a.test/: \
          `(hidden)` stands"]
    );
}

#[test]
fn turns() {
    let usual = Options::default;
    let balance = |balance| Options { balance: Some(balance), ..usual() };
    let header = |name: &str| Options { balance_header: Some(name.to_owned()), ..usual() };
    let sticky =
        |name: &str| Options { sticky: Some(Sticky { cookie: name.to_owned() }), ..usual() };
    let nginx = "com.github.nginx-proxy.nginx-proxy.loadbalance";
    for (setting, want, problem) in [
        (("baton.balance", "least-loaded"), balance(Balance::LeastLoaded), None),
        (("baton.balance", "header X-User"), header("x-user"), None),
        ((nginx, "hash $http_x_user;"), header("x-user"), None),
        (("baton.balance", "fair"), usual(), Some("baton.balance=fair is not one of")),
        (("baton.sticky", "cookie"), sticky("baton_sticky"), None),
        (("baton.sticky", "cookie srv"), sticky("srv"), None),
        (("baton.sticky", "off"), usual(), None),
        (("baton.sticky", "ip"), usual(), Some("baton.sticky=ip is neither `cookie` nor")),
    ] {
        says(&[setting], &want, &Vec::from_iter(problem));
    }
}

#[test]
fn caps_and_queues() {
    let usual = Options::default;
    let problem = "is not a number of requests: expected";
    for (setting, want, problem) in [
        (("baton.max_requests", "20"), Options { max_requests: Some(20), ..usual() }, None),
        (("baton.queue", "0"), Options { queue: Some(0), ..usual() }, None),
        (
            ("baton.queue_wait", "2s"),
            Options { queue_wait: Some(Duration::from_secs(2)), ..usual() },
            None,
        ),
        (("baton.max_requests", "0"), usual(), Some(format!("baton.max_requests=0 {problem} 1"))),
        (("baton.queue", "many"), usual(), Some(format!("baton.queue=many {problem} 0"))),
        (("baton.queue_wait", "2"), usual(), Some("baton.queue_wait=2 is not a dura".to_owned())),
    ] {
        says(&[setting], &want, &Vec::from_iter(problem.as_deref()));
    }
}

#[test]
fn the_proxy_protocol() {
    let v2 = Options { proxy_protocol: Some(ProxyProtocol::V2), ..Options::default() };
    says(&[("baton.proxy_protocol", "v2")], &v2, &[]);
    let problem = "baton.proxy_protocol=2 is neither `v1` nor `v2`";
    says(&[("baton.proxy_protocol", "2")], &Options::default(), &[problem]);
}

#[test]
fn how_long_upstreams_may_take_to_go_and_to_come() {
    let drain = |drain| Options { drain, ..Options::default() };
    let slow_start = |slow_start| Options { slow_start, ..Options::default() };
    for (value, want, problem) in [
        ("30", Some(30), None),
        ("2m", Some(120), None),
        ("0", None, Some("=0 is not a duration")),
        ("soon", None, Some("=soon is not a duration")),
        ("off", None, None),
    ] {
        let want = want.map(Duration::from_secs);
        for (label, want) in [("baton.drain", drain(want)), ("baton.slow_start", slow_start(want))]
        {
            let problem = problem.map(|problem| format!("{label}{problem}"));
            says(&[(label, value)], &want, &Vec::from_iter(problem.as_deref()));
        }
    }
}
