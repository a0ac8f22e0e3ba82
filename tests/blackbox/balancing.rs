//! Whose turn it is: by a cookie, by a header field, and by how much one may have at once.

use std::collections::BTreeMap;

use baton_load::Upstream;
use baton_tests::{Answer, Baton, Config, until};

use crate::stage::LIMIT;

const HOST: &str = "pool.test";

type Pool = BTreeMap<String, Upstream>;

async fn three() -> Pool {
    let start =
        async |name: &str| (name.to_owned(), Upstream::start(name).await.expect("upstream"));
    [start("a").await, start("b").await, start("c").await].into()
}

async fn in_front_of(pool: &Pool, more: &str) -> Baton {
    let addresses: Vec<_> = pool.values().map(Upstream::address).collect();
    Baton::start(Config::new().route_with(HOST, &addresses, more)).await
}

async fn ask(baton: &Baton, version: &str, field: &str) -> Answer {
    let url = format!("https://{HOST}/");
    baton.curl(&url).args(["--insecure", version, "--header", field]).run().await
}

fn by(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.field("x-upstream").expect("an upstream answers").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_brings_a_client_back_over_an_upgrade() {
    let mut pool = three().await;
    let baton = in_front_of(&pool, "sticky = \"cookie srv\"").await;
    let first = ask(&baton, "--http2", "X-A: 1").await;
    let told = first.field("set-cookie").expect("a cookie").to_owned();
    let (cookie, attributes) = told.split_once(';').expect("attributes");
    assert_eq!(attributes, " Path=/; HttpOnly; SameSite=Lax; Secure");
    let mine = by(&first);
    let cookie = format!("Cookie: other=1; {cookie}");
    let comes_back = async |baton: &Baton| {
        for version in ["--http1.1", "--http2", "--http1.1", "--http2"] {
            let answer = ask(baton, version, &cookie).await;
            assert_eq!((by(&answer), answer.field("set-cookie")), (mine.clone(), None));
        }
    };
    comes_back(&baton).await;
    let upgrade = baton.command(&["upgrade"]);
    assert!(upgrade.status.success(), "{}", String::from_utf8_lossy(&upgrade.stderr));
    comes_back(&baton).await;

    // Forged, it is as if there was none.
    let forged = ask(&baton, "--http1.1", "Cookie: srv=AAAAAAAAAAAAAAAAAAAA").await;
    assert!(forged.field("set-cookie").is_some_and(|set| set.starts_with("srv=")), "{forged:?}");
    // Theirs is gone: another one, and a cookie for that.
    pool.remove(&mine).expect("one of them").stop().await;
    let moved = ask(&baton, "--http2", &cookie).await;
    assert_ne!(by(&moved), mine);
    assert!(moved.field("set-cookie").is_some_and(|set| set.starts_with("srv=")), "{moved:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_brings_its_user_to_the_same_upstream() {
    let pool = three().await;
    let baton = in_front_of(&pool, "balance = \"header X-User\"").await;
    let mut owners: BTreeMap<String, usize> = BTreeMap::new();
    for user in 0..12 {
        let field = format!("X-User: {user}");
        let owner = by(&ask(&baton, "--http1.1", &field).await);
        assert_eq!(by(&ask(&baton, "--http2", &field).await), owner, "{user}");
        *owners.entry(owner).or_default() += 1;
    }
    assert!(owners.len() > 1, "{owners:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_beside_others_begins_with_a_little() {
    let pool = three().await;
    let addresses: Vec<_> = pool.values().map(Upstream::address).collect();
    // Nearly a tenth for as long as the test lasts.
    let config = |addresses: &[_]| Config::new().route_with(HOST, addresses, "slow_start = \"1h\"");
    let baton = Baton::start(config(&addresses[..2])).await;
    let load = crate::http_kinds(baton.https(HOST)).start();
    crate::more_requests(&load, 100).await;
    // Neither of these is new: the worker began with them.
    let (a, b) = (load.snapshot().answered_by("a"), load.snapshot().answered_by("b"));
    assert!(a.abs_diff(b) * 4 < a + b, "{a} {b}");
    baton.reconfigure(&config(&addresses));
    let before = load.snapshot();
    crate::more_requests(&load, 400).await;
    let report = load.stop().await;
    crate::nobody_felt_anything(&report);
    let since = |name| report.answered_by(name) - before.answered_by(name);
    let (whole, new) = (since("a") + since("b") + since("c"), since("c"));
    // One in 21, where it was one in three.
    assert!((whole / 50..whole / 10).contains(&new), "{new} of {whole}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_has_no_more_requests_at_once_than_it_may() {
    let only = Upstream::start("only").await.expect("upstream");
    let caps = "max_requests = 1\nqueue = 1\nqueue_wait = \"20s\"";
    let baton = Baton::start(Config::new().route_with(HOST, &[only.address()], caps)).await;
    let slow = || {
        let url = format!("https://{HOST}/slow?ms=700");
        let request = baton.curl(&url).args(["--insecure"]);
        tokio::spawn(async move { request.run().await })
    };
    let first = slow();
    until("the first request", LIMIT, async || (only.requests() == 1).then_some(())).await;
    // One of these two waits for the first, the other finds the queue full.
    let (second, third) = (slow(), slow());
    let first = first.await.expect("no panic");
    let mut others = [second.await.expect("no panic"), third.await.expect("no panic")];
    others.sort_by_key(|answer| answer.status);
    assert_eq!((first.status, others[0].status, others[1].status), (200, 200, 503), "{others:?}");
    assert_eq!(others[1].field("retry-after"), Some("5"));
    assert_eq!(only.requests(), 2);
}
