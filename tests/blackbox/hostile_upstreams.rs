//! Upstreams that never end, talk nonsense or say more than they were asked for: the client is answered
//! or cut off, nobody else is given what was not meant for them, and the worker holds little of it.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use baton_load::Upstream;
use baton_tests::frames::{block, continuation, flag, headers, ping, settings};
use baton_tests::{Baton, Config, FrameClient, Recorder, exchange, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::siege::Siege;
use crate::stage::{LIMIT, get};
use crate::{PLAIN, routed_to};

const OFF: &str = "tls = \"off\"";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An upstream that reads one head on each connection, and then says what it was told to.
struct Rude {
    address: SocketAddr,
    /// Connections on which it has come to its end.
    ended: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Rude {
    /// Says `first`, then `again` for ever; nothing more where that is empty.
    async fn start(first: &[u8], again: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
        let address = listener.local_addr().expect("bound");
        let ended = Arc::new(AtomicUsize::new(0));
        let (first, again, count) = (first.to_vec(), again.repeat(1000), ended.clone());
        let serve = async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (first, again, count) = (first.clone(), again.clone(), count.clone());
                connections.spawn(async move {
                    talk(stream, &first, &again).await;
                    count.fetch_add(1, Relaxed);
                });
            }
        };
        Rude { address, ended, task: tokio::spawn(serve).abort_handle() }
    }
}

impl Drop for Rude {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Until the other end is gone.
async fn talk(mut stream: TcpStream, first: &[u8], again: &[u8]) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await;
    let mut open = stream.write_all(first).await.is_ok();
    while open && !again.is_empty() {
        open = stream.write_all(again).await.is_ok();
    }
    while matches!(stream.read(&mut request).await, Ok(1..)) {}
}

/// What a client is to see.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    BadGateway,
    TimedOut,
    /// A response that ends before its end.
    Cut,
}

