//! Requests for a route that nobody answers for a moment wait for the next container.

use std::time::Duration;

use baton_load::{Kind, Load};
use baton_tests::{Baton, Config, Container, Docker, exchange, until};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::stage::{LIMIT, get};
use crate::{http_kinds, more_requests, nobody_felt_anything};

async fn holding(docker: &Docker, hold: &str) -> Baton {
    Baton::start(Config::new().docker(docker.endpoint()).section(&format!("[hold]\n{hold}"))).await
}

/// A container that was up and has been stopped: its requests wait now.
async fn stopped(docker: &Docker, baton: &Baton, name: &str, host: &str) -> Container {
    let environment = [("VIRTUAL_HOST", host), ("HTTPS_METHOD", "noredirect")];
    let container = docker.run(name, &environment, &[]);
    baton.wait_up(host, 1).await;
    container.stop().await;
    nobody_up(baton, host).await;
    container
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_container_restarted_20_times_is_felt_by_nobody() {
    let docker = Docker::connect();
    let baton = Baton::start(Config::new().docker(docker.endpoint())).await;
    let host = "only.test";
    let only = docker.run_options("only", &[("VIRTUAL_HOST", host)], &[], &["--stop-delay", "100"]);
    baton.wait_up(host, 1).await;
    let load = http_kinds(baton.https(host)).start();
    for _ in 0..20 {
        only.on_it(&["restart"]).await;
        more_requests(&load, 50).await;
    }
    nobody_felt_anything(&load.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_while_the_only_container_stops_is_felt_by_nobody() {
    let docker = Docker::connect();
    let baton = Baton::start(Config::new().docker(docker.endpoint())).await;
    let host = "stops.test";
    let delay = ["--stop-delay", "1500"];
    let only = docker.run_options("stops", &[("VIRTUAL_HOST", host)], &[], &delay);
    baton.wait_up(host, 1).await;
    let load = http_kinds(baton.https(host)).start();
    more_requests(&load, 50).await;
    let upgrade = async {
        nobody_up(&baton, host).await;
        upgraded(&baton);
    };
    tokio::join!(only.on_it(&["restart"]), upgrade);
    more_requests(&load, 50).await;
    nobody_felt_anything(&load.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_while_the_only_container_is_replaced_is_felt_by_nobody() {
    let docker = Docker::connect();
    let baton = Baton::start(Config::new().docker(docker.endpoint())).await;
    let host = "replaces.test";
    let delay = ["--stop-delay", "100"];
    let old = docker.run_options("replaces-old", &[("VIRTUAL_HOST", host)], &[], &delay);
    baton.wait_up(host, 1).await;
    let load = http_kinds(baton.https(host)).start();
    more_requests(&load, 50).await;
    old.stop().await;
    old.remove().await;
    nobody_up(&baton, host).await;
    upgraded(&baton);
    let _new = docker.run("replaces-new", &[("VIRTUAL_HOST", host)], &[]);
    more_requests(&load, 50).await;
    nobody_felt_anything(&load.stop().await);
}

async fn nobody_up(baton: &Baton, host: &str) {
    until("nobody in rotation", LIMIT, async || (baton.upstreams_up(host) == 0).then_some(()))
        .await;
}

fn upgraded(baton: &Baton) {
    let upgrade = baton.command(&["upgrade"]);
    assert!(upgrade.status.success(), "{}", String::from_utf8_lossy(&upgrade.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_handshake_waits_for_the_replacement() {
    let docker = Docker::connect();
    let baton = holding(&docker, "limit = \"30s\"").await;
    let host = "replaced.test";
    let old = stopped(&docker, &baton, "old", host).await;
    old.remove().await;
    let sockets = Load::new(baton.https(host)).clients(Kind::WebSocket, 3).requests(10).start();
    let _new = docker.run("new", &[("VIRTUAL_HOST", host)], &[]);
    let report = sockets.finish().await;
    nobody_felt_anything(&report);
    assert_eq!(report.requests(), 30, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_limit_the_answer_is_503_with_retry_after() {
    let docker = Docker::connect();
    let baton = holding(&docker, "limit = \"300ms\"").await;
    let host = "late.test";
    let _stopped = stopped(&docker, &baton, "late", host).await;
    let begun = std::time::Instant::now();
    let answer = exchange(baton.http_address(), get(host)).await;
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.to_lowercase().contains("\r\nretry-after: 5\r\n"), "{answer}");
    let routes = baton.routes_json().to_string();
    assert!(routes.contains("\"gone\""), "{routes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_wait_than_may_and_who_gives_up_makes_room() {
    let docker = Docker::connect();
    let baton = holding(&docker, "limit = \"60s\"\nrequests = 1").await;
    let host = "full.test";
    let container = stopped(&docker, &baton, "full", host).await;
    let mut first = TcpStream::connect(baton.http_address()).await.expect("baton listens");
    first.write_all(get(host).as_bytes()).await.expect("baton reads");
    held(&baton, 1).await;
    let refused = exchange(baton.http_address(), get(host)).await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    // A reset: one that closed its sending side alone could still want the answer.
    SockRef::from(&first).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(first);
    held(&baton, 0).await;
    let waits = tokio::spawn(exchange(baton.http_address(), get(host)));
    held(&baton, 1).await;
    container.start().await;
    let answer = waits.await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let counters = &baton.status_json()["generations"][0]["counters"];
    assert_eq!(counters["holds"], 2, "each that has waited counts once: {counters}");
}

/// Waits until so many requests wait.
pub async fn held(baton: &Baton, count: u64) {
    until("requests that wait", LIMIT, async || {
        let status = baton.status_json();
        (status["generations"][0]["counters"]["requests_held"] == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switched_off_nobody_waits_and_the_host_is_unknown_at_once() {
    let docker = Docker::connect();
    let baton = holding(&docker, "limit = \"off\"").await;
    let host = "off.test";
    let _stopped = stopped(&docker, &baton, "off", host).await;
    let known = || baton.routes_json().to_string().contains(host);
    until("an unknown host", LIMIT, async || (!known()).then_some(())).await;
    let answer = exchange(baton.http_address(), get(host)).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}
