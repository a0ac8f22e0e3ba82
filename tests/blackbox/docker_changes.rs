//! Containers that come, go and die under load, and nobody feels it.

use std::time::Duration;

use baton_tests::{Baton, Config, Docker, Dockerd, until};
use nix::unistd::Uid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{http_kinds, more_requests, nobody_felt_anything};

const LIMIT: Duration = Duration::from_secs(30);

async fn watching(docker: &Docker) -> Baton {
    Baton::start(Config::new().docker(docker.endpoint())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_added_and_removed_20_times_is_felt_by_nobody() {
    let docker = Docker::connect();
    let baton = watching(&docker).await;
    let host = "often.test";
    let _stays = docker.run("stays", &[("VIRTUAL_HOST", host)], &[]);
    baton.wait_up(host, 1).await;
    let load = http_kinds(baton.https(host)).start();
    for _ in 0..20 {
        let again = docker.clone();
        let run = move || {
            again.run_options("comes", &[("VIRTUAL_HOST", host)], &[], &["--stop-delay", "200"])
        };
        let comes = tokio::task::spawn_blocking(run).await.expect("docker was run");
        baton.wait_up(host, 2).await;
        more_requests(&load, 50).await;
        comes.stop().await;
        baton.wait_up(host, 1).await;
        tokio::task::spawn_blocking(move || drop(comes)).await.expect("docker was run");
    }
    let report = load.stop().await;
    nobody_felt_anything(&report);
    assert!(report.answered_by("comes") > 0, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blue_gives_way_to_a_healthy_green_and_nobody_feels_it() {
    let docker = Docker::connect();
    let baton = watching(&docker).await;
    let host = "colour.test";
    let environment = [("VIRTUAL_HOST", host)];
    let blue = docker.run_checked("blue", &environment, &["--stop-delay", "200"]);
    baton.wait_up(host, 1).await;
    let load = http_kinds(baton.https(host)).start();
    more_requests(&load, 200).await;
    let green = {
        let docker = docker.clone();
        let run = move || docker.run_checked("green", &environment, &["--healthy-after", "1000"]);
        tokio::task::spawn_blocking(run).await.expect("docker was run")
    };
    baton.wait_up(host, 2).await;
    blue.stop().await;
    baton.wait_up(host, 1).await;
    more_requests(&load, 200).await;
    let report = load.stop().await;
    nobody_felt_anything(&report);
    assert!(report.answered_by("green") > 0, "{report}");
    drop(green);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_killed_with_9_is_not_noticed_in_a_pool_of_two() {
    let docker = Docker::connect();
    let baton = watching(&docker).await;
    let host = "killed.test";
    let _stays = docker.run("stays", &[("VIRTUAL_HOST", host)], &[]);
    let dies = docker.run("dies", &[("VIRTUAL_HOST", host)], &[]);
    baton.wait_up(host, 2).await;
    // What a killed server had begun to do cannot be repeated if it is a POST.
    let load = http_kinds(baton.https(host)).post_one_in(0).start();
    more_requests(&load, 500).await;
    dies.kill().await;
    baton.wait_up(host, 1).await;
    more_requests(&load, 500).await;
    let report = load.stop().await;
    nobody_felt_anything(&report);
    assert!(report.answered_by("dies") > 0, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_progress_finishes_while_its_container_stops() {
    let docker = Docker::connect();
    let baton = watching(&docker).await;
    let host = "slow.test";
    let stops = docker.run("stops", &[("VIRTUAL_HOST", host)], &[]);
    baton.wait_up(host, 1).await;
    let mut stream = baton.https(host).connect("http/1.1").await.expect("connection");
    let request =
        format!("GET /sse?n=4&ms=500 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("baton reads");
    let mut seen = String::new();
    while !seen.contains("data: event 0\n") {
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).await.expect("open");
        assert!(length > 0, "{seen}");
        seen += &String::from_utf8_lossy(&buffer[..length]);
    }
    stops.stop().await;
    let end = stream.read_to_string(&mut seen).await;
    assert!(end.is_ok(), "{end:?} after {seen}");
    assert!(seen.contains("data: event 3\n"), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dockerd_may_restart_and_changes_made_meanwhile_are_found() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: a Docker daemon of its own needs root");
        return;
    }
    let mut daemon = tokio::task::spawn_blocking(Dockerd::start).await.expect("dockerd starts");
    let docker = Docker::at(&daemon.endpoint());
    let baton = watching(&docker).await;
    let host = "restart.test";
    let _stays = docker.run("stays", &[("VIRTUAL_HOST", host)], &[]);
    let dies = docker.run("dies", &[("VIRTUAL_HOST", host)], &[]);
    baton.wait_up(host, 2).await;
    let dying = dies.pid();
    let load = http_kinds(baton.https(host)).post_one_in(0).start();
    more_requests(&load, 200).await;

    let mut daemon = tokio::task::spawn_blocking(move || {
        daemon.stop();
        daemon
    })
    .await
    .expect("dockerd stops");
    until("the loss in the status", LIMIT, async || {
        (baton.status_json()["docker"]["connected"] == false).then_some(())
    })
    .await;
    // Its routes stay; one of the two dies while nobody tells baton.
    more_requests(&load, 200).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(dying), nix::sys::signal::Signal::SIGKILL)
        .expect("it is running");
    more_requests(&load, 200).await;
    let daemon = tokio::task::spawn_blocking(move || {
        daemon.launch();
        daemon
    })
    .await
    .expect("dockerd starts");
    baton.wait_up(host, 1).await;
    let _new = docker.run("new", &[("VIRTUAL_HOST", host)], &[]);
    baton.wait_up(host, 2).await;
    more_requests(&load, 200).await;
    let report = load.stop().await;
    nobody_felt_anything(&report);
    assert!(report.answered_by("new") > 0, "{report}");
    drop((dies, _stays, _new));
    drop(daemon);
}
