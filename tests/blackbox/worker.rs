//! A worker that dies.

use std::time::{Duration, Instant};

use baton_load::{Kind, Load};
use baton_tests::{exchange, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{APP, PLAIN, in_front_of_one, more_requests, nobody_felt_anything};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_with_9_is_respawned_and_serves_within_200_ms() {
    let (baton, _upstream) = in_front_of_one().await;
    let old = baton.worker_pid();
    let began = Instant::now();
    kill(Pid::from_raw(old), Signal::SIGKILL).expect("it is running");
    // The controller holds the listeners too: this connection waits in the queue.
    let request = format!("GET / HTTP/1.1\r\nHost: {PLAIN}\r\nConnection: close\r\n\r\n");
    let answer = until("an answer after the kill", Duration::from_secs(5), async || {
        let answer = exchange(baton.http_address(), &request).await;
        answer.starts_with("HTTP/1.1 200 ").then_some(answer)
    })
    .await;
    let took = began.elapsed();
    assert!(took < Duration::from_millis(200), "{took:?}: {answer}");
    let new = until("a new worker", Duration::from_secs(5), async || {
        let status = baton.status_json();
        let pid = status["generations"][0]["pid"].as_i64();
        pid.filter(|pid| *pid != i64::from(old))
    })
    .await;
    assert_ne!(new, i64::from(old));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_requests_in_flight_feel_that_a_worker_was_killed() {
    let (baton, _upstream) = in_front_of_one().await;
    let clients = 20;
    let load = Load::new(baton.https(APP)).clients(Kind::Http1Fresh, clients).start();
    more_requests(&load, 500).await;
    kill(Pid::from_raw(baton.worker_pid()), Signal::SIGKILL).expect("it is running");
    more_requests(&load, 500).await;
    let report = load.stop().await;
    // Each client has one request in flight at most, and none is ever refused.
    assert!(report.failed() <= clients as u64, "{report}");
    let causes = &report.kinds[&Kind::Http1Fresh].failures;
    assert!(!causes.contains_key(&baton_load::Cause::ConnectRefused), "{report}");

    let after = Load::new(baton.https(APP)).clients(Kind::Http2 { streams: 10 }, 2).requests(50);
    nobody_felt_anything(&after.start().finish().await);
}

#[tokio::test]
async fn a_worker_that_dies_is_in_the_status_and_in_the_log() {
    let (baton, _upstream) = in_front_of_one().await;
    let old = baton.worker_pid();
    kill(Pid::from_raw(old), Signal::SIGKILL).expect("it is running");
    until("a death in the status", Duration::from_secs(5), async || {
        (baton.status_json()["generations"][0]["deaths"] == 1).then_some(())
    })
    .await;
    baton.wait_said("worker").await;
}
