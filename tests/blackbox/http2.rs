//! HTTP/2 towards the public.

use std::io::Write;
use std::process::Command;

use baton_load::{Pace, Protocol};
use baton_tests::Baton;

use crate::{APP, in_front_of_one};

#[tokio::test]
async fn alpn_chooses_http2() {
    let (baton, _upstream) = in_front_of_one().await;
    let answer = baton.curl("https://app.test/").run().await;
    assert_eq!((answer.status, answer.version.as_str()), (200, "2"), "{answer:?}");
}

#[tokio::test]
async fn prior_knowledge_is_understood_in_the_clear() {
    let (baton, _upstream) = in_front_of_one().await;
    let answer = baton.curl("http://plain.test/").args(["--http2-prior-knowledge"]).run().await;
    assert_eq!((answer.status, answer.version.as_str()), (200, "2"), "{answer:?}");
}

#[tokio::test]
async fn early_hints_reach_the_client() {
    let (baton, _upstream) = in_front_of_one().await;
    let answer = baton.curl("https://app.test/early-hints").run().await;
    assert!(answer.head.starts_with("HTTP/2 103"), "{answer:?}");
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn trailers_reach_the_client() {
    let (baton, _upstream) = in_front_of_one().await;
    let answer = baton.curl("https://app.test/trailers").args(["-H", "TE: trailers"]).run().await;
    assert_eq!(answer.field("x-checked"), Some("yes"), "{answer:?}");
}

/// What h2load tells of requests with these arguments.
async fn h2load(baton: &Baton, arguments: &[&str]) -> String {
    let mut command = Command::new("h2load");
    command.args(["--connect-to", &baton.https_address().to_string()]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    String::from_utf8_lossy(&output.expect("h2load is installed").stdout).into_owned()
}

#[tokio::test]
async fn h2load_finds_every_request_answered() {
    let (baton, _upstream) = in_front_of_one().await;
    let url = format!("https://{APP}/bytes?n=1000");
    let many = ["--requests", "5000", "--clients", "10", "--max-concurrent-streams", "20", &url];
    let text = h2load(&baton, &many).await;
    assert!(text.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    assert!(text.contains("status codes: 5000 2xx"), "{text}");
}

#[tokio::test]
async fn uploads_that_are_answered_early_do_not_end_their_connection() {
    let (baton, _upstream) = in_front_of_one().await;
    let mut file = tempfile::NamedTempFile::new().expect("temp file");
    file.write_all(&baton_load::pattern::bytes(100_000)).expect("temp file");
    let body = file.path().to_str().expect("temp dirs are UTF-8");
    let url = format!("https://{APP}/status?code=200");
    let many = ["--requests=2000", "--clients=1", "--max-concurrent-streams=16", "-d", body, &url];
    let text = h2load(&baton, &many).await;
    assert!(text.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
}

#[tokio::test]
async fn one_slow_stream_does_not_hold_up_the_others() {
    let (baton, _upstream) = in_front_of_one().await;
    let target = baton.https(APP);
    // A stream that is read slowly fills its window; the others must not wait for it.
    let slow = {
        let target = target.clone();
        tokio::spawn(async move {
            baton_load::download(&target, Protocol::Http2, 2_000_000, Pace::at(1_000_000)).await
        })
    };
    for _ in 0..5 {
        baton_load::download(&target, Protocol::Http2, 3_000_000, Pace::free())
            .await
            .expect("download");
    }
    slow.await.expect("no panic").expect("download");
}
