//! What is answered where nobody is routed: unknown names, and paths that nobody claims.

use baton_load::Upstream;
use baton_tests::{Baton, Config, Docker, exchange};

use crate::stage::get;

const HOST: &str = "home.test";

fn at(path: &str, host: &str) -> String {
    get(host).replacen("GET / ", &format!("GET {path} "), 1)
}

#[tokio::test]
async fn unknown_names_are_answered_by_the_default_host() {
    let upstream = Upstream::start("home").await.expect("upstream");
    let named = |config: Config| config.route(HOST, &[upstream.address()]);
    for config in [
        Config::new().top("default_host = \"home.test\""),
        Config::new().variable("DEFAULT_HOST", HOST),
    ] {
        let baton = Baton::start(named(config)).await;
        let plain = exchange(baton.http_address(), get("203.0.113.9")).await;
        assert!(plain.starts_with("HTTP/1.1 200 "), "{plain}");
        let secure = baton.curl("https://nobody.test/").arg("--insecure").run().await;
        assert_eq!((secure.status, secure.field("x-upstream")), (200, Some("home")), "{secure:?}");
        // Its own name is served as ever.
        let own = exchange(baton.http_address(), get(HOST)).await;
        assert!(own.starts_with("HTTP/1.1 301 "), "{own}");
        baton.reconfigure(&named(Config::new().top("default_host = \"other.test\"")));
        baton.wait_said("default host other.test: not routed").await;
        let unknown = exchange(baton.http_address(), get("203.0.113.9")).await;
        assert!(unknown.starts_with("HTTP/1.1 503 "), "{unknown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_that_nobody_claims_are_answered_as_default_root_says() {
    let docker = Docker::connect();
    let config = Config::new().docker(docker.endpoint()).variable("DEFAULT_ROOT", "418");
    let baton = Baton::start(config).await;
    let under = |host, root| {
        [
            ("VIRTUAL_HOST", host),
            ("VIRTUAL_PATH", "/app/"),
            ("HTTPS_METHOD", "noredirect"),
            ("DEFAULT_ROOT", root),
        ]
    };
    let redirect = "302 $scheme://$host/app$request_uri";
    let _usual = docker.run("usual", &under("usual.test", ""), &[]);
    let _elsewhere = docker.run("elsewhere", &under("elsewhere.test", redirect), &[]);
    let _wrong = docker.run("wrong", &under("wrong.test", "200"), &[]);
    for (host, want) in [
        ("usual.test", "HTTP/1.1 418 "),
        ("elsewhere.test", "HTTP/1.1 302 "),
        ("wrong.test", "HTTP/1.1 418 "),
    ] {
        baton.wait_up(host, 1).await;
        let answer = exchange(baton.http_address(), at("/x?y", host)).await;
        assert!(answer.starts_with(want), "{host}: {answer}");
        let claimed = exchange(baton.http_address(), at("/app/x", host)).await;
        assert!(claimed.starts_with("HTTP/1.1 200 "), "{host}: {claimed}");
        if host == "elsewhere.test" {
            let location = "\r\nlocation: http://elsewhere.test/app/x?y\r\n";
            assert!(answer.to_lowercase().contains(location), "{answer}");
        }
    }
    let diagnoses = baton.routes_json()["diagnoses"].to_string();
    assert!(diagnoses.contains("is not a status from 400 to 599"), "{diagnoses}");
}
