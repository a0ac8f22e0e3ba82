//! Clients that attack over HTTP/1.1 and TLS: slow ones, half-open ones, floods of records. HTTP/2 is in
//! `http2_attacks.rs`.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use baton_load::{Kind, Load};
use baton_tests::{exchange, reset_peak, until};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::siege::Siege;
use crate::stage::{LIMIT, get};
use crate::tls::s_client_saying;
use crate::{APP, PLAIN, nobody_felt_anything};

/// Limits that a test can wait for.
const IMPATIENT: &str = "[timeouts]\nheader_read = \"500ms\"\nbody_idle = \"500ms\"\n\
    send_idle = \"500ms\"";
/// Clients at a time.
const CROWD: usize = 100;

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("baton listens")
}

/// Says `first`, then `more` again and again, a little at a time, until it is told something or cut off;
/// what it was told.
async fn drip(address: SocketAddr, first: String, more: &'static [u8]) -> String {
    let (mut reader, mut writer) = connect(address).await.into_split();
    let say = async {
        let mut clock = tokio::time::interval(Duration::from_millis(50));
        let mut open = writer.write_all(first.as_bytes()).await.is_ok();
        while open {
            clock.tick().await;
            open = writer.write_all(more).await.is_ok();
        }
        std::future::pending::<()>().await;
    };
    let mut told = Vec::new();
    tokio::select! {
        () = say => {}
        _ = reader.read_to_end(&mut told) => {}
    }
    String::from_utf8_lossy(&told).into_owned()
}

/// Each of [`CROWD`] clients does the same; what they were told.
async fn crowd<T>(act: impl Fn() -> T) -> Vec<T::Output>
where
    T: Future<Output: Send + 'static> + Send + 'static,
{
    let clients: JoinSet<T::Output> = (0..CROWD).map(|_| act()).collect();
    tokio::time::timeout(LIMIT, clients.join_all()).await.expect("they are answered or cut off")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_drips_is_cut_off_by_the_clock() {
    let siege = Siege::with(&format!("{IMPATIENT}\nkeep_alive = \"1500ms\"")).await;
    let address = siege.baton.http_address();
    let first = format!("GET / HTTP/1.1\r\nHost: {PLAIN}\r\n");
    for told in crowd(|| drip(address, first.clone(), b"X-A: b\r\n")).await {
        assert!(told.starts_with("HTTP/1.1 408 "), "{told}");
    }
    // Before the first byte of a head there is nobody to be answered.
    for told in crowd(|| exchange(address, "")).await {
        assert_eq!(told, "");
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_stops_is_cut_off() {
    let siege = Siege::with(IMPATIENT).await;
    let address = siege.baton.http_address();
    for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        let begun =
            format!("POST /sink HTTP/1.1\r\nHost: {PLAIN}\r\n{framing}\r\n\r\n5\r\nhello\r\n");
        for told in crowd(|| exchange(address, begun.clone())).await {
            assert!(told.starts_with("HTTP/1.1 408 "), "{framing}: {told}");
        }
    }
    siege.end().await;
}

/// Each has a response of 100 MB under way, and reads none of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_is_cut_off() {
    let siege = Siege::with(IMPATIENT).await;
    let request = format!("GET /bytes?n=100000000 HTTP/1.1\r\nHost: {PLAIN}\r\n\r\n");
    let mut clients = Vec::new();
    for _ in 0..CROWD {
        let mut client = connect(siege.baton.http_address()).await;
        client.write_all(request.as_bytes()).await.expect("baton reads");
        clients.push(client);
    }
    for mut client in clients {
        let cut = until("the end", LIMIT, async || client.write_all(b"x").await.err());
        cut.await;
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        assert!(rest.len() < 100_000_000, "{} bytes", rest.len());
    }
    siege.end().await;
}

fn client(siege: &Siege) -> ClientConnection {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots: Arc<RootCertStore> = siege.baton.roots();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(APP).expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a client")
}

/// A TLS record.
fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a record is small").to_be_bytes();
    [&[kind, 3, 1], &length[..], payload].concat()
}

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_in_records_of_one_byte_is_heard() {
    let siege = Siege::begin().await;
    let mut session = client(&siege);
    let mut hello = Vec::new();
    session.write_tls(&mut hello).expect("a hello");
    let torn: Vec<u8> = hello[5..].iter().flat_map(|byte| record(HANDSHAKE, &[*byte])).collect();
    let mut socket = std::net::TcpStream::connect(siege.baton.https_address()).expect("it listens");
    let answer = tokio::task::spawn_blocking(move || {
        socket.set_nodelay(true).expect("a socket");
        for byte in torn.chunks(6) {
            socket.write_all(byte).expect("baton reads");
        }
        let mut stream = rustls::Stream::new(&mut session, &mut socket);
        stream.write_all(get(APP).as_bytes()).expect("baton reads");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    });
    let answer = answer.await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    siege.end().await;
}

