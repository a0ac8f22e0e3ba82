//! Upstreams that fail, speak TLS, or speak HTTP/2.

use std::time::Duration;

use baton_load::{Kind, Load, Upstream, UpstreamOptions};
use baton_tests::{Baton, Config};
use bytes::Bytes;
use http::{Method, Request, Version};

use crate::{APP, PLAIN, every_kind, http_kinds, more_requests, nobody_felt_anything, routed_to};

/// An address where nobody listens.
async fn gone() -> std::net::SocketAddr {
    let upstream = Upstream::start("gone").await.expect("upstream");
    let address = upstream.address();
    upstream.stop().await;
    address
}

#[tokio::test]
async fn a_dead_upstream_in_a_pool_of_two_is_felt_by_nobody() {
    let alive = Upstream::start("alive").await.expect("upstream");
    let config = Config::new().route(APP, &[gone().await, alive.address()]);
    let baton = Baton::start(config).await;
    let load = every_kind(baton.https(APP)).time(Duration::from_secs(2));
    nobody_felt_anything(&load.start().finish().await);
}

#[tokio::test]
async fn an_upstream_that_stops_in_a_pool_of_two_is_felt_by_nobody() {
    let stays = Upstream::start("stays").await.expect("upstream");
    let goes = Upstream::start("goes").await.expect("upstream");
    let baton = Baton::start(Config::new().route(APP, &[stays.address(), goes.address()])).await;
    // Not every POST can be repeated: a server that closes a kept connection under one is felt.
    let load = http_kinds(baton.https(APP)).post_one_in(0).start();
    more_requests(&load, 500).await;
    goes.stop().await;
    more_requests(&load, 500).await;
    let report = load.stop().await;
    nobody_felt_anything(&report);
    assert!(report.answered_by("goes") > 0, "{report}");
}

#[tokio::test]
async fn an_upstream_that_comes_back_is_used_again() {
    let stays = Upstream::start("stays").await.expect("upstream");
    let goes = Upstream::start("returns").await.expect("upstream");
    let address = goes.address();
    let baton = Baton::start(Config::new().route(APP, &[stays.address(), address])).await;
    goes.stop().await;
    let load = http_kinds(baton.https(APP)).post_one_in(0).start();
    more_requests(&load, 500).await;
    let options = UpstreamOptions {
        name: "returns".into(),
        listen: Some(address),
        ..UpstreamOptions::default()
    };
    let _returns = Upstream::start_with(options).await.expect("upstream");
    baton_tests::until("an answer of the one that returned", Duration::from_secs(30), async || {
        (load.snapshot().answered_by("returns") > 0).then_some(())
    })
    .await;
    nobody_felt_anything(&load.stop().await);
}

#[tokio::test]
async fn a_pool_without_anyone_answers_502_or_503_and_says_when_to_come_again() {
    let baton = Baton::start(routed_to(&gone().await)).await;
    for _ in 0..5 {
        let answer = baton.curl("http://plain.test/").run().await;
        assert!(matches!(answer.status, 502 | 503), "{answer:?}");
        if answer.status == 503 {
            assert!(answer.field("retry-after").is_some(), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_reset_before_the_first_byte_is_a_502_where_nobody_else_can_be_asked() {
    let (baton, _upstream) = crate::in_front_of_one().await;
    let answer = baton.curl("https://app.test/reset").run().await;
    assert_eq!(answer.status, 502, "{answer:?}");
}

#[tokio::test]
async fn a_post_is_sent_once_whatever_happens() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let other = Upstream::start("other").await.expect("upstream");
    let baton = Baton::start(Config::new().route_with(
        PLAIN,
        &[upstream.address(), other.address()],
        "tls = \"off\"",
    ))
    .await;
    let answer = baton.curl("http://plain.test/reset").args(["-d", "order"]).run().await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert_eq!(upstream.requests() + other.requests(), 1);
}

#[tokio::test]
async fn a_silent_upstream_is_a_504() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let config = routed_to(&upstream.address()).section("[timeouts]\nresponse_head = \"300ms\"");
    let baton = Baton::start(config).await;
    let answer = baton.curl("https://app.test/slow?ms=5000").run().await;
    assert_eq!(answer.status, 504, "{answer:?}");
    assert_eq!(baton.curl("https://app.test/slow?ms=10").run().await.status, 200);
}

#[tokio::test]
async fn an_upstream_may_speak_tls() {
    let options = UpstreamOptions { name: "secret".into(), tls: true, ..Default::default() };
    let upstream = Upstream::start_with(options).await.expect("upstream");
    let baton = Baton::start(routed_to(&format!("https://{}", upstream.address()))).await;
    let load = every_kind(baton.https(APP)).time(Duration::from_secs(1));
    nobody_felt_anything(&load.start().finish().await);
    assert!(upstream.requests() > 0);
}

#[tokio::test]
async fn an_upstream_that_speaks_http2_serves_every_kind_of_client() {
    for (scheme, tls) in [("grpc", false), ("grpcs", true)] {
        let options = UpstreamOptions { name: "two".into(), tls, ..Default::default() };
        let upstream = Upstream::start_with(options).await.expect("upstream");
        let baton = Baton::start(routed_to(&format!("{scheme}://{}", upstream.address()))).await;
        let load = http_kinds(baton.https(APP)).time(Duration::from_secs(1));
        nobody_felt_anything(&load.start().finish().await);
    }
}

#[tokio::test]
async fn a_grpc_call_has_its_messages_and_its_trailers() {
    let upstream = Upstream::start("grpc").await.expect("upstream");
    let baton = Baton::start(routed_to(&format!("grpc://{}", upstream.address()))).await;
    let stream = baton.https(APP).connect("h2").await.expect("connection");
    let (requests, connection) = h2::client::handshake(stream).await.expect("handshake");
    let driver = tokio::spawn(connection);
    let mut requests = requests.ready().await.expect("ready");
    let call = |path: &str| {
        Request::builder()
            .version(Version::HTTP_2)
            .method(Method::POST)
            .uri(format!("https://{APP}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("request")
    };

    // Message by message, as in a bidirectional stream.
    let (response, mut out) = requests.send_request(call("/test.Echo/Talk"), false).expect("open");
    let message = |text: &'static str| {
        let length = u32::try_from(text.len()).expect("short").to_be_bytes();
        Bytes::from([&[0], length.as_slice(), text.as_bytes()].concat())
    };
    out.send_data(message("one"), false).expect("send");
    let (head, mut incoming) = response.await.expect("response").into_parts();
    assert_eq!(head.status, 200);
    assert_eq!(incoming.data().await.expect("open").expect("data"), message("one"));
    out.send_data(message("two"), true).expect("send");
    assert_eq!(incoming.data().await.expect("open").expect("data"), message("two"));
    assert!(incoming.data().await.is_none());
    let trailers = incoming.trailers().await.expect("open").expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");

    // An error without a body: its status is in the head ("trailers only").
    let (response, _) = requests.send_request(call("/test.Echo/fail"), true).expect("open");
    let head = response.await.expect("response");
    assert_eq!(head.headers()["grpc-status"], "5");
    driver.abort();
}

#[tokio::test]
async fn a_thousand_connections_do_not_exhaust_an_upstream() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let baton = Baton::start(routed_to(&upstream.address())).await;
    let load = Load::new(baton.http(PLAIN))
        .clients(Kind::Http1KeepAlive, 1000)
        .think(Duration::from_millis(100)..Duration::from_secs(1))
        .time(Duration::from_secs(4));
    nobody_felt_anything(&load.start().finish().await);
}
