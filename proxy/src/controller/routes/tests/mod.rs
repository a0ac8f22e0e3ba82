//! The contract with containers, as tables. Each container is written as a user would write it.

mod claims;
mod orders;
mod pools;
mod states;

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
        health: None,
        tls,
        hsts: None,
        client_ca: None,
        client_auth: None,
    }
}
