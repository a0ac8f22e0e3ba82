//! The listener of metrics, and counters that do not fall whatever becomes of those who count.

use std::net::{SocketAddr, TcpListener};

use baton_load::{Kind, Load, Running, Upstream};
use baton_tests::{Baton, Config, Docker, Scrape, exchange, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::oneshot;

use crate::stage::{LIMIT, Mode, Stage, in_modes};
use crate::{APP, more_requests, nobody_felt_anything, routed_to};

const METRICS: &str = "[metrics]\nlisten = \"127.0.0.1:0\"";
const HOST: &str = "host=\"app.test\"";

in_modes! {
    both:
    counters_do_not_fall_across_handoffs_upgrades_and_deaths,
    workers_that_are_taken_over_do_not_count_twice;
    ebpf:
}

async fn counters_do_not_fall_across_handoffs_upgrades_and_deaths(mode: Mode) {
    let stage = Stage::start_with(mode, |config| config.section(METRICS)).await;
    let baton = &stage.baton;
    let first = baton.scrape().await;
    assert_eq!(first.sum("baton_requests_total", &[]), 0.0, "{first:?}");
    assert_eq!(first.sum("baton_generations", &["state=\"active\""]), 1.0);

    let load = load(baton);
    more_requests(&load, 100).await;
    stage.hand_over(&stage.with_streams(50).section(METRICS));
    let mut sent = finish(load).await;
    let handed_over = counted(baton, sent).await;
    handed_over.assert_nothing_fell_since(&first);
    assert_eq!(handed_over.sum("baton_handoffs_total", &["kind=\"reload\""]), 1.0);
    assert_eq!(handed_over.sum("baton_handoff_duration_seconds_count", &[]), 1.0);

    let load = self::load(baton);
    more_requests(&load, 100).await;
    let listener = baton.metrics_address();
    let (stop, stopped) = oneshot::channel();
    let scrapes = tokio::spawn(scrape_until(stopped, listener));
    stage.done(&["upgrade"], 3);
    drop(stop);
    assert!(scrapes.await.expect("every scrape is answered") > 1);
    sent += finish(load).await;
    stage.draining_at_most(0).await;
    let upgraded = counted(baton, sent).await;
    upgraded.assert_nothing_fell_since(&handed_over);
    assert_eq!(upgraded.sum("baton_handoffs_total", &["outcome=\"done\""]), 2.0);
    assert_eq!(baton.metrics_address(), listener);

    // Nobody is asking: what it had counted was told with the last scrape.
    let killed = baton.worker_pid();
    kill(Pid::from_raw(killed), Signal::SIGKILL).expect("it is running");
    until("another worker", LIMIT, async || {
        let status = baton.status_json();
        let mut pids = crate::stage::find(&status, "active").map(|active| active["pid"].as_i64());
        pids.any(|pid| pid.is_some_and(|pid| pid != i64::from(killed))).then_some(())
    })
    .await;
    sent += finish(self::load(baton)).await;
    let died = counted(baton, sent).await;
    died.assert_nothing_fell_since(&upgraded);
    assert_eq!(died.sum("baton_worker_deaths_total", &[]), 1.0);
    kinds_add_up(&died, sent);
    if mode == Mode::Ebpf {
        let selected = died.sum("baton_connections_selected_total", &[]);
        assert!(selected >= died.sum("baton_connections_accepted_total", &[]) / 2.0, "{died:?}");
    }
}

/// The other labels and metrics tell of the same requests.
fn kinds_add_up(scrape: &Scrape, sent: u64) {
    let sum = |name, labels: &[&str]| scrape.sum(name, labels) as u64;
    let by_method = |method| sum("baton_requests_total", &[HOST, "status=\"2xx\"", method]);
    let (read, write) = (by_method("method=\"read\""), by_method("method=\"write\""));
    assert!(read > write && write > 0 && read + write == sent, "{read} {write}");
    let http1 = sum("baton_requests_total", &[HOST, "protocol=\"http1\""]);
    let http2 = sum("baton_requests_total", &[HOST, "protocol=\"http2\""]);
    assert!(http1 > 0 && http2 > 0 && http1 + http2 == sent, "{http1} {http2}");
    assert_eq!(sum("baton_request_duration_seconds_count", &[HOST]), sent);
    assert_eq!(sum("baton_upstream_head_seconds_count", &[HOST]), sent);
    let shaken = sum("baton_tls_handshakes_total", &["version=\"1.3\""]);
    assert!(shaken > 0 && shaken <= sum("baton_connections_accepted_total", &[]), "{shaken}");
    assert_eq!(sum("baton_requests_active", &[]), 0);
    assert!(sum("baton_upstream_connects_total", &[]) > 0);
    assert!(sum("baton_certificate_expiry_timestamp_seconds", &["name=\"app.test\""]) > 0);
    assert_eq!(sum("baton_upstreams", &[HOST, "state=\"up\""]), 1);
}

async fn workers_that_are_taken_over_do_not_count_twice(mode: Mode) {
    let mut stage = Stage::start_with(mode, |config| config.section(METRICS)).await;
    let before = finish(load(&stage.baton)).await;
    counted(&stage.baton, before).await;
    stage.baton.kill_controller().await;
    stage.baton.start_controller();
    until("the takeover", LIMIT, async || {
        let status = stage.baton.try_status_json()?;
        (status["last_handoffs"][0]["outcome"] == "done").then_some(())
    })
    .await;
    stage.draining_at_most(0).await;
    let sent = finish(load(&stage.baton)).await;
    // What its predecessor had told is not told again.
    counted(&stage.baton, sent).await;
}

/// Scrapes all the time, none of which may fail or tell less than the one before. How many there were.
async fn scrape_until(mut stop: oneshot::Receiver<()>, address: SocketAddr) -> usize {
    let mut last = Scrape::of(address).await;
    let mut count = 1;
    while stop.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
        let next = Scrape::of(address).await;
        next.assert_nothing_fell_since(&last);
        last = next;
        count += 1;
    }
    count
}

