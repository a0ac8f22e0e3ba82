//! What an upstream sees of a request's head.

use std::time::Duration;

use baton_load::Upstream;
use baton_tests::{Answer, Baton};
use serde_json::Value;

use crate::{in_front_of_one, routed_to};

/// The values of a field as the upstream saw them.
fn seen(answer: &Answer, name: &str) -> Vec<String> {
    let head = answer.json();
    let fields = head["fields"].as_array().expect("a list of fields");
    fields
        .iter()
        .filter(|field| field[0].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name)))
        .filter_map(|field| field[1].as_str().map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn the_request_line_and_host_stay_as_they_were() {
    let (baton, _upstream) = in_front_of_one().await;
    for version in ["--http1.1", "--http2"] {
        let answer = baton.curl("https://app.test/a%2Fb/../headers?x=%20&y").arg("--path-as-is");
        let answer = answer.arg(version).run().await;
        let head = answer.json();
        assert_eq!(head["method"], "GET", "{version}");
        assert_eq!(head["target"], "/a%2Fb/../headers?x=%20&y", "{version}");
        assert_eq!(head["version"], "HTTP/1.1", "{version}");
        assert_eq!(seen(&answer, "host"), ["app.test"], "{version}");
    }
}

#[tokio::test]
async fn the_client_is_told_of_in_the_forwarded_fields() {
    let (baton, _upstream) = in_front_of_one().await;
    for version in ["--http1.1", "--http2"] {
        let answer = baton.curl("https://app.test/headers").arg(version).run().await;
        let port = baton.https_address().port().to_string();
        for (name, want) in [
            ("x-forwarded-for", "127.0.0.1"),
            ("x-real-ip", "127.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "app.test"),
        ] {
            assert_eq!(seen(&answer, name), [want], "{version}: {name}");
        }
        let told = seen(&answer, "x-forwarded-port");
        assert!(told == ["443"] || told == [port], "{version}: {told:?}");
        let forwarded = seen(&answer, "forwarded").join(", ");
        assert!(forwarded.contains("for=127.0.0.1"), "{version}: {forwarded}");
        assert!(forwarded.contains("proto=https"), "{version}: {forwarded}");
    }
    let answer = baton.curl("http://plain.test/headers").run().await;
    assert_eq!(seen(&answer, "x-forwarded-proto"), ["http"]);
}

const CLAIMS: [&str; 10] = [
    "-H",
    "X-Forwarded-For: 192.0.2.1",
    "-H",
    "X-Forwarded-Proto: gopher",
    "-H",
    "X-Real-IP: 192.0.2.1",
    "-H",
    "Forwarded: for=192.0.2.1",
    "-H",
    "X-Forwarded-Host: evil.test",
];

#[tokio::test]
async fn what_a_stranger_says_of_itself_is_replaced() {
    let (baton, _upstream) = in_front_of_one().await;
    let answer = baton.curl("https://app.test/headers").args(CLAIMS).run().await;
    assert_eq!(seen(&answer, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen(&answer, "x-forwarded-proto"), ["https"]);
    assert_eq!(seen(&answer, "x-real-ip"), ["127.0.0.1"]);
    assert_eq!(seen(&answer, "x-forwarded-host"), ["app.test"]);
    assert!(!answer.text().contains("192.0.2.1"), "{}", answer.text());
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_added_to() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let config = routed_to(&upstream.address())
        .top("trusted_proxies = [\"127.0.0.0/8\"]")
        .section("[log]\naccess = \"json\"");
    let baton = Baton::start(config).await;
    let answer = baton.curl("https://app.test/headers").args(CLAIMS).run().await;
    assert_eq!(seen(&answer, "x-forwarded-for").join(", "), "192.0.2.1, 127.0.0.1");
    let logged = async || baton.stdout().contains("\"client\":\"192.0.2.1\"").then_some(());
    baton_tests::until("the line of the client", Duration::from_secs(10), logged).await;
}

#[tokio::test]
async fn hop_by_hop_fields_and_proxy_go_no_further() {
    let (baton, _upstream) = in_front_of_one().await;
    let answer = baton
        .curl("https://app.test/headers")
        .args(["--http1.1", "-H", "Connection: keep-alive, X-Hop", "-H", "X-Hop: 1"])
        .args(["-H", "Keep-Alive: timeout=5", "-H", "Proxy: http://evil.test"])
        .args(["-H", "Proxy-Connection: keep-alive", "-H", "X-Stays: 1"])
        .run()
        .await;
    for name in ["x-hop", "keep-alive", "proxy", "proxy-connection"] {
        assert_eq!(seen(&answer, name), Vec::<String>::new(), "{name}");
    }
    assert_eq!(seen(&answer, "x-stays"), ["1"]);
}

#[tokio::test]
async fn cookies_of_http2_become_one_field() {
    let (baton, _upstream) = in_front_of_one().await;
    let answer = baton.curl("https://app.test/headers").args(["-b", "a=1; b=2; c=3"]).run().await;
    assert_eq!(seen(&answer, "cookie"), ["a=1; b=2; c=3"]);
}

#[tokio::test]
async fn a_head_beyond_the_limits_is_refused_with_431() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let config =
        routed_to(&upstream.address()).section("[limits]\nheader_bytes = 4096\nheader_count = 30");
    let baton = Baton::start(config).await;
    let long = format!("X-Long: {}", "a".repeat(5000));
    let request = format!("GET / HTTP/1.1\r\nHost: plain.test\r\n{long}\r\n\r\n");
    let answer = baton_tests::exchange(baton.http_address(), &request).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many: String = (0..40).map(|number| format!("X-{number}: a\r\n")).collect();
    let request = format!("GET / HTTP/1.1\r\nHost: plain.test\r\n{many}\r\n");
    let answer = baton_tests::exchange(baton.http_address(), &request).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn pages_of_batons_own_name_no_version_and_are_json_where_asked() {
    let (baton, _upstream) = in_front_of_one().await;
    let page = baton.curl("http://nobody.test/").run().await;
    assert_eq!(page.status, 503);
    for text in [page.head.to_ascii_lowercase(), page.text().to_ascii_lowercase()] {
        assert!(!text.contains(env!("CARGO_PKG_VERSION")), "{text}");
    }
    let json =
        baton.curl("http://nobody.test/").args(["-H", "Accept: application/json"]).run().await;
    assert_eq!(json.status, 503);
    assert_ne!(json.json(), Value::Null);
}
