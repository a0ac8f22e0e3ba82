//! Changes of the configuration under load.

use std::time::Duration;

use baton_load::Upstream;
use nix::sys::signal::Signal;

use crate::{APP, every_kind, in_front_of_one, more_requests, nobody_felt_anything, routed_to};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_come_and_go_20_times_and_nobody_feels_it() {
    let (baton, upstream) = in_front_of_one().await;
    let load = every_kind(baton.https(APP)).start();
    let without = routed_to(&upstream.address());
    let with = without.clone().route("extra.test", &[upstream.address()]);
    for _ in 0..20 {
        baton.reconfigure(&with);
        assert_eq!(baton.curl("https://extra.test/").run().await.status, 200);
        more_requests(&load, 50).await;
        baton.reconfigure(&without);
        let answer = baton.curl("https://extra.test/").arg("--insecure").run().await;
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    nobody_felt_anything(&load.stop().await);
}

#[tokio::test]
async fn a_pool_that_changes_moves_its_requests() {
    let (baton, _one) = in_front_of_one().await;
    let two = Upstream::start("two").await.expect("upstream");
    let load = crate::http_kinds(baton.https(APP)).start();
    more_requests(&load, 300).await;
    baton.reconfigure(&routed_to(&two.address()));
    let before = load.snapshot();
    more_requests(&load, 300).await;
    let report = load.stop().await;
    nobody_felt_anything(&report);
    // Those in progress at the change may still be the old one's.
    let late = report.answered_by("one") - before.answered_by("one");
    assert!(late <= 30, "{late} requests went to the old upstream after the change");
    assert!(report.answered_by("two") > 0, "{report}");
}

#[tokio::test]
async fn sighup_reloads_too() {
    let (baton, upstream) = in_front_of_one().await;
    let config = routed_to(&upstream.address()).route("extra.test", &[upstream.address()]);
    baton.write_config(&config);
    baton.signal(Signal::SIGHUP);
    baton.wait_up("extra.test", 1).await;
    assert_eq!(baton.curl("https://extra.test/").run().await.status, 200);
}

#[tokio::test]
async fn a_configuration_with_mistakes_is_refused_and_the_old_one_serves_on() {
    let (baton, upstream) = in_front_of_one().await;
    let broken = routed_to(&upstream.address()).section("[limts]\nstreams = 1").top("thread = 2");
    let said = baton.reconfigure(&broken).to_string();
    for word in ["limts", "limits", "threads"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    assert_eq!(baton.curl("https://app.test/").run().await.status, 200);
}

#[tokio::test]
async fn sigterm_finishes_what_is_in_progress() {
    for version in ["--http1.1", "--http2"] {
        let (baton, upstream) = in_front_of_one().await;
        let worker = baton.worker_pid();
        let slow = tokio::spawn(baton.curl("https://app.test/slow?ms=1500").arg(version).run());
        baton_tests::until("the slow request", Duration::from_secs(5), async || {
            (upstream.requests() == 1).then_some(())
        })
        .await;
        let status = baton.stop().await;
        assert!(status.success(), "{status}");
        let answer = slow.await.expect("no panic");
        assert_eq!(answer.status, 200, "{version}: {answer:?}");
        assert!(!std::path::Path::new(&format!("/proc/{worker}")).exists(), "the worker is left");
    }
}
