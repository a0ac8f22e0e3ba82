//! Which upstream a request goes to, by routes of the configuration file.

use baton_load::Upstream;
use baton_tests::{Baton, Config};

use crate::{APP, PLAIN, in_front_of_one};

async fn upstreams<const N: usize>(names: [&str; N]) -> Vec<Upstream> {
    let mut upstreams = Vec::new();
    for name in names {
        upstreams.push(Upstream::start(name).await.expect("upstream"));
    }
    upstreams
}

#[tokio::test]
async fn the_most_exact_host_wins() {
    let all = upstreams(["exact", "long", "short", "trailing", "regex"]).await;
    let [exact, long, short, trailing, regex] = all.as_slice() else { panic!("five upstreams") };
    let off = "tls = \"off\"";
    let config = Config::new()
        .route_with("~^r\\d+\\.example\\.org$", &[regex.address()], off)
        .route_with("app.*", &[trailing.address()], off)
        .route_with("*.example.com", &[short.address()], off)
        .route_with("*.deep.example.com", &[long.address()], off)
        .route_with("app.deep.example.com", &[exact.address()], off);
    let baton = Baton::start(config).await;
    for (host, want) in [
        ("app.deep.example.com", "exact"),
        ("APP.deep.Example.com", "exact"),
        ("b.deep.example.com", "long"),
        ("a.b.deep.example.com", "long"),
        ("app.example.com", "short"),
        ("app.example.net", "trailing"),
        ("r12.example.org", "regex"),
    ] {
        let answer = baton.curl(&format!("http://{host}/")).run().await;
        assert_eq!(answer.field("x-upstream"), Some(want), "{host}: {answer:?}");
    }
    assert_eq!(baton.curl("http://rx.example.org/").run().await.status, 503);
}

#[tokio::test]
async fn the_longest_path_wins_and_its_prefix_can_be_stripped() {
    let all = upstreams(["root", "api", "deep"]).await;
    let off = "tls = \"off\"";
    let config = Config::new()
        .route_with(PLAIN, &[all[0].address()], off)
        .route_with(
            PLAIN,
            &[all[1].address()],
            &format!("path = \"/api\"\nstrip_prefix = true\n{off}"),
        )
        .route_with(PLAIN, &[all[2].address()], &format!("path = \"/api/deep\"\n{off}"));
    let baton = Baton::start(config).await;
    for (path, want, target) in [
        ("/headers", "root", "/headers"),
        ("/apple/headers", "root", "/apple/headers"),
        ("/api/headers", "api", "/headers"),
        ("/api/deep/headers", "deep", "/api/deep/headers"),
        ("/api/deeper/headers?q", "api", "/deeper/headers?q"),
    ] {
        let answer = baton.curl(&format!("http://{PLAIN}{path}")).run().await;
        assert_eq!(answer.field("x-upstream"), Some(want), "{path}: {answer:?}");
        assert_eq!(answer.json()["target"], target, "{path}");
    }
}

#[tokio::test]
async fn an_unknown_host_is_a_503_on_every_path() {
    let (baton, upstream) = in_front_of_one().await;
    for path in ["/", "/any", "/any/path?x"] {
        let answer = baton.curl(&format!("http://nobody.test{path}")).run().await;
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn plain_http_is_redirected_where_there_is_a_certificate() {
    let (baton, _upstream) = in_front_of_one().await;
    let answer = baton.curl("http://app.test/a?b=c").run().await;
    assert_eq!(answer.status, 301, "{answer:?}");
    let location = answer.field("location").expect("a location");
    assert!(location.starts_with("https://app.test"), "{location}");
    assert!(location.ends_with("/a?b=c"), "{location}");
    assert_eq!(baton.curl("http://plain.test/").run().await.status, 200);
}

#[tokio::test]
async fn a_pool_takes_turns() {
    let all = upstreams(["one", "two", "three"]).await;
    let addresses: Vec<_> = all.iter().map(Upstream::address).collect();
    let baton = Baton::start(Config::new().route(APP, &addresses)).await;
    let load = baton_load::Load::new(baton.https(APP))
        .clients(baton_load::Kind::Http1KeepAlive, 3)
        .requests(100);
    let report = load.start().finish().await;
    crate::nobody_felt_anything(&report);
    for name in ["one", "two", "three"] {
        let share = report.answered_by(name);
        assert!((80..=120).contains(&share), "{name} answered {share} of 300");
    }
}