/// Each is told by an alert, or nothing, and its connection ends; `handshake` is not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_records_before_a_hello_end_the_connection() {
    let siege = Siege::begin().await;
    let address = siege.baton.https_address();
    // Type 1, and a length of 16 MB.
    let giant = [&[1, 0xff, 0xff, 0xff][..], &[0; 16_000]].concat();
    let large = [&[1, 0, 0xff, 0xff][..], &[0; 16_000]].concat();
    let rest = record(HANDSHAKE, &[0; 16_000]).repeat(20);
    for (what, bytes) in [
        ("a giant hello", [record(HANDSHAKE, &giant), rest.clone()].concat()),
        ("a hello of 64 KiB", [record(HANDSHAKE, &large), rest].concat()),
        ("a hello in a thousand pieces", record(HANDSHAKE, &[1]).repeat(100_000)),
        ("handshakes of nothing", record(HANDSHAKE, &[]).repeat(100_000)),
        ("warnings", record(ALERT, &[1, 90]).repeat(100_000)),
        ("ChangeCipherSpec", record(CHANGE_CIPHER_SPEC, &[1]).repeat(100_000)),
        ("data", record(APPLICATION_DATA, &[0; 100]).repeat(10_000)),
        ("a record that is too long", record(HANDSHAKE, &[0; 60_000])),
        ("a finished", record(HANDSHAKE, &[20, 0, 0, 4, 0, 0, 0, 0])),
        ("SSL 2", b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10".repeat(1000)),
        ("plain HTTP", get(APP).into_bytes()),
        ("zeros", vec![0; 100_000]),
    ] {
        let told = exchange(address, &bytes).await;
        let is_alert = told.is_empty() || told.as_bytes()[0] == ALERT;
        assert!(is_alert && told.len() < 100, "{what}: {told:?}");
    }
    // All at once, and then silence with all that may be kept of a hello.
    let kept = [record(HANDSHAKE, &large), record(HANDSHAKE, &[0; 16_000]).repeat(2)].concat();
    let mut clients = Vec::new();
    for _ in 0..CROWD {
        let mut client = connect(address).await;
        client.write_all(&kept).await.expect("baton reads");
        clients.push(client);
    }
    siege.end().await;
}

/// One attacker after the other, each until its connection ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement that wants the machine for itself: cargo xtask test --alone"]
async fn others_wait_at_most_three_times_as_long_during_floods_of_records() {
    let siege = Siege::begin().await;
    for (what, bytes) in [
        ("a hello in a thousand pieces", record(HANDSHAKE, &[1]).repeat(100_000)),
        ("warnings", record(ALERT, &[1, 90]).repeat(100_000)),
    ] {
        let attack =
            async |siege: &Siege| drop(exchange(siege.baton.https_address(), &bytes).await);
        siege.slowed_little_by(what, attack).await;
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_negotiates_anew() {
    let siege = Siege::with("[timeouts]\nkeep_alive = \"1500ms\"").await;
    let address = siege.baton.https_address();
    let said = s_client_saying("R\n".to_owned(), address, &["-tls1_2", "-servername", APP]).await;
    // The question is not answered, and its connection ends as one on which nothing is asked.
    let refused = ["no renegotiation", "unexpected eof"].iter().any(|text| said.contains(text));
    assert!(said.contains("RENEGOTIATING") && refused, "{said}");
    siege.end().await;
}

/// Ten thousand, where the descriptors of this process allow them: all tests share them, and a worker has
/// as many, of which it keeps half for upstreams.
fn half_open() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("a process has limits");
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = soft.and_then(|line| line.split_whitespace().next()).expect("a limit");
    soft.parse::<usize>().map_or(10_000, |soft| (soft / 4).min(10_000))
}

/// What one handshake that does not begin may cost.
const HALF_OPEN: u64 = 16 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_do_not_begin_are_bounded_and_end() {
    let count = half_open();
    // Enough time for all of them to be there at once.
    let siege = Siege::with("[timeouts]\nhandshake = \"3s\"").await;
    let address = siege.baton.https_address();
    let open = |siege: &Siege| {
        siege.baton.status_json()["generations"][0]["connections"].as_u64().expect("a number")
    };
    reset_peak(siege.baton.worker_pid());
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(connect(address).await);
    }
    println!("{count} half-open handshakes");
    until("all of them", LIMIT, async || (open(&siege) >= count as u64).then_some(())).await;
    // Who comes now is served at once.
    let load = Load::new(siege.baton.https(APP)).clients(Kind::Http1Fresh, 1).requests(10);
    nobody_felt_anything(&load.start().finish().await);
    until("their end", LIMIT, async || (open(&siege) < 100).then_some(())).await;
    drop(clients);
    let said = siege.repelled(count as u64 * HALF_OPEN).await;
    assert!(!said.contains("ERROR"), "{said}");
}
