//! What a route says of its connections to upstreams: whom they are for, and how long they may take.

use std::time::Duration;

use baton_load::Upstream;
use baton_tests::{Baton, Config, Recorder, exchange, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::stage::{LIMIT, get};
use crate::websocket::{GOING_AWAY, http1_tunnel};

const HOST: &str = "towards.test";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

fn plain(more: &str) -> String {
    format!("tls = \"off\"\n{more}")
}

#[tokio::test]
async fn an_upstream_is_told_of_each_client_in_front_of_its_connection() {
    let upstream = Recorder::start(OK).await;
    let more = plain("proxy_protocol = \"v1\"");
    let baton = Baton::start(Config::new().route_with(HOST, &[upstream.address()], &more)).await;
    let mut client = TcpStream::connect(baton.http_address()).await.expect("baton listens");
    let (mine, theirs) = (client.local_addr().expect("bound"), baton.http_address());
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for _ in 0..2 {
        client.write_all(request.as_bytes()).await.expect("baton reads");
        let mut head = [0; 15];
        client.read_exact(&mut head).await.expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        let mut rest = vec![0; 1024];
        let _ = client.read(&mut rest).await.expect("the rest");
    }
    let told =
        format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nGET / ", mine.port(), theirs.port());
    // A connection is for one request alone.
    assert_eq!(upstream.received().matches(&told).count(), 2, "{}", upstream.received());
}

#[tokio::test]
async fn another_baton_understands_version_2() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let back = Config::new().top("proxy_protocol = [\"127.0.0.1\"]").route_with(
        HOST,
        &[upstream.address()],
        &plain("allow = [\"192.0.2.9\", \"2001:db8::9\"]"),
    );
    let back = Baton::start(back).await;
    let front = Config::new().top("trusted_proxies = [\"127.0.0.1\"]").route_with(
        HOST,
        &[back.http_address()],
        &plain("proxy_protocol = \"v2\""),
    );
    let front = Baton::start(front).await;
    for (client, want) in [("192.0.2.9", 200), ("2001:db8::9", 200), ("192.0.2.8", 403)] {
        let url = format!("http://{HOST}/");
        let field = format!("X-Forwarded-For: {client}");
        let answer = front.curl(&url).args(["--header", &field]).run().await;
        assert_eq!(answer.status, want, "{client}: {answer:?}");
    }
}

#[tokio::test]
async fn a_route_says_how_long_a_connect_may_take_and_a_tunnel_be_idle() {
    let upstream = Upstream::start("one").await.expect("upstream");
    // Takes connections, and shakes no hands.
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("free port");
    let mute = format!("https://{}", mute.local_addr().expect("bound"));
    let config = Config::new()
        .route_with("mute.test", &[mute], &plain("timeout.connect = \"100ms\""))
        .route_with(HOST, &[upstream.address()], &plain("timeout.tunnel_idle = \"100ms\""));
    let baton = Baton::start(config).await;
    let answer = exchange(baton.http_address(), get("mute.test")).await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    let handshake = format!(
        "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    // Read to its end, which nobody but baton makes.
    let answer =
        tokio::time::timeout(Duration::from_secs(20), exchange(baton.http_address(), handshake));
    let answer = answer.await.expect("an end");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
}

#[tokio::test]
async fn requests_with_the_same_key_share_a_rate() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let more = plain("rate_limit = \"2/h header=X-Key\"");
    let baton = Baton::start(Config::new().route_with(HOST, &[upstream.address()], &more)).await;
    let ask = async |key: &str| {
        let url = format!("http://{HOST}/");
        let field = format!("X-Key: {key}");
        baton.curl(&url).args(["--header", &field]).run().await.status
    };
    for (key, want) in [("a", 200), ("a", 200), ("b", 200), ("a", 429), ("b", 200), ("b", 429)] {
        assert_eq!(ask(key).await, want, "{key}");
    }
}

#[tokio::test]
async fn what_is_in_progress_at_an_upstream_that_has_left_ends_in_time() {
    let goes = Upstream::start("goes").await.expect("upstream");
    let stays = Upstream::start("stays").await.expect("upstream");
    let more = plain("drain = \"100ms\"");
    let config = |address| Config::new().route_with(crate::PLAIN, &[address], &more);
    let baton = Baton::start(config(goes.address())).await;
    let mut tunnel = http1_tunnel(&baton).await;
    let slow = format!(
        "GET /slow?ms=60000 HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        crate::PLAIN
    );
    let slow = tokio::spawn(exchange(baton.http_address(), slow));
    until("both at the upstream", LIMIT, async || (goes.requests() == 2).then_some(())).await;
    baton.reconfigure(&config(stays.address()));
    let mut goodbye = [0; 4];
    tunnel.read_exact(&mut goodbye).await.expect("a goodbye");
    assert_eq!(goodbye, GOING_AWAY);
    let head = slow.await.expect("no panic");
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
}

#[tokio::test]
async fn a_request_does_not_wait_to_connect_to_an_upstream_that_has_left() {
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("free port");
    let next = Upstream::start("next").await.expect("upstream");
    let more = plain("timeout.connect = \"60s\"");
    let config = |address: &str| Config::new().route_with(HOST, &[address], &more);
    let address = format!("https://{}", mute.local_addr().expect("bound"));
    let baton = Baton::start(config(&address)).await;
    let answer = tokio::spawn(exchange(baton.http_address(), get(HOST)));
    // It waits for the other half of the handshake.
    let _connection = mute.accept().await.expect("a connection");
    baton.reconfigure(&config(&next.address().to_string()));
    let answer = answer.await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
