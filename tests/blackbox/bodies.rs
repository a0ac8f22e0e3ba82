//! Bodies in both directions: whole, in time, and without being kept.

use std::io::Write;
use std::time::{Duration, Instant};

use baton_load::{Cause, Pace, Protocol, download, upload};
use baton_tests::{peak, reset_peak};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{APP, PLAIN, in_front_of_one};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_any_size_pass_both_ways_unchanged() {
    let (baton, _upstream) = in_front_of_one().await;
    for target in [baton.https(APP), baton.http(PLAIN)] {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            for bytes in [0, 1, 16_384, 65_537, 10 * MIB] {
                let what = format!("{bytes} bytes over {protocol:?} to {}", target.host);
                download(&target, protocol, bytes, Pace::free())
                    .await
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
                upload(&target, protocol, bytes, Pace::free())
                    .await
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_over_http2_takes_less_than_32_mib_of_memory() {
    let (baton, _upstream) = in_front_of_one().await;
    let target = baton.https(APP);
    // What a first body takes in buffers stays with the allocator.
    download(&target, Protocol::Http2, MIB, Pace::free()).await.expect("download");
    let worker = baton.worker_pid();
    reset_peak(worker);
    let before = peak(worker);
    download(&target, Protocol::Http2, GIB, Pace::free()).await.expect("download");
    let grown = peak(worker).saturating_sub(before);
    assert!(grown < 32 * MIB, "{} KiB more", grown / 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_the_upstream_back() {
    let (baton, _upstream) = in_front_of_one().await;
    let target = baton.https(APP);
    let worker = baton.worker_pid();
    reset_peak(worker);
    let before = peak(worker);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        download(&target, protocol, 64 * MIB, Pace::at(48 * MIB)).await.expect("download");
    }
    let grown = peak(worker).saturating_sub(before);
    assert!(grown < 32 * MIB, "{} KiB more", grown / 1024);
}

#[tokio::test]
async fn server_sent_events_arrive_as_they_are_sent() {
    let (baton, _upstream) = in_front_of_one().await;
    let mut stream = TcpStream::connect(baton.http_address()).await.expect("baton listens");
    let request =
        format!("GET /sse?n=3&ms=400 HTTP/1.1\r\nHost: {PLAIN}\r\nConnection: close\r\n\r\n");
    let began = Instant::now();
    stream.write_all(request.as_bytes()).await.expect("baton reads");
    let mut seen = String::new();
    while !seen.contains("data: event 0\n\n") {
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).await.expect("open");
        assert!(length > 0, "{seen}");
        seen += &String::from_utf8_lossy(&buffer[..length]);
    }
    assert!(began.elapsed() < Duration::from_millis(400), "the first waited for the second");
    assert!(!seen.contains("event 1"), "{seen}");
    stream.read_to_string(&mut seen).await.expect("whole");
    assert!(seen.contains("data: event 2\n\n"), "{seen}");
}

#[tokio::test]
async fn an_upstream_that_dies_within_a_body_is_felt_as_a_cut_and_not_as_an_end() {
    let (baton, _upstream) = in_front_of_one().await;
    for version in ["--http1.1", "--http2"] {
        let answer = baton.curl("https://app.test/cut?n=5000").arg(version).run().await;
        assert_ne!(answer.exit, 0, "{version}: {answer:?}");
    }
}

#[tokio::test]
async fn an_upload_that_is_refused_early_gets_its_answer() {
    let (baton, _upstream) = in_front_of_one().await;
    let mut file = tempfile::NamedTempFile::new().expect("temp file");
    file.write_all(&baton_load::pattern::bytes(200_000)).expect("temp file");
    let body = format!("@{}", file.path().display());
    let curl = baton.curl("https://app.test/status?code=403").args(["--http1.1"]);
    let answer = curl.args(["--data-binary", &body]).run().await;
    assert_eq!(answer.status, 403, "{answer:?}");
}

// Not by curl: 7.88 loses an answer that comes in one read with the RST_STREAM after it.
#[tokio::test]
async fn an_upload_over_http2_that_is_refused_early_gets_its_answer() {
    let (baton, _upstream) = in_front_of_one().await;
    let stream = baton.https(APP).connect("h2").await.expect("connection");
    let (requests, connection) = h2::client::handshake(stream).await.expect("handshake");
    let driver = tokio::spawn(connection);
    let mut requests = requests.ready().await.expect("ready");
    let request = http::Request::post(format!("https://{APP}/status?code=403")).body(());
    let request = request.expect("request");
    let (response, mut upload) = requests.send_request(request, false).expect("open");
    upload.send_data(baton_load::pattern::piece(0, 50_000), false).expect("send");
    let (head, mut body) = response.await.expect("response").into_parts();
    assert_eq!(head.status, 403);
    assert_eq!(body.data().await.expect("open").expect("data"), "403\n");
    let reset = std::future::poll_fn(|cx| upload.poll_reset(cx)).await;
    assert_eq!(reset.expect("told to stop"), h2::Reason::NO_ERROR);
    driver.abort();
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_with_413() {
    let upstream = baton_load::Upstream::start("one").await.expect("upstream");
    let config = crate::routed_to(&upstream.address()).section("[limits]\nbody_bytes = 1000");
    let baton = baton_tests::Baton::start(config).await;
    let target = baton.https(APP);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        upload(&target, protocol, 1000, Pace::free()).await.expect("within the limit");
        let failure =
            upload(&target, protocol, 1001, Pace::free()).await.expect_err("beyond the limit");
        assert_eq!(failure.cause, Cause::WrongStatus, "{failure}");
        assert_eq!(failure.text, "413");
    }
}
