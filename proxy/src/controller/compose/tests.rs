//! Compose files, and what their services would get and lose.

use std::io;

use super::service::Surroundings;
use super::*;
use crate::controller::docker::Health;

fn variable(name: &str) -> Option<String> {
    match name {
        "DOMAIN" => Some("example.com".to_owned()),
        _ => None,
    }
}

fn read(path: &str) -> io::Result<String> {
    match path {
        "gap.env" => Ok("PASSWORD=$SECRET\nVIRTUAL_HOST=$NOBODY\n".to_owned()),
        "web.env" => Ok("VIRTUAL_HOST=a.${DOMAIN}\nPASSWORD=hunter2\nVIRTUAL_PORT=81\n".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn services(text: &str) -> Vec<Service> {
    let file = file::parse(text).expect("a compose file");
    let around = Surroundings { file: &file, project: "shop", variable: &variable, read: &read };
    file.services().map(|(name, raw)| Service::read(name, raw, around)).collect()
}

fn report(text: &str) -> Report {
    finished(judge(&services(text), &[], &Acme::default()))
}

/// One service `web`, with these lines in it.
fn web(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("services:\n  web:\n    image: web:1\n{lines}")
}

/// `CONTAINER SETTING=VALUE PROBLEM`
fn problems(report: &Report) -> Vec<String> {
    let lines = report
        .diagnoses
        .iter()
        .map(|one| format!("{} {}={} {}", one.container, one.setting, one.value, one.problem));
    lines.collect()
}

fn notes(report: &Report) -> Vec<String> {
    report.notes.iter().map(|note| format!("{}: {}", note.about, note.text)).collect()
}

/// Host, path, port, protocol, HTTPS and certificate of each route.
fn routes_of(report: &Report) -> Vec<String> {
    let lines = report.routes.iter().map(|route| {
        let Route { host, path, port, protocol, https, certificate, .. } = route;
        let port = port.unwrap_or_default();
        format!("{host}{path} {protocol}:{port} {https} {}", certificate.kind)
    });
    lines.collect()
}

#[test]
fn every_way_to_write_a_service_is_the_same_container() {
    for lines in [
        "environment:\n  VIRTUAL_HOST: a.example.com\n  VIRTUAL_PORT: 81",
        "environment:\n  - VIRTUAL_HOST=a.example.com\n  - VIRTUAL_PORT=81",
        "environment:\n  VIRTUAL_HOST: a.$DOMAIN\n  VIRTUAL_PORT: ${PORT:-81}",
        "env_file: web.env",
        "env_file: [web.env]",
        "env_file:\n  - path: web.env\n  - path: other.env\n    required: false",
        "env_file: web.env\nenvironment:\n  PASSWORD: other",
        "labels:\n  baton.host: a.example.com\n  baton.port: 81",
        "labels:\n  - baton.host=a.example.com\n  - baton.port=81",
        "environment: [VIRTUAL_HOST=a.example.com]\nexpose: [81]",
        "environment: [VIRTUAL_HOST=a.example.com]\nexpose: ['81/tcp']",
        "environment: [VIRTUAL_HOST=a.example.com]\nports: ['8080:81']",
        "environment: [VIRTUAL_HOST=a.example.com]\nports: ['[::1]:8080:81/tcp']",
        "environment: [VIRTUAL_HOST=a.example.com]\nports: [{target: 81, published: 8080}]",
        "environment: [VIRTUAL_HOST=a.example.com, VIRTUAL_PORT=81]\ndeploy: {replicas: 3}",
        "environment: [VIRTUAL_HOST=a.example.com, VIRTUAL_PORT=81]\nnetwork_mode: host",
        "environment: [VIRTUAL_HOST=a.example.com, VIRTUAL_PORT=81]\nnetworks: {front: null}\n\
         labels: {baton.network: front}",
    ] {
        let report = report(&web(lines));
        assert_eq!(problems(&report), [""; 0], "{lines}");
        assert_eq!(routes_of(&report), ["a.example.com/ http:81 redirect acme"], "{lines}");
        assert_eq!(report.routes[0].container, "shop-web-1", "{lines}");
    }
}

#[test]
fn ports_that_nothing_names_are_noted() {
    for (lines, port, is_noted) in [
        ("expose: [3000]", 3000, true),
        ("expose: [3000, 3001]", 80, true),
        ("ports: ['3000-3001:3000-3001']", 80, true),
        ("expose: [53, 53/udp]", 80, true),
        ("labels: [baton.port=80]", 80, false),
        ("labels: [baton.port=1]", 1, false),
        ("", 80, true),
    ] {
        let report = report(&web(&format!("environment: [VIRTUAL_HOST=a.test]\n{lines}")));
        assert_eq!(report.routes[0].port, Some(port), "{lines}");
        let text = format!("shop-web-1: nothing names its port: {port}, unless");
        let found = notes(&report).iter().any(|note| note.starts_with(&text));
        assert_eq!(found, is_noted, "{lines}");
        assert!(report.complete, "{lines}");
    }
}

#[test]
fn what_a_service_would_lose_is_told_as_the_running_baton_does() {
    for (lines, problem) in [
        (
            "environment: [VIRTUAL_HOST=a.test, VIRTUAL_PORT=x]",
            "VIRTUAL_PORT=x is not a port: expected 1 to 65535",
        ),
        (
            "environment: [VIRTUAL_HOST=a.test, VIRTUAL_PROTO=fastcgi]",
            "VIRTUAL_PROTO=fastcgi is not supported: baton speaks http, https, grpc and grpcs",
        ),
        ("environment: [VIRTUAL_HOST=a.test, SSL_POLICY=AWS]", "SSL_POLICY= is not supported yet"),
        ("labels: [baton.hots=a.test]", "baton.hots= is not known; the nearest is `baton.host`"),
        (
            "environment: [VIRTUAL_HOTS=a.test]",
            "VIRTUAL_HOTS= is not known; the nearest is `VIRTUAL_HOST`",
        ),
        ("environment: [VIRTUAL_HOST=a.test, VIRTUAL_TEAPOT=1]", "VIRTUAL_TEAPOT= is not known"),
        (
            "environment: [VIRTUAL_HOST=a.test, ACMESH_DNS_API_CONFIG=secret]",
            "ACMESH_DNS_API_CONFIG= is not supported: [acme.dns] of the configuration runs a program, \
          or sends updates",
        ),
        ("environment: {VIRTUAL_HOST: ','}", "host= VIRTUAL_HOST `,` has no usable host"),
        (
            "environment: [VIRTUAL_HOST=a.test, LETSENCRYPT_HOST=b.test]",
            "LETSENCRYPT_HOST=b.test is not routed: no certificate is ordered for it",
        ),
        (
            "environment: [VIRTUAL_HOST=*.example.com, ACME_HOST=*.example.com]",
            "ACME_HOST=*.example.com a wildcard is ordered by dns-01 alone: see [acme.dns]",
        ),
        (
            "environment: [VIRTUAL_HOST=a.test]\nnetwork_mode: service:vpn",
            "network_mode=service:vpn leaves it without an address of its own: nothing can be sent to it",
        ),
        (
            "environment: [VIRTUAL_HOST=a.test]\nlabels: [baton.auth.forward=http://auth:80/]",
            "baton.auth.forward=auth is not the name of a running container: nobody gets in",
        ),
        (
            "environment: ['VIRTUAL_HOST=a.$NOBODY']",
            "VIRTUAL_HOST=${NOBODY} is set neither in the environment nor in .env: NOBODY is empty",
        ),
        (
            "env_file: gap.env",
            "VIRTUAL_HOST=${NOBODY} is set neither in the environment nor in .env: NOBODY is empty",
        ),
        ("env_file: none.env", "env_file=none.env cannot be read: entity not found"),
        ("environment: 7", "environment= is neither a map nor a list"),
        (
            "extends: {service: base}",
            "extends= is not followed: `docker compose config | baton check --compose -` checks the \
          whole",
        ),
    ] {
        let report = report(&web(lines));
        let want = format!("shop-web-1 {problem}");
        let found = problems(&report);
        assert!(found.iter().any(|one| one.starts_with(&want)), "{lines}: {found:?}");
        assert!(!report.complete, "{lines}");
    }
}

#[test]
fn what_cannot_be_replaced_is_named_where_it_counts_and_secrets_are_not_shown() {
    let report = report(&web(
        "environment: ['VIRTUAL_HOST=a.test', 'HSTS=$HSTS_VALUE', 'PASSWORD=$SECRET']\n\
         labels: ['baton.auth.basic=a:$2y$05$c4WoMPo3SXsafkva']\nvolumes: ['$DATA:/var']",
    ));
    assert_eq!(
        problems(&report),
        [
            "shop-web-1 HSTS=${HSTS_VALUE} is set neither in the environment nor in .env: \
             HSTS_VALUE is empty",
            "shop-web-1 baton.auth.basic= has a `$` that begins the name of no variable: write `$$` \
             for a `$`",
            "shop-web-1 baton.auth.basic= has a line 1 that has no hash of bcrypt, argon2 or \
             SHA-crypt: make one with `htpasswd -B`",
            "shop-web-1 baton.auth.basic= has no line that can be used: nobody gets in",
        ]
    );
}

#[test]
fn services_that_ask_for_nothing_lose_nothing() {
    let report =
        report("services:\n  db:\n    image: postgres\n    volumes: ['data:/var']\n  x:\n");
    let reason = "no VIRTUAL_HOST or baton.host".to_owned();
    let unrouted = ["shop-db-1", "shop-x-1"]
        .map(|one| Unrouted { container: one.into(), reason: reason.clone() });
    assert_eq!(report, Report { complete: true, unrouted: unrouted.into(), ..Report::default() });
}

#[test]
fn the_stack_that_baton_replaces_is_named_with_what_becomes_of_it() {
    let report = report(
        "services:
  proxy:
    image: nginxproxy/nginx-proxy:1.7
    ports: ['80:80', '443:443']
    environment: {HTTPS_METHOD: noredirect, HSTS: never, DOCKER_CONTAINER_FILTERS: x=y}
    volumes:
      - certs:/etc/nginx/certs
      - vhost:/etc/nginx/vhost.d
      - ./proxy.conf:/etc/nginx/proxy.conf:ro
      - /var/run/docker.sock:/tmp/docker.sock:ro
  companion:
    image: nginxproxy/acme-companion
  web:
    image: web
    environment: {VIRTUAL_HOST: a.example.com, VIRTUAL_PORT: 80, LETSENCRYPT_HOST: a.example.com}
",
    );
    assert_eq!(routes_of(&report), ["a.example.com/ http:80 noredirect acme"]);
    let replaced: Vec<&str> = report.replaced.iter().map(|one| one.service.as_str()).collect();
    assert_eq!(replaced, ["companion", "proxy"]);
    assert_eq!(
        problems(&report),
        [
            "shop-proxy-1 DOCKER_CONTAINER_FILTERS=x=y is not supported: every container that names a host \
             is routed",
            "shop-proxy-1 HSTS=never is neither `off` nor a value with `max-age=SECONDS`",
            "shop-proxy-1 volumes=/etc/nginx/proxy.conf nginx snippets cannot work: header fields are set by \
             baton.request_headers.* and baton.headers.* (docs/labels.md), waits by [timeouts]",
        ]
    );
    assert_eq!(
        notes(&report).iter().filter(|note| !note.contains("vhost.d")).collect::<Vec<_>>(),
        [
            "certificates: nothing is ordered before acme.agree_tos is true in the configuration; \
             hosts are served over plain HTTP until then",
            "shop-proxy-1: /etc/nginx/certs: read in place: name the volume's directory in \
             tls.certificate_dirs",
            "shop-proxy-1: HTTPS_METHOD: same, in baton's own environment",
        ]
    );
}

#[test]
fn tables_say_the_same() {
    let report = report(
        "services:\n  web:\n    environment: [VIRTUAL_HOST=a.test, VIRTUAL_PATH=/api, VIRTUAL_DEST=/, \
         VIRTUAL_PORT=81]\n    labels: [baton.prot=x, baton.max_body=1M]\n  db: {}\n",
    );
    assert_eq!(
        tables(&report),
        "\
HOST    PATH       CONTAINER   PORT  PROTOCOL  HTTPS     CERTIFICATE  OPTIONS
a.test  /api -> /  shop-web-1  81    http      redirect  local        compress,max_body

NOT ROUTED  BECAUSE
shop-db-1   no VIRTUAL_HOST or baton.host

CONTAINER   SETTING      PROBLEM
shop-web-1  baton.prot=  is not known; the nearest is `baton.port`
"
    );
}

#[test]
fn a_healthcheck_counts_unless_it_is_off() {
    for (lines, want) in [
        ("healthcheck: {test: [CMD, 'true']}", Health::Healthy),
        ("healthcheck: {interval: 5s}", Health::Healthy),
        ("healthcheck: {disable: true}", Health::None),
        ("healthcheck: {test: [NONE]}", Health::None),
        ("healthcheck: {test: NONE}", Health::None),
        ("", Health::None),
    ] {
        assert_eq!(services(&web(lines))[0].container.health, want, "{lines}");
    }
}

#[test]
fn what_is_assumed_is_noted_and_names_that_are_there_twice_are_not_merged() {
    let text = web("profiles: [dev, prod]");
    assert_eq!(
        notes(&report(&text)),
        ["shop-web-1: checked as if its profile dev, prod were active"]
    );
    let both: Vec<Service> = services(&text).into_iter().chain(services(&text)).collect();
    let report = finished(judge(&both, &[], &Acme::default()));
    assert_eq!(
        problems(&report),
        [
            "shop-web-1 name= is there twice: files are not merged here; `docker compose -f ONE -f OTHER \
          config | baton check --compose -` checks the whole"
        ]
    );
}
