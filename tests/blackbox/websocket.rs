//! Tunnels: WebSocket over HTTP/1.1 and over HTTP/2.

use std::net::SocketAddr;
use std::time::Duration;

use baton_load::{Kind, Load, Upstream};
use baton_tests::{Baton, Config, Recorder, until};
use bytes::Bytes;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::stage::LIMIT;
use crate::{APP, PLAIN, in_front_of_one, more_requests, nobody_felt_anything, routed_to};

const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::test]
async fn messages_go_there_and_back() {
    let (baton, _upstream) = in_front_of_one().await;
    for target in [baton.https(APP), baton.http(PLAIN)] {
        let load = Load::new(target).clients(Kind::WebSocket, 10).requests(50);
        let report = load.start().finish().await;
        nobody_felt_anything(&report);
        assert_eq!(report.kinds[&Kind::WebSocket].connections, 10, "{report}");
    }
}

#[tokio::test]
async fn a_tunnel_lives_through_a_reload() {
    let (baton, upstream) = in_front_of_one().await;
    let load = Load::new(baton.https(APP)).clients(Kind::WebSocket, 5).start();
    for number in 0..5 {
        more_requests(&load, 50).await;
        let extra = format!("extra{number}.test");
        baton.reconfigure(&routed_to(&upstream.address()).route(&extra, &[upstream.address()]));
    }
    let report = load.stop().await;
    nobody_felt_anything(&report);
    assert_eq!(report.kinds[&Kind::WebSocket].connections, 5, "{report}");
}

#[tokio::test]
async fn an_upstream_without_websocket_answers_for_itself() {
    let (baton, _upstream) = in_front_of_one().await;
    let answer = baton
        .curl("https://app.test/status?code=404")
        .args(["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"])
        .args([
            "-H",
            "Sec-WebSocket-Version: 13",
            "-H",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        ])
        .run()
        .await;
    assert_eq!(answer.status, 404, "{answer:?}");
}

#[tokio::test]
async fn extended_connect_carries_a_websocket_over_http2() {
    let (baton, _upstream) = in_front_of_one().await;
    let Http2Tunnel { mut out, mut incoming, driver } = Http2Tunnel::open(&baton).await;

    out.send_data(Bytes::from_static(&FRAME), false).expect("send");
    assert_eq!(incoming.data().await.expect("open").expect("data"), ECHO[..]);
    driver.abort();
    // Only then is the connection closed, and the tunnel with it.
    assert!(driver.await.is_err_and(|error| error.is_cancelled()));
}

/// A WebSocket on a stream of an HTTP/2 connection of its own.
struct Http2Tunnel {
    out: SendStream<Bytes>,
    incoming: RecvStream,
    driver: JoinHandle<Result<(), h2::Error>>,
}

impl Http2Tunnel {
    async fn open(baton: &Baton) -> Self {
        let stream = baton.https(APP).connect("h2").await.expect("connection");
        let (requests, connection) =
            h2::client::Builder::new().handshake::<_, Bytes>(stream).await.expect("handshake");
        let driver = tokio::spawn(connection);
        let mut requests = requests.ready().await.expect("ready");
        until("SETTINGS_ENABLE_CONNECT_PROTOCOL", Duration::from_secs(5), async || {
            requests.is_extended_connect_protocol_enabled().then_some(())
        })
        .await;

        let mut request = Request::builder()
            .version(Version::HTTP_2)
            .method(Method::CONNECT)
            .uri(format!("https://{APP}/ws"))
            .header("sec-websocket-version", "13")
            .body(())
            .expect("request");
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let (response, out) = requests.send_request(request, false).expect("open");
        let (head, incoming) = response.await.expect("response").into_parts();
        assert_eq!(head.status, 200);
        Http2Tunnel { out, incoming, driver }
    }
}

/// A WebSocket over plain HTTP/1.1, opened by hand.
pub(crate) async fn http1_tunnel(baton: &Baton) -> TcpStream {
    let mut stream = TcpStream::connect(baton.http_address()).await.expect("baton listens");
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: {PLAIN}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("send");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.expect("an answer"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", answer.escape_ascii());
    stream
}

/// A final text frame of two bytes, masked with zeros, and its echo without a mask (RFC 6455, 5.2).
pub(crate) const FRAME: [u8; 8] = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
pub(crate) const ECHO: [u8; 4] = [0x81, 2, b'h', b'i'];
/// A close frame with status 1001.
pub(crate) const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_tunnel_limit_both_ends_of_a_websocket_are_told() {
    let upstream = Recorder::start(SWITCHED).await;
    let baton = Baton::start(hurried(&upstream.address(), 1)).await;
    let mut tunnel = http1_tunnel(&baton).await;
    let began = upstream.received().len();
    // A frame that goes on through the handoff is not torn.
    tunnel.write_all(&FRAME[..7]).await.expect("send");
    baton.reconfigure(&hurried(&upstream.address(), 2));
    let mut last = Vec::new();
    tunnel.read_exact(last_of(&mut last, GOING_AWAY.len())).await.expect("a goodbye");
    assert_eq!(last, GOING_AWAY);
    tunnel.write_all(&FRAME[7..]).await.expect("send");
    let told = until("the upstream's goodbye", LIMIT, async || {
        let told = upstream.received_bytes().split_off(began);
        (told.len() >= FRAME.len() + 8).then_some(told)
    })
    .await;
    let (frame, goodbye) = told.split_at(FRAME.len());
    assert_eq!(frame, FRAME);
    let [0x88, 0x82, mask @ .., a, b] = goodbye else { panic!("{goodbye:x?}") };
    assert_eq!([a ^ mask[0], b ^ mask[1]], GOING_AWAY[2..]);
    assert_eq!(tunnel.read(&mut [0]).await.expect("no reset"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_over_http2_is_told_too() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let baton = Baton::start(hurried(&upstream.address(), 1)).await;
    let Http2Tunnel { mut out, mut incoming, driver } = Http2Tunnel::open(&baton).await;
    out.send_data(Bytes::from_static(&FRAME), false).expect("send");
    assert_eq!(incoming.data().await.expect("open").expect("data"), ECHO[..]);
    baton.reconfigure(&hurried(&upstream.address(), 2));
    assert_eq!(incoming.data().await.expect("open").expect("a goodbye"), GOING_AWAY[..]);
    assert!(incoming.data().await.is_none_or(|end| end.is_ok_and(|data| data.is_empty())));
    out.send_data(Bytes::new(), true).expect("send");
    drop((out, incoming));
    driver.await.expect("no panic").expect("an orderly end");
}

/// Limits that a drain comes to soon; each number of streams is another generation.
fn hurried(upstream: &SocketAddr, streams: u32) -> Config {
    routed_to(upstream).section(&format!(
        "[drain]\nlimit = \"500ms\"\ntunnel_limit = \"500ms\"\n\n[limits]\nstreams = {streams}"
    ))
}

fn last_of(buffer: &mut Vec<u8>, length: usize) -> &mut [u8] {
    buffer.resize(length, 0);
    buffer
}