fn load(baton: &Baton) -> Running {
    Load::new(baton.https(APP))
        .clients(Kind::Http1KeepAlive, 4)
        .clients(Kind::Http1Fresh, 2)
        .clients(Kind::Http2 { streams: 4 }, 2)
        .requests(40)
        .start()
}

/// How many requests there were.
async fn finish(load: Running) -> u64 {
    let report = load.finish().await;
    nobody_felt_anything(&report);
    report.requests()
}

/// The scrape that has counted exactly so many requests for [`APP`]. A client has its answer a moment
/// before it is counted.
async fn counted(baton: &Baton, requests: u64) -> Scrape {
    let what = format!("{requests} requests counted");
    let scrape = until(&what, LIMIT, async || {
        let scrape = baton.scrape().await;
        (scrape.sum("baton_requests_total", &[HOST]) as u64 >= requests).then_some(scrape)
    })
    .await;
    assert_eq!(scrape.sum("baton_requests_total", &[HOST]) as u64, requests);
    scrape
}

#[tokio::test]
async fn hosts_that_nobody_routes_are_one() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let baton = Baton::start(routed_to(&upstream.address()).section(METRICS)).await;
    for host in ["a.test", "b.test", "c.test"] {
        let answer = get(baton.http_address(), "/", host, "").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    let answer = exchange(baton.http_address(), "nonsense\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let unknown = ["host=\"_unknown\""];
    let scrape = until("four answers", LIMIT, async || {
        let scrape = baton.scrape().await;
        (scrape.sum("baton_requests_total", &unknown) == 4.0).then_some(scrape)
    })
    .await;
    assert_eq!(scrape.sum("baton_requests_total", &[]), 4.0);
    assert_eq!(scrape.sum("baton_requests_total", &["status=\"4xx\""]), 1.0);
}

