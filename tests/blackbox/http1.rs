//! HTTP/1.1 towards the public.

use std::time::Duration;

use baton_load::Kind;
use baton_tests::exchange;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{APP, PLAIN, every_kind, in_front_of_one, nobody_felt_anything};

#[tokio::test]
async fn a_request_reaches_its_upstream_and_the_answer_comes_back() {
    let (baton, _upstream) = in_front_of_one().await;
    let answer = baton.curl("https://app.test/a/b?c=d").args(["--http1.1"]).run().await;
    assert_eq!((answer.status, answer.version.as_str()), (200, "1.1"), "{answer:?}");
    assert_eq!(answer.field("x-upstream"), Some("one"));
}

#[tokio::test]
async fn no_kind_of_client_feels_anything_over_tls() {
    let (baton, _upstream) = in_front_of_one().await;
    let load = every_kind(baton.https(APP)).time(Duration::from_secs(2));
    nobody_felt_anything(&load.start().finish().await);
}

#[tokio::test]
async fn no_kind_of_client_feels_anything_in_the_clear() {
    let (baton, _upstream) = in_front_of_one().await;
    let load = every_kind(baton.http(PLAIN)).time(Duration::from_secs(2));
    nobody_felt_anything(&load.start().finish().await);
}

#[tokio::test]
async fn a_connection_is_kept_between_requests() {
    let (baton, _upstream) = in_front_of_one().await;
    let load = baton_load::Load::new(baton.https(APP)).clients(Kind::Http1KeepAlive, 1);
    let report = load.requests(50).start().finish().await;
    nobody_felt_anything(&report);
    assert_eq!(report.kinds[&Kind::Http1KeepAlive].connections, 1, "{report}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (baton, _upstream) = in_front_of_one().await;
    let mut requests = String::new();
    for number in 0..5 {
        let close = if number == 4 { "Connection: close\r\n" } else { "" };
        requests +=
            &format!("GET / HTTP/1.1\r\nHost: {PLAIN}\r\nX-Nonce: n{number}\r\n{close}\r\n");
    }
    let answer = exchange(baton.http_address(), &requests).await;
    let order: Vec<&str> = answer.lines().filter_map(|line| line.strip_prefix("one ")).collect();
    assert_eq!(order, ["n0", "n1", "n2", "n3", "n4"], "{answer}");
}

#[tokio::test]
async fn connection_close_is_honoured_and_announced() {
    let (baton, _upstream) = in_front_of_one().await;
    let request = format!("GET / HTTP/1.1\r\nHost: {PLAIN}\r\nConnection: close\r\n\r\n");
    let answer = exchange(baton.http_address(), &request).await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 200 "), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn http_1_0_is_answered_without_chunks_and_closed() {
    let (baton, _upstream) = in_front_of_one().await;
    for path in ["/", "/sse?n=2&ms=1"] {
        let request = format!("GET {path} HTTP/1.0\r\nHost: {PLAIN}\r\n\r\n");
        let answer = exchange(baton.http_address(), &request).await;
        assert!(answer.contains(" 200 OK\r\n"), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"), "{answer}");
    }
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let (baton, _upstream) = in_front_of_one().await;
    let request =
        format!("HEAD /bytes?n=1000 HTTP/1.1\r\nHost: {PLAIN}\r\nConnection: close\r\n\r\n");
    let answer = exchange(baton.http_address(), &request).await;
    assert!(answer.to_ascii_lowercase().contains("\r\ncontent-length: 1000\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn expect_100_continue_is_passed_through() {
    let (baton, _upstream) = in_front_of_one().await;
    let mut stream = TcpStream::connect(baton.http_address()).await.expect("baton listens");
    let head = format!(
        "POST /echo HTTP/1.1\r\nHost: {PLAIN}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("baton reads");
    let told = read_head(&mut stream).await;
    assert!(told.starts_with("HTTP/1.1 100 "), "{told}");
    stream.write_all(b"hello").await.expect("baton reads");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.expect("baton closes");
    assert!(rest.starts_with("HTTP/1.1 200 "), "{rest}");
    assert!(rest.ends_with("hello"), "{rest}");
}

#[tokio::test]
async fn an_upstream_may_refuse_before_the_body_is_sent() {
    let (baton, _upstream) = in_front_of_one().await;
    let mut stream = TcpStream::connect(baton.http_address()).await.expect("baton listens");
    let head = format!(
        "POST /status?code=417 HTTP/1.1\r\nHost: {PLAIN}\r\nExpect: 100-continue\r\n\
         Content-Length: 5\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("baton reads");
    let told = read_head(&mut stream).await;
    assert!(told.starts_with("HTTP/1.1 417 "), "{told}");
}

#[tokio::test]
async fn early_hints_reach_the_client() {
    let (baton, _upstream) = in_front_of_one().await;
    let answer = baton.curl("https://app.test/early-hints").args(["--http1.1"]).run().await;
    assert!(answer.head.starts_with("HTTP/1.1 103 "), "{answer:?}");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("link"), Some("</style.css>; rel=preload; as=style"));
}

#[tokio::test]
async fn trailers_reach_the_client() {
    let (baton, _upstream) = in_front_of_one().await;
    let request = format!(
        "GET /trailers HTTP/1.1\r\nHost: {PLAIN}\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n"
    );
    let answer = exchange(baton.http_address(), &request).await.to_ascii_lowercase();
    assert!(answer.ends_with("\r\n0\r\nx-checked: yes\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_head_that_never_ends_is_timed_out() {
    let upstream = baton_load::Upstream::start("one").await.expect("upstream");
    let config = crate::routed_to(&upstream.address()).section("[timeouts]\nheader_read = \"1s\"");
    let baton = baton_tests::Baton::start(config).await;
    let answer =
        exchange(baton.http_address(), format!("GET / HTTP/1.1\r\nHost: {PLAIN}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(upstream.requests(), 0);
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a whole head"));
    }
    String::from_utf8(head).expect("a head is text")
}