fn seen(what: &str, mut answer: &str) -> Seen {
    while answer.starts_with("HTTP/1.1 103 ") {
        answer = answer.split_once("\r\n\r\n").expect("a head").1;
    }
    if answer.starts_with("HTTP/1.1 502 ") {
        return Seen::BadGateway;
    }
    if answer.starts_with("HTTP/1.1 504 ") {
        return Seen::TimedOut;
    }
    // The head may still have waited for the body that did not come.
    let begun = answer.is_empty() || answer.starts_with("HTTP/1.1 200 ");
    assert!(begun && !answer.ends_with("\r\n0\r\n\r\n"), "{what}: {answer}");
    Seen::Cut
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_response_is_a_502_or_cut_off() {
    let chunked = |body: &str| format!("{CHUNKED}{body}");
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-A: b\r\n".repeat(300));
    let cases = [
        ("an endless status line", "HTTP/1.1 200 O".into(), "K", Seen::BadGateway),
        ("an endless field", "HTTP/1.1 200 OK\r\nX-A: ".into(), "b", Seen::BadGateway),
        ("endless fields", "HTTP/1.1 200 OK\r\n".into(), "X-A: b\r\n", Seen::BadGateway),
        ("too many fields", many, "", Seen::BadGateway),
        ("1xx without end", String::new(), "HTTP/1.1 103 Early Hints\r\n\r\n", Seen::BadGateway),
        ("empty lines", String::new(), "\r\n", Seen::BadGateway),
        ("another protocol", "SSH-2.0-x\r\n".into(), "", Seen::BadGateway),
        ("zeros", String::new(), "\0", Seen::BadGateway),
        ("a status of two digits", "HTTP/1.1 20 OK\r\n\r\n".into(), "", Seen::BadGateway),
        ("a version from the future", "HTTP/3.0 200 OK\r\n\r\n".into(), "", Seen::BadGateway),
        ("HTTP/0.9", "hello\n".into(), "", Seen::BadGateway),
        ("a fold", "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\n\r\n".into(), "", Seen::BadGateway),
        ("bare LF", "HTTP/1.1 200 OK\nX-A: b\n\n".into(), "", Seen::BadGateway),
        ("a switch nobody asked for", "HTTP/1.1 101 Go\r\n\r\n".into(), "", Seen::BadGateway),
        ("half a head", "HTTP/1.1 200 OK\r\n".into(), "", Seen::TimedOut),
        ("silence", String::new(), "", Seen::TimedOut),
        ("a chunk size that is none", chunked("zz\r\n"), "", Seen::Cut),
        ("a chunk size without end", chunked(""), "1", Seen::Cut),
        ("an extension without end", chunked("5;"), "x", Seen::Cut),
        ("a chunk of 2^64", chunked("10000000000000000\r\n"), "x", Seen::Cut),
        ("a chunk that goes on", chunked("2\r\nabcd\r\n0\r\n\r\n"), "", Seen::Cut),
        ("trailers without end", chunked("0\r\n"), "X-A: b\r\n", Seen::Cut),
        (
            "a body that stops",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab".into(),
            "",
            Seen::Cut,
        ),
    ];
    let mut upstreams = Vec::new();
    for (_, first, again, _) in &cases {
        upstreams.push(Rude::start(first.as_bytes(), again.as_bytes()).await);
    }
    let routed = |config: Config| {
        let with = |config: Config, (number, upstream): (usize, &Rude)| {
            config.route_with(&format!("rude-{number}.test"), &[upstream.address], OFF)
        };
        let timeouts = "[timeouts]\nresponse_head = \"500ms\"\nresponse_idle = \"500ms\"";
        upstreams.iter().enumerate().fold(config, with).section(timeouts)
    };
    let siege = Siege::of(routed).await;
    let mut clients = JoinSet::new();
    for number in 0..cases.len() {
        let answer = exchange(siege.baton.http_address(), get(&format!("rude-{number}.test")));
        clients.spawn(async move { (number, answer.await) });
    }
    while let Some(answered) = clients.join_next().await {
        let (number, answer) = answered.expect("no panic");
        let (what, _, _, want) = &cases[number];
        assert_eq!(seen(what, &answer), *want, "{what}");
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http2_upstream_that_floods_is_a_502() {
    let informational = headers(1, flag::END_HEADERS, &block(&[(":status", "103")]));
    let part = continuation(1, 0, &block(&[("x-a", "b".repeat(1000).as_str())]));
    let opened = [settings(&[]), headers(1, 0, &block(&[(":status", "200")]))].concat();
    let cases = [
        ("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), vec![]),
        ("1xx without end", settings(&[]), informational),
        ("CONTINUATION without end", opened, part),
        ("PING without end", settings(&[]), ping(1)),
    ];
    let mut upstreams = Vec::new();
    for (_, first, again) in &cases {
        upstreams.push(Rude::start(first, again).await);
    }
    let routed = |config: Config| {
        let with = |config: Config, (number, upstream): (usize, &Rude)| {
            let address = format!("grpc://{}", upstream.address);
            config.route_with(&format!("rude-{number}.test"), &[address], OFF)
        };
        let timeouts = "[timeouts]\nresponse_head = \"500ms\"";
        upstreams.iter().enumerate().fold(config, with).section(timeouts)
    };
    let siege = Siege::of(routed).await;
    for (number, (what, ..)) in cases.iter().enumerate() {
        let host = format!("rude-{number}.test");
        let answer = exchange(siege.baton.http_address(), get(&host)).await;
        let last = answer.rsplit("HTTP/1.1 ").next().expect("an answer");
        assert!(last.starts_with("502 ") || last.starts_with("504 "), "{what}: {answer}");
    }
    siege.end().await;
}

/// What an upstream says beyond its response answers nothing, and least of all the next request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_response_is_nobodys() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let with = |head: &str| format!("HTTP/1.1 {head}\r\nContent-Length: 6\r\n\r\npoison");
    let cases = [
        ("two responses", "GET", format!("{OK}{poison}"), "200"),
        ("more than the length", "GET", format!("{OK}poison"), "200"),
        ("behind the last chunk", "GET", format!("{CHUNKED}2\r\nok\r\n0\r\n\r\n{poison}"), "200"),
        ("a body for HEAD", "HEAD", with("200 OK"), "200"),
        ("a body of 304", "GET", with("304 Not Modified"), "304"),
        ("a body of 204", "GET", "HTTP/1.1 204 No Content\r\n\r\npoison".into(), "204"),
        ("chunks of 204", "GET", "HTTP/1.1 204 No\r\n\r\n6\r\npoison\r\n0\r\n\r\n".into(), "204"),
    ];
    let mut upstreams = Vec::new();
    let mut config = Config::new().top("threads = 1");
    for (number, (_, _, says, _)) in cases.iter().enumerate() {
        let upstream = Rude::start(says.as_bytes(), b"").await;
        config = config.route_with(&format!("rude-{number}.test"), &[upstream.address], OFF);
        upstreams.push(upstream);
    }
    let baton = Baton::start(config).await;
    for (number, (what, method, _, status)) in cases.iter().enumerate() {
        let host = format!("rude-{number}.test");
        let one = format!("{method} / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let last = format!("{method} / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = exchange(baton.http_address(), [one, last].concat()).await;
        assert_eq!(answer.matches(&format!("HTTP/1.1 {status} ")).count(), 2, "{what}: {answer}");
        assert!(!answer.contains("poison"), "{what}: {answer}");
        // Each of them had a connection of its own.
        let ended = &upstreams[number].ended;
        until(what, LIMIT, async || (ended.load(Relaxed) == 2).then_some(())).await;
    }
}

#[tokio::test]
async fn a_response_that_comes_late_is_nobodys() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
    let address = listener.local_addr().expect("bound");
    let config = Config::new().top("threads = 1").route_with(PLAIN, &[address], OFF);
    let baton = Baton::start(config).await;
    let mut client = TcpStream::connect(baton.http_address()).await.expect("baton listens");
    let request = format!("GET / HTTP/1.1\r\nHost: {PLAIN}\r\n\r\n");
    let mut buffer = [0; 4096];
    let mut upstreams = Vec::new();
    for _ in 0..3 {
        client.write_all(request.as_bytes()).await.expect("baton reads");
        // A new connection each time: the one before was not trusted any more.
        let accepted = tokio::time::timeout(LIMIT, listener.accept()).await;
        let (mut upstream, _) = accepted.expect("another connection").expect("accept");
        let _ = upstream.read(&mut buffer).await.expect("a request");
        upstream.write_all(OK.as_bytes()).await.expect("baton reads");
        let mut answer = String::new();
        while !answer.ends_with("ok") {
            let length = client.read(&mut buffer).await.expect("an answer");
            answer += &String::from_utf8_lossy(&buffer[..length]);
        }
        upstream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
            .await
            .expect("sent");
        upstreams.push(upstream);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_end_stops_when_its_client_goes() {
    let forever = Rude::start(b"HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 64]).await;
    let address = forever.address;
    let siege = Siege::of(|config| config.route_with("forever.test", &[address], OFF)).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let address = siege.baton.http_address();
        let mut client = TcpStream::connect(address).await.expect("baton listens");
        client.write_all(get("forever.test").as_bytes()).await.expect("baton reads");
        let mut part = vec![0; 1 << 20];
        client.read_exact(&mut part).await.expect("it goes on");
        clients.push(client);
    }
    assert_eq!(forever.ended.load(Relaxed), 0);
    drop(clients);
    until("their upstream's rest", LIMIT, async || {
        (forever.ended.load(Relaxed) == 10).then_some(())
    })
    .await;
    siege.end().await;
}

#[tokio::test]
async fn an_early_answer_and_a_reset_are_told_and_not_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
    let address = listener.local_addr().expect("bound");
    let baton = Baton::start(routed_to(&address)).await;
    let refuse = async {
        for _ in 0..5 {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let _ = stream.read(&mut [0; 4096]).await;
            let refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno";
            stream.write_all(refusal).await.expect("baton reads");
            // Closed with bytes unread, which the kernel makes a reset of.
            drop(stream);
        }
        // Were one tried again, it would come here.
        tokio::select! {
            _ = listener.accept() => panic!("a sixth request"),
            () = std::future::pending() => {}
        }
    };
    let upload = async {
        let head = format!("POST / HTTP/1.1\r\nHost: {PLAIN}\r\nContent-Length: 5000000\r\n\r\n");
        let request = [head.into_bytes(), vec![b'x'; 1_000_000]].concat();
        for _ in 0..5 {
            let answer = exchange(baton.http_address(), &request).await;
            let told =
                ["HTTP/1.1 413 ", "HTTP/1.1 502 "].iter().any(|line| answer.starts_with(line));
            assert!(told, "{answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        }
    };
    tokio::select! {
        () = refuse => {}
        () = upload => {}
    }
}

/// 64 MiB of zeros.
fn bomb() -> Vec<u8> {
    let gzip = Command::new("sh").args(["-c", "head -c 67108864 /dev/zero | gzip -1"]).output();
    gzip.expect("gzip is installed").stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_body_is_passed_as_it_is() {
    let bomb = bomb();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        bomb.len()
    );
    let upstream = Rude::start(&[head.as_bytes(), &bomb].concat(), b"").await;
    let address = upstream.address;
    let siege = Siege::of(|config| config.route_with("bomb.test", &[address], OFF)).await;
    for field in ["Accept-Encoding: gzip", "Accept-Encoding: identity", "Accept-Encoding: br"] {
        let answer = siege.baton.curl("http://bomb.test/").args(["-H", field]).run().await;
        assert_eq!(answer.field("content-encoding"), Some("gzip"), "{field}");
        assert!(answer.body == bomb, "{field}: {} bytes", answer.body.len());
    }
    siege.end().await;
}

/// A client that asks for what an upstream cannot give says nothing about the upstream.
#[tokio::test]
async fn no_client_takes_an_upstream_from_the_others() {
    let web = Recorder::start(OK).await;
    let grpc = Upstream::start("grpc").await.expect("upstream");
    let config = Config::new().route_with(PLAIN, &[web.address()], OFF).route_with(
        "grpc.test",
        &[format!("grpc://{}", grpc.address())],
        OFF,
    );
    let baton = Baton::start(config).await;
    for _ in 0..10 {
        // A WebSocket where there is none (RFC 8441).
        let mut client = FrameClient::connect(&baton.http(PLAIN), &[]).await;
        let fields = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http")];
        let to = [(":authority", PLAIN), (":path", "/")];
        client.send(headers(1, flag::END_HEADERS, &block(&[&fields[..], &to].concat()))).await;
        let answer = client.find(|frame| frame.status().is_some()).await.expect("an answer");
        assert_eq!(answer.status(), Some(502));
        // A target that has no form in HTTP/2.
        let request = "GET /<a> HTTP/1.1\r\nHost: grpc.test\r\nConnection: close\r\n\r\n";
        let answer = exchange(baton.http_address(), request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    for host in [PLAIN, "grpc.test"] {
        let answer = exchange(baton.http_address(), get(host)).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
    assert!(!baton.stderr().contains("left out"), "{}", baton.stderr());
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
    let address = listener.local_addr().expect("bound");
    let config = routed_to(&address).section("[timeouts]\nresponse_head = \"500ms\"");
    let baton = Baton::start(config).await;
    let drip = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut clock = tokio::time::interval(Duration::from_millis(20));
        for byte in b"HTTP/1.1 200 OK\r\nX-A: ".iter().chain([b'b'; 1000].iter()) {
            clock.tick().await;
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = exchange(baton.http_address(), get(PLAIN)) => answer,
        () = drip => panic!("it ends"),
    };
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
}
