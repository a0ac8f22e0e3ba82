//! Active health checks: who is in rotation, and what becomes of requests meanwhile.

use baton_load::Upstream;
use baton_tests::{Baton, Config, Docker, exchange, until};

use crate::stage::{LIMIT, get};
use crate::{http_kinds, more_requests, nobody_felt_anything};

const HOST: &str = "healthy.test";
const QUICK: &str =
    "health = { path = \"/health\", interval = \"50ms\", rise = 2, fall = 2 }\ntls = \"off\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_fails_its_health_path_is_left_out_until_it_passes() {
    let stays = Upstream::start("stays").await.expect("upstream");
    let fails = Upstream::start("fails").await.expect("upstream");
    let config = Config::new().route_with(HOST, &[stays.address(), fails.address()], QUICK);
    let baton = Baton::start(config).await;
    baton.wait_up(HOST, 2).await;
    let load = http_kinds(baton.http(HOST)).start();
    fails.set_health(false);
    baton.wait_up(HOST, 1).await;
    assert!(baton.routes_json().to_string().contains("\"unready\""));
    let why = baton.command(&["why", HOST]);
    let why = String::from_utf8_lossy(&why.stdout);
    assert!(why.contains("unready: `GET /health` is not answered"), "{why}");
    // Those under way when it left are through.
    more_requests(&load, 100).await;
    let before = load.snapshot().answered_by("fails");
    more_requests(&load, 200).await;
    assert_eq!(load.snapshot().answered_by("fails"), before);
    fails.set_health(true);
    baton.wait_up(HOST, 2).await;
    // The next program knows it, and nobody leaves the rotation for it.
    let upgrade = baton.command(&["upgrade"]);
    assert!(upgrade.status.success(), "{}", String::from_utf8_lossy(&upgrade.stderr));
    let said = baton.stderr();
    assert_eq!(said.matches("now unready").count(), 1, "{said}");
    more_requests(&load, 100).await;
    nobody_felt_anything(&load.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_waits_for_the_first_that_passes() {
    let only = Upstream::start("only").await.expect("upstream");
    let baton = Baton::start(Config::new().route_with(HOST, &[only.address()], QUICK)).await;
    baton.wait_up(HOST, 1).await;
    only.set_health(false);
    baton.wait_up(HOST, 0).await;
    let waits = tokio::spawn(exchange(baton.http_address(), get(HOST)));
    crate::holds::held(&baton, 1).await;
    only.set_health(true);
    let answer = waits.await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_routed_once_it_has_risen_and_a_restart_is_felt_by_nobody() {
    let docker = Docker::connect();
    let baton = Baton::start(Config::new().docker(docker.endpoint())).await;
    let options = [
        "--label",
        "baton.health.path=/health",
        "--label",
        "baton.health.interval=100ms",
        "--label",
        "baton.health.fall=0",
    ];
    let arguments = ["--healthy-after", "700", "--stop-delay", "100"];
    let only = docker.run_options("risen", &[("VIRTUAL_HOST", HOST)], &options, &arguments);
    until("a container that is not ready", LIMIT, async || {
        baton.routes_json().to_string().contains("\"unready\"").then_some(())
    })
    .await;
    let diagnoses = baton.routes_json()["diagnoses"].to_string();
    assert!(diagnoses.contains("baton.health.fall"), "{diagnoses}");
    baton.wait_up(HOST, 1).await;
    let load = http_kinds(baton.https(HOST)).start();
    more_requests(&load, 50).await;
    only.on_it(&["restart"]).await;
    more_requests(&load, 50).await;
    nobody_felt_anything(&load.stop().await);
}
