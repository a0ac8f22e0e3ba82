//! More than there is room for: accepting pauses, what is in progress goes on, and all is well again once
//! there is room.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use baton_load::Upstream;
use baton_tests::frames::{block, flag, headers};
use baton_tests::{Baton, FrameClient, MemoryGroup, exchange, resident, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::stage::{LIMIT, get};
use crate::{PLAIN, routed_to};

const ROOM: usize = 8;

async fn baton(section: &str) -> (Baton, Upstream) {
    let upstream = Upstream::start("one").await.expect("upstream");
    let config = routed_to(&upstream.address()).top("threads = 1").section(section);
    (Baton::start(config).await, upstream)
}

/// A request on a connection that stays; its answer's first line.
async fn ask(client: &mut TcpStream) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: {PLAIN}\r\n\r\n");
    client.write_all(request.as_bytes()).await.expect("baton reads");
    let mut answer = vec![0; 4096];
    let length = client.read(&mut answer).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_there_is_room() {
    let (baton, _upstream) = baton(&format!("[limits]\nconnections = {ROOM}")).await;
    let connect = || TcpStream::connect(baton.http_address());
    let mut inside = Vec::new();
    for _ in 0..ROOM {
        let mut client = connect().await.expect("baton listens");
        assert_eq!(ask(&mut client).await, "HTTP/1.1 200 OK");
        inside.push(client);
    }
    // In the queue of the kernel, with their requests.
    let address = baton.http_address();
    let waiting: Vec<_> = (0..ROOM).map(|_| tokio::spawn(exchange(address, get(PLAIN)))).collect();
    // Who is inside does not feel them.
    for client in &mut inside {
        for _ in 0..10 {
            assert_eq!(ask(client).await, "HTTP/1.1 200 OK");
        }
    }
    assert!(waiting.iter().all(|client| !client.is_finished()), "somebody was let in");
    inside.truncate(ROOM - 1);
    // One after the other, through the one place.
    let began = Instant::now();
    for client in waiting {
        let answer = client.await.expect("no panic");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    for client in &mut inside {
        assert_eq!(ask(client).await, "HTTP/1.1 200 OK");
    }
}

/// What the process has spent of a CPU.
fn cpu(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is running");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let ticks =
        fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks"));
    // USER_HZ is 100 wherever Linux runs.
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// A worker that begins after this has no more.
fn allow_open_files(pid: i32, count: usize) {
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={count}:{count}")])
        .status()
        .expect("prlimit is installed");
    assert!(status.success(), "{status}");
}

const DESCRIPTORS: usize = 256;
/// Of one HTTP/2 connection, each with a connection to the upstream.
const STREAMS: u32 = 100;

#[tokio::test]
async fn descriptors_that_are_used_up_are_waited_for() {
    let (mut baton, _upstream) = baton("").await;
    let address = baton.http_address();
    allow_open_files(baton.pid(), DESCRIPTORS);
    kill(Pid::from_raw(baton.worker_pid()), Signal::SIGKILL).expect("it is running");
    baton.wait_said("64 connections at most").await;
    baton.wait_ready().await;
    let path = [(":path", "/slow?ms=60000"), (":method", "GET")];
    let host = [(":scheme", "http"), (":authority", PLAIN)];
    let request = block(&[path, host].concat());
    let streams = || (0..STREAMS).map(|number| 2 * number + 1);
    let requests: Vec<u8> = streams().flat_map(|id| headers(id, flag::WHOLE, &request)).collect();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = FrameClient::connect(&baton.http(PLAIN), &[]).await;
        client.send(&requests).await;
        clients.push(client);
    }
    // Too many for all to have one, and who has none is told so at once.
    let last = clients.last_mut().expect("a client");
    let answer = last.find(|frame| frame.status().is_some()).await.expect("an answer");
    assert_eq!(answer.status(), Some(503));
    // Nor can anybody be accepted.
    let waiting = tokio::spawn(exchange(address, get(PLAIN)));
    let worker = baton.worker_pid();
    let (began, before) = (Instant::now(), cpu(worker));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (spent, time) = (cpu(worker) - before, began.elapsed());
    assert!(spent * 5 < time, "it spins: {spent:?} of {time:?}");
    assert!(!waiting.is_finished(), "there was room");
    drop(clients);
    let began = Instant::now();
    let answer = waiting.await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let said = baton.stderr();
    assert_eq!(said.matches("raise the limit of open files").count(), 1, "{said}");
    assert!(!said.contains("left out"), "{said}");
}

/// Half of its descriptors are for upstreams, whatever the configuration hopes for.
#[tokio::test]
async fn clients_alone_do_not_use_up_the_descriptors() {
    let (baton, _upstream) = baton("[limits]\nconnections = 1000000").await;
    assert!(baton.stderr().contains("open files (LimitNOFILE)"), "{}", baton.stderr());
}

/// Of the control group; the worker needs some ten without clients.
const GROUP_BYTES: u64 = 80 << 20;
/// What an attacker makes the worker hold: of a head that does not end.
const HEAD_BYTES: usize = 900 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn near_the_memory_of_its_group_new_work_is_refused_and_nobody_is_killed() {
    let Some(group) = MemoryGroup::with(GROUP_BYTES) else { return };
    let (baton, upstream) = baton("[limits]\nheader_bytes = \"1MiB\"").await;
    group.take(baton.pid());
    let limits = "[limits]\nheader_bytes = \"1MiB\"\nstreams = 50";
    let config = routed_to(&upstream.address()).top("threads = 1").section(limits);
    assert_eq!(baton.reconfigure(&config)["handoff"]["outcome"], "done");
    let (worker, address) = (baton.worker_pid(), baton.http_address());
    let mut inside = TcpStream::connect(address).await.expect("baton listens");
    assert_eq!(ask(&mut inside).await, "HTTP/1.1 200 OK");
    let slow = format!("GET /slow?ms=4000 HTTP/1.1\r\nHost: {PLAIN}\r\nConnection: close\r\n\r\n");
    let in_progress = tokio::spawn(exchange(address, slow));
    until("it is in progress", LIMIT, async || (upstream.requests() == 2).then_some(())).await;

    let mut attackers = JoinSet::new();
    while ask(&mut inside).await == "HTTP/1.1 200 OK" {
        assert!(attackers.len() < 200, "{} MiB and nothing is refused", resident(worker) >> 20);
        let before = resident(worker);
        attackers.spawn(never_ending_head(address));
        until("it holds more", LIMIT, async || {
            let holds = resident(worker) >= before + HEAD_BYTES as u64 / 2;
            (holds || ask(&mut inside).await != "HTTP/1.1 200 OK").then_some(())
        })
        .await;
    }
    println!("refused with {} attackers, {} MiB", attackers.len(), resident(worker) >> 20);
    let waits = tokio::spawn(exchange(address, get(PLAIN)));
    for _ in 0..10 {
        assert_eq!(ask(&mut inside).await, "HTTP/1.1 503 Service Unavailable");
    }
    assert!(!waits.is_finished(), "somebody was let in");
    waits.abort();
    let answer = in_progress.await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    attackers.shutdown().await;
    let over = Instant::now();
    until("all is well", LIMIT, async || {
        exchange(address, get(PLAIN)).await.starts_with("HTTP/1.1 200 ").then_some(())
    })
    .await;
    assert!(over.elapsed() < Duration::from_secs(1), "{:?}", over.elapsed());
    assert_eq!(ask(&mut inside).await, "HTTP/1.1 200 OK");
    assert_eq!(baton.worker_pid(), worker, "the worker lives");
    let said = baton.stderr();
    assert!(said.contains("MiB are used: new connections wait and requests get 503"), "{said}");
}

async fn never_ending_head(address: SocketAddr) {
    let mut client = TcpStream::connect(address).await.expect("baton listens");
    let head = format!("GET / HTTP/1.1\r\nHost: {PLAIN}\r\nX-Large: {}", "x".repeat(HEAD_BYTES));
    // Where baton reads no more it waits here, else below.
    let _ = client.write_all(head.as_bytes()).await;
    std::future::pending::<()>().await;
}
