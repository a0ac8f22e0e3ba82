//! What a person tells a host to do: pause and maintenance.

use std::time::{Duration, Instant};

use baton_tests::{Baton, exchange};

use crate::stage::get;
use crate::{PLAIN, http_kinds, in_front_of_one, more_requests, nobody_felt_anything};

fn done(baton: &Baton, command: &[&str]) -> String {
    let output = baton.command(command);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(baton: &Baton, command: &[&str]) -> String {
    let output = baton.command(command);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn asked(baton: &Baton) -> String {
    exchange(baton.http_address(), get(PLAIN)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_a_paused_host_wait_until_it_goes_on() {
    let (baton, _upstream) = in_front_of_one().await;
    let load = http_kinds(baton.https(crate::APP)).start();
    more_requests(&load, 100).await;
    assert!(done(&baton, &["pause", "APP.test"]).contains("app.test is paused"));
    let routes = done(&baton, &["routes"]);
    assert!(routes.contains("up (paused until "), "{routes}");
    crate::holds::held(&baton, 8 + 4 + 3 * 4).await;
    // Other hosts do not wait.
    assert!(asked(&baton).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(done(&baton, &["resume", "app.test"]), "app.test goes on\n");
    more_requests(&load, 100).await;
    nobody_felt_anything(&load.stop().await);
    assert!(refused(&baton, &["resume", "app.test"]).contains("app.test is not paused"));
    assert!(refused(&baton, &["pause", "other.test"]).contains("other.test is not routed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_ends_by_itself() {
    let (baton, _upstream) = in_front_of_one().await;
    let begun = Instant::now();
    done(&baton, &["pause", PLAIN, "--max", "500ms"]);
    let answer = asked(&baton).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_answers_for_the_host_and_outlives_a_restart() {
    let (mut baton, upstream) = in_front_of_one().await;
    let page = baton.directory().join("page.html");
    std::fs::write(&page, "<h1>Back at nine</h1>").expect("temp dir");
    let page = page.to_str().expect("UTF-8");
    done(&baton, &["maintenance", PLAIN, "on", "--page", page]);
    for _ in 0..2 {
        let answer = asked(&baton).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.to_lowercase().contains("\r\nretry-after: "), "{answer}");
        assert!(answer.ends_with("<h1>Back at nine</h1>"), "{answer}");
        baton.stop_for_now().await;
        baton.start_again(&crate::routed_to(&upstream.address())).await;
    }
    assert_eq!(done(&baton, &["maintenance", PLAIN, "off"]), format!("{PLAIN} serves again\n"));
    assert!(asked(&baton).await.starts_with("HTTP/1.1 200 "));
    let large = baton.directory().join("large.html");
    std::fs::write(&large, vec![b'x'; 50_000]).expect("temp dir");
    let large = large.to_str().expect("UTF-8");
    let said = refused(&baton, &["maintenance", PLAIN, "on", "--page", large]);
    assert!(said.contains("50000 bytes: a page has up to 49152"), "{said}");
}
