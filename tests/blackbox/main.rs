//! Black-box tests of the built baton. Each is named by what it claims.

mod access_log;
mod acme;
mod acme_choices;
mod acme_faults;
mod acme_orders;
mod acme_renewal;
mod bad_days;
mod balancing;
mod black_holes;
mod bodies;
mod canary;
mod client_auth;
mod clients;
mod clock;
mod command_line;
mod compose;
mod confusion;
mod container_certificates;
mod defaults;
mod dns01;
mod docker_changes;
mod docker_crowd;
mod docker_garbage;
mod docker_routing;
mod documents;
mod error_pages;
mod framing;
mod handoff;
mod handshakes;
mod headers;
mod health;
mod holds;
mod hostile_clients;
mod hostile_upstreams;
mod hsts;
mod http1;
mod http2;
mod http2_attacks;
mod http2_conformance;
mod https_method;
mod hung_worker;
mod image;
mod interventions;
mod metrics;
mod orphans;
mod overload;
mod passthrough;
mod preflight;
mod priorities;
mod proxy_protocol;
mod random_deaths;
mod ready_made;
mod reload;
mod remembered;
mod route_options;
mod routing;
mod sandbox;
mod secrets;
mod service;
mod siege;
mod stage;
mod static_files;
mod status_page;
mod systemd_unit;
mod tls;
mod towards_upstreams;
mod upstreams;
mod websocket;
mod worker;

use std::time::Duration;

use baton_load::{Kind, Load, Report, Target, Upstream};
use baton_tests::{Baton, Config};

/// HTTPS by the local CA, and a redirect over plain HTTP.
const APP: &str = "app.test";
/// Plain HTTP alone.
const PLAIN: &str = "plain.test";

/// [`APP`] and [`PLAIN`], routed to this one upstream.
fn routed_to(upstream: &impl ToString) -> Config {
    let upstreams = [upstream.to_string()];
    Config::new().route(APP, &upstreams).route_with(PLAIN, &upstreams, "tls = \"off\"")
}

/// A baton in front of one upstream, which calls itself `one`.
async fn in_front_of_one() -> (Baton, Upstream) {
    let upstream = Upstream::start("one").await.expect("upstream");
    let baton = Baton::start(routed_to(&upstream.address())).await;
    (baton, upstream)
}

/// Clients of every kind, a few of each.
fn every_kind(target: Target) -> Load {
    http_kinds(target).clients(Kind::WebSocket, 4)
}

/// Clients of every kind but the one whose tunnels end with their upstream.
fn http_kinds(target: Target) -> Load {
    Load::new(target)
        .clients(Kind::Http1KeepAlive, 8)
        .clients(Kind::Http1Fresh, 4)
        .clients(Kind::Http2 { streams: 4 }, 3)
}

/// Waits until so many more requests were answered.
async fn more_requests(load: &baton_load::Running, count: u64) {
    let wanted = load.snapshot().requests() + count;
    baton_tests::until("requests under load", Duration::from_secs(60), async || {
        (load.snapshot().requests() >= wanted).then_some(())
    })
    .await;
}

fn nobody_felt_anything(report: &Report) {
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.kinds.values().all(|kind| kind.requests > 0), "{report}");
}
