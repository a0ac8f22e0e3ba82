//! Tunnels: WebSocket over HTTP/1.1 and over HTTP/2.

use std::time::Duration;

use baton_load::{Kind, Load};
use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Request, Version};

use crate::{APP, PLAIN, in_front_of_one, more_requests, nobody_felt_anything, routed_to};

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
    let stream = baton.https(APP).connect("h2").await.expect("connection");
    let (requests, connection) =
        h2::client::Builder::new().handshake::<_, Bytes>(stream).await.expect("handshake");
    let driver = tokio::spawn(connection);
    let mut requests = requests.ready().await.expect("ready");
    baton_tests::until("SETTINGS_ENABLE_CONNECT_PROTOCOL", Duration::from_secs(5), async || {
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
    let (response, mut out) = requests.send_request(request, false).expect("open");
    let (head, mut incoming) = response.await.expect("response").into_parts();
    assert_eq!(head.status, 200);

    // A final text frame of two bytes, masked with zeros, and its echo without a mask (RFC 6455, 5.2).
    let frame = Bytes::from_static(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
    out.send_data(frame, false).expect("send");
    let echo = incoming.data().await.expect("open").expect("data");
    assert_eq!(echo, Bytes::from_static(&[0x81, 2, b'h', b'i']));
    driver.abort();
    // Only then is the connection closed, and the tunnel with it.
    assert!(driver.await.is_err_and(|error| error.is_cancelled()));
}
