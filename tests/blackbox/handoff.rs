//! Handoffs: what clients feel of reloads that make a generation, of upgrades and of rollbacks.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use baton_load::{Kind, Load, Protocol, Running, Upstream, download, upload};
use baton_tests::{Baton, Config, baton_binary, exchange, until};
use bytes::Bytes;
use http::{Method, Request};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{APP, PLAIN, in_front_of_one, more_requests, nobody_felt_anything, routed_to};

/// For what baton does by itself.
const LIMIT: Duration = Duration::from_secs(20);
const WEBSOCKETS: usize = 4;
const MB: u64 = 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_reloads_that_make_a_generation_are_felt_by_nobody() {
    let (baton, upstream) = in_front_of_one().await;
    let load = mixed_load(&baton).await;
    for number in 0..10 {
        hand_over(&baton, &with_streams(&upstream, 100 + number));
        more_requests(&load, 300).await;
        // The first one lives on with its tunnels.
        draining_at_most(&baton, 1).await;
    }
    assert_eq!(active(&baton)["id"], 11);
    assert_eq!(draining(&baton), [1]);
    tunnels_lived_on(&load.stop().await);
    draining_at_most(&baton, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_upgrades_and_a_rollback_are_felt_by_nobody() {
    let (baton, _upstream) = in_front_of_one().await;
    let load = mixed_load(&baton).await;
    let copies: Vec<PathBuf> = (1..=3).map(|number| copy(&baton, number)).collect();
    for (generation, binary) in (2..).zip(&copies) {
        done(&baton, &["upgrade", text(binary)], generation);
        assert_eq!(program(&baton), *binary);
        more_requests(&load, 300).await;
        draining_at_most(&baton, 1).await;
    }
    fs::remove_file(&copies[1]).expect("the copy");
    done(&baton, &["rollback"], 5);
    assert_eq!(program(&baton), Path::new(&format!("{} (deleted)", copies[1].display())));
    more_requests(&load, 300).await;
    tunnels_lived_on(&load.stop().await);
    draining_at_most(&baton, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_are_doubled_and_halved_and_nobody_feels_it() {
    let (baton, upstream) = in_front_of_one().await;
    let load = mixed_load(&baton).await;
    for threads in [4, 1, 2, 4, 2, 1] {
        hand_over(&baton, &routed_to(&upstream.address()).top(&format!("threads = {threads}")));
        more_requests(&load, 300).await;
        draining_at_most(&baton, 1).await;
    }
    tunnels_lived_on(&load.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_come_and_go_and_the_one_that_stays_never_fails() {
    let (baton, upstream) = in_front_of_one().await;
    let before = listeners(&baton);
    let load = mixed_load(&baton).await;
    let one = routed_to(&upstream.address());
    let two =
        one.clone().listen("http = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\nhttps = [\"127.0.0.1:0\"]");
    for _ in 0..2 {
        hand_over(&baton, &two);
        let both = listeners(&baton);
        let added = *both.iter().find(|address| !before.contains(address)).expect("a new address");
        assert_eq!(both.len(), before.len() + 1, "{both:?}");
        for _ in 0..20 {
            let answer = exchange(added, get(PLAIN)).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        hand_over(&baton, &one);
        assert_eq!(listeners(&baton), before);
        until("the removed address refuses", LIMIT, async || {
            TcpStream::connect(added).await.is_err().then_some(())
        })
        .await;
        more_requests(&load, 100).await;
        draining_at_most(&baton, 1).await;
    }
    tunnels_lived_on(&load.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_request_of_200_idle_connections_is_answered_after_an_upgrade() {
    let (baton, _upstream) = in_front_of_one().await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(IdleConnection::open(baton.http_address()).await);
    }
    done(&baton, &["upgrade"], 2);
    assert_eq!(draining(&baton), [1]);
    for connection in idle {
        let answer = connection.last_request().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.to_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
    }
    draining_at_most(&baton, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binary_that_cannot_take_over_is_refused_and_nothing_changes() {
    let (baton, _upstream) = in_front_of_one().await;
    let load = mixed_load(&baton).await;
    let not_executable = copy(&baton, 1);
    fs::set_permissions(&not_executable, fs::Permissions::from_mode(0o644)).expect("the copy");
    let worker = baton.worker_pid();
    for (binary, why) in [
        (Path::new("/nonexistent/baton"), "No such file or directory"),
        (&not_executable, "Permission denied"),
        (Path::new("/bin/true"), "not baton"),
    ] {
        let output = baton.command(&["upgrade", text(binary)]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(said.starts_with("baton: ") && said.contains(why), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!((active(&baton)["id"].as_u64(), baton.worker_pid()), (Some(1), worker));
        assert_eq!(baton.status_json()["pid"], baton.pid());
        assert_eq!(program(&baton), fs::canonicalize(baton_binary()).expect("the binary"));
        more_requests(&load, 100).await;
    }
    tunnels_lived_on(&load.stop().await);
    // The way is still free for one that can.
    done(&baton, &["upgrade"], 2);
}

#[tokio::test]
async fn without_an_upgrade_there_is_nothing_to_roll_back_to() {
    let (baton, _upstream) = in_front_of_one().await;
    let output = baton.command(&["rollback"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains("no program to return to"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_that_span_five_handoffs_complete() {
    let (baton, upstream) = in_front_of_one().await;
    let target = baton.https(APP);
    let mut transfers = Vec::new();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (down, up) = (target.clone(), target.clone());
        transfers.push(tokio::spawn(async move {
            download(&down, protocol, 100 * MB, Some(20 * MB)).await
        }));
        transfers
            .push(tokio::spawn(async move { upload(&up, protocol, 10 * MB, Some(2 * MB)).await }));
    }
    until("the transfers' begin", LIMIT, async || (upstream.requests() == 4).then_some(())).await;
    for number in 0..4 {
        hand_over(&baton, &with_streams(&upstream, 100 + number));
        draining_at_most(&baton, 1).await;
    }
    done(&baton, &["upgrade"], 6);
    assert!(transfers.iter().all(|transfer| !transfer.is_finished()), "they were too short");
    for transfer in transfers {
        transfer.await.expect("no panic").expect("transfer");
    }
    draining_at_most(&baton, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goaway_lets_streams_in_progress_finish() {
    let (baton, upstream) = in_front_of_one().await;
    let stream = baton.https(APP).connect("h2").await.expect("connection");
    let (requests, connection) =
        h2::client::Builder::new().handshake::<_, Bytes>(stream).await.expect("handshake");
    let driver = tokio::spawn(connection);
    let mut requests = requests.ready().await.expect("ready");
    let request = Request::builder().method(Method::POST).uri(format!("https://{APP}/echo"));
    let request = request.body(()).expect("request");
    let (response, mut body) = requests.send_request(request, false).expect("open");
    body.send_data(Bytes::from_static(b"before, "), false).expect("send");
    let mut echo = response.await.expect("response").into_body();
    assert_eq!(echo.data().await.expect("open").expect("data"), "before, ");

    hand_over(&baton, &with_streams(&upstream, 100));
    until("GOAWAY", LIMIT, async || requests.clone().ready().await.is_err().then_some(())).await;
    body.send_data(Bytes::from_static(b"after"), true).expect("send");
    let mut rest = Vec::new();
    while let Some(piece) = echo.data().await {
        rest.extend_from_slice(&piece.expect("the stream goes on"));
    }
    assert_eq!(rest, b"after");
    drop((requests, body, echo));
    driver.await.expect("no panic").expect("an orderly end");
    draining_at_most(&baton, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_generation_follows_changes_of_routes() {
    let (baton, one) = in_front_of_one().await;
    let two = Upstream::start("two").await.expect("upstream");
    let idle = IdleConnection::open(baton.http_address()).await;
    hand_over(&baton, &with_streams(&one, 100));
    let said = baton.reconfigure(&with_streams(&two, 100));
    assert!(said["handoff"].is_null(), "{said}");
    until("the change in the draining generation", LIMIT, async || {
        let status = baton.status_json();
        let old = find(&status, "draining").next().expect("a draining generation");
        (old["snapshot"] == said["snapshot"]).then_some(())
    })
    .await;
    let answer = idle.last_request().await;
    assert!(answer.to_lowercase().contains("\r\nx-upstream: two\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_tells_of_the_last_handoffs() {
    let (baton, upstream) = in_front_of_one().await;
    hand_over(&baton, &with_streams(&upstream, 100));
    done(&baton, &["upgrade"], 3);
    done(&baton, &["rollback"], 4);
    assert_eq!(baton.command(&["upgrade", "/bin/true"]).status.code(), Some(1));

    let output = baton.command(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mode = status["handoff"]["mode"].as_str().expect("a mode");
    assert!(["ebpf", "inherit"].contains(&mode), "{status}");
    assert!(!status["handoff"]["why"].as_str().expect("a reason").is_empty(), "{status}");
    let handoffs = status["last_handoffs"].as_array().expect("a list");
    let outcomes: Vec<_> = handoffs.iter().map(|h| (&h["kind"], &h["outcome"])).collect();
    for (got, want) in outcomes.iter().zip([
        ("upgrade", "failed"),
        ("rollback", "done"),
        ("upgrade", "done"),
        ("reload", "done"),
    ]) {
        assert_eq!((got.0.as_str(), got.1.as_str()), (Some(want.0), Some(want.1)), "{status}");
    }
    assert_eq!(handoffs.len(), 4, "{status}");
    assert!(handoffs[0]["error"].as_str().is_some_and(|error| error.contains("not baton")));
    for handoff in &handoffs[1..] {
        let ready = handoff["ms_to_ready"].as_u64().expect("a time");
        let flip = handoff["ms_to_flip"].as_u64().expect("a time");
        assert!(ready <= flip, "{handoff}");
        assert!(!handoff["steps"].as_array().expect("a list").is_empty(), "{handoff}");
    }
}

/// Clients of every kind under way: think times of 1 to 20 ms, and 16 streams over HTTP/2.
async fn mixed_load(baton: &Baton) -> Running {
    let load = Load::new(baton.https(APP))
        .clients(Kind::Http1KeepAlive, 8)
        .clients(Kind::Http1Fresh, 4)
        .clients(Kind::Http2 { streams: 16 }, 2)
        .clients(Kind::WebSocket, WEBSOCKETS)
        .start();
    // All tunnels in the first generation.
    until("the tunnels", LIMIT, async || {
        let tunnels = &load.snapshot().kinds[&Kind::WebSocket];
        (tunnels.connections == WEBSOCKETS as u64).then_some(())
    })
    .await;
    more_requests(&load, 200).await;
    load
}

fn tunnels_lived_on(report: &baton_load::Report) {
    nobody_felt_anything(report);
    assert_eq!(report.kinds[&Kind::WebSocket].connections, WEBSOCKETS as u64, "{report}");
}

/// A change of this key needs a generation.
fn with_streams(upstream: &Upstream, streams: u32) -> Config {
    routed_to(&upstream.address()).section(&format!("[limits]\nstreams = {streams}"))
}

/// A reload that makes a generation.
fn hand_over(baton: &Baton, config: &Config) {
    let said = baton.reconfigure(config);
    assert_eq!(said["handoff"]["outcome"], "done", "{said}");
    assert_eq!(said["handoff"]["to"], active(baton)["id"], "{said}");
}

/// A command that hands over to this generation, in the same process.
fn done(baton: &Baton, command: &[&str], generation: u64) -> Output {
    let output = baton.command(command);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.ends_with(&format!("done: generation {generation} serves\n")), "{said}");
    assert_eq!(active(baton)["id"], generation);
    assert_eq!(baton.status_json()["pid"], baton.pid());
    output
}

/// A file of its own with the same program. By `cp`, so that this process, which starts others all
/// the time, never has the file open for writing (ETXTBSY).
fn copy(baton: &Baton, number: usize) -> PathBuf {
    let to = baton.directory().join(format!("baton-{number}"));
    let status = Command::new("cp").arg(baton_binary()).arg(&to).status().expect("cp");
    assert!(status.success(), "{status}");
    to
}

/// The file that the controller runs, as the kernel names it.
fn program(baton: &Baton) -> PathBuf {
    fs::read_link(format!("/proc/{}/exe", baton.pid())).expect("it is running")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn active(baton: &Baton) -> Value {
    find(&baton.status_json(), "active").next().expect("an active generation").clone()
}

fn find<'a>(status: &'a Value, state: &'a str) -> impl Iterator<Item = &'a Value> {
    let generations = status["generations"].as_array().expect("a list of generations");
    generations.iter().filter(move |generation| generation["state"] == state)
}

/// The generations that drain, by number.
fn draining(baton: &Baton) -> Vec<u64> {
    let status = baton.status_json();
    find(&status, "draining").map(|old| old["id"].as_u64().expect("a number")).collect()
}

async fn draining_at_most(baton: &Baton, count: usize) {
    let what = format!("at most {count} generations drain");
    until(&what, LIMIT, async || (draining(baton).len() <= count).then_some(())).await;
}

fn listeners(baton: &Baton) -> Vec<SocketAddr> {
    let status = baton.status_json();
    let listeners = status["listeners"].as_array().expect("a list of listeners");
    let address = |listener: &Value| listener["address"].as_str().expect("text").parse();
    listeners.iter().map(|listener| address(listener).expect("an address")).collect()
}

fn get(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// HTTP/1.1 over plain TCP, with one request behind it.
struct IdleConnection(TcpStream);

impl IdleConnection {
    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: plain.test\r\n\r\n";

    async fn open(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("baton listens");
        stream.write_all(Self::REQUEST.as_bytes()).await.expect("send");
        let mut answer = String::new();
        // The upstream's body is one line.
        while answer.split_once("\r\n\r\n").is_none_or(|(_, body)| !body.ends_with('\n')) {
            let mut buffer = [0; 4096];
            let length = stream.read(&mut buffer).await.expect("an answer");
            assert!(length > 0, "closed after {answer}");
            answer.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        assert!(!answer.to_lowercase().contains("connection: close"), "{answer}");
        IdleConnection(stream)
    }

    /// Sends one more, and returns everything up to the end of the stream.
    async fn last_request(mut self) -> String {
        self.0.write_all(Self::REQUEST.as_bytes()).await.expect("send");
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).await.expect("an answer, not a reset");
        answer
    }
}