#[tokio::test]
async fn the_listener_answers_prometheus_and_watchers_and_no_name_that_leads_to_it() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let config = |more: &str| {
        let metrics = format!("[metrics]\nhosts = [\"metrics.test\"]\n{more}");
        routed_to(&upstream.address()).section(&metrics)
    };
    let baton = Baton::start(config("listen = \"127.0.0.1:0\"")).await;
    let first = baton.metrics_address();
    for (path, host, accept, status, want) in [
        ("/metrics", "127.0.0.1", "", 200, "text/plain; version=0.0.4"),
        ("/metrics", "metrics.test:9180", "application/openmetrics-text", 200, "\n# EOF\n"),
        ("/metrics", "rebound.test", "", 421, "metrics.hosts"),
        ("/healthz", "localhost", "", 200, "ok"),
        ("/readyz", "[::1]:80", "", 200, "ok"),
        ("/healthz", "rebound.test", "", 421, "metrics.hosts"),
        ("/", "localhost", "", 200, "<title>baton</title>"),
        ("/other", "localhost", "", 404, "/healthz"),
    ] {
        let answer = get(first, path, host, accept).await;
        let head = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&head) && answer.contains(want), "{path} {host}: {answer}");
        if path == "/metrics" && status == 200 {
            Scrape::read(answer.split_once("\r\n\r\n").expect("a body").1);
        }
    }

    // The same address: the same socket.
    baton.reconfigure(&config("listen = \"127.0.0.1:0\""));
    assert!(get(first, "/healthz", "localhost", "").await.starts_with("HTTP/1.1 200 "));
    // One that cannot be had: nothing has changed.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let said = baton.reconfigure(&config(&format!("listen = \"{address}\"")));
    let error = said["error"].as_str().expect("refused");
    assert!(error.contains(&format!("metrics.listen {address}: ")), "{said}");
    assert!(get(first, "/healthz", "localhost", "").await.starts_with("HTTP/1.1 200 "));
    // Another one, and none.
    baton.reconfigure(&config("listen = \"127.0.0.2:0\""));
    let second = baton.metrics_address();
    assert!(get(second, "/healthz", "localhost", "").await.starts_with("HTTP/1.1 200 "));
    assert!(tokio::net::TcpStream::connect(first).await.is_err());
    baton.reconfigure(&config(""));
    assert!(tokio::net::TcpStream::connect(second).await.is_err());
}

#[tokio::test]
async fn it_is_ready_once_docker_has_listed() {
    let config = Config::new().docker("unix:///nonexistent/docker.sock").section(METRICS);
    let mut baton = Baton::start(config).await;
    let answer = get(baton.metrics_address(), "/readyz", "localhost", "").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Docker"), "{answer}");
    let answer = get(baton.metrics_address(), "/healthz", "localhost", "").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(baton.stop_for_now().await.success());
    let docker = Docker::connect();
    baton.start_again(&Config::new().docker(docker.endpoint()).section(METRICS)).await;
    until("a list of containers", LIMIT, async || {
        let answer = get(baton.metrics_address(), "/readyz", "localhost", "").await;
        answer.starts_with("HTTP/1.1 200 ").then_some(())
    })
    .await;
    assert_eq!(baton.scrape().await.sum("baton_docker_lists_total", &[]), 1.0);
}

#[tokio::test]
async fn an_address_that_is_taken_keeps_nobody_from_being_served() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let metrics = format!("[metrics]\nlisten = \"{address}\"");
    let upstream = Upstream::start("one").await.expect("upstream");
    let baton = Baton::start(routed_to(&upstream.address()).section(&metrics)).await;
    baton.wait_said(&format!("metrics.listen {address}: ")).await;
    assert_eq!(baton.curl("https://app.test/").run().await.status, 200);
}

async fn get(address: SocketAddr, path: &str, host: &str, accept: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n");
    exchange(address, format!("{head}Connection: close\r\n\r\n")).await
}
