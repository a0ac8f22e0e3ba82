//! HTTPS_METHOD and its companions: the table of what is answered over plain HTTP and over HTTPS.

use baton_load::Upstream;
use baton_tests::{Answer, Baton, Config, Container, Docker};

/// What a request is answered: over plain HTTP, and over HTTPS.
type Row = (&'static str, u16, u16);

/// A container for the local CA's `NAME.test` and for `NAME.example.com`, which has no certificate.
/// Its names are its test's alone: every baton sees the containers of all tests.
fn run(
    docker: &Docker,
    name: &str,
    settings: &[(&str, &str)],
    labels: &[(&str, &str)],
) -> Container {
    let hosts = format!("{name}.test,{name}.example.com");
    docker.run(name, &[&[("VIRTUAL_HOST", hosts.as_str())], settings].concat(), labels)
}

async fn get(baton: &Baton, url: &str) -> Answer {
    baton.curl(url).arg("--insecure").run().await
}

async fn check(baton: &Baton, rows: &[Row]) {
    for (host, http, https) in rows {
        for (scheme, want) in [("http", *http), ("https", *https)] {
            let answer = get(baton, &format!("{scheme}://{host}/a?b")).await;
            assert_eq!(answer.status, want, "{scheme}://{host}: {answer:?}");
            if want == 301 {
                let to = format!("https://{host}:{}/a?b", baton.https_address().port());
                assert_eq!(answer.field("location"), Some(to.as_str()), "{host}");
            }
        }
    }
}

#[tokio::test]
async fn the_whole_table_by_container() {
    let docker = Docker::connect();
    let baton = Baton::start(Config::new().docker(docker.endpoint())).await;
    let method =
        |name: &str| run(&docker, &format!("{name}-table"), &[("HTTPS_METHOD", name)], &[]);
    let _methods = ["redirect", "noredirect", "nohttp", "nohttps"].map(method);
    let _usual = run(&docker, "usual-table", &[], &[]);
    let _strict = run(&docker, "strict-table", &[("ENABLE_HTTP_ON_MISSING_CERT", "false")], &[]);
    let down = |name, method| {
        let settings = [("VIRTUAL_HOST", name), ("HTTPS_METHOD", method)];
        docker.run_checked("down", &settings, &["--healthy-after", "3600000"])
    };
    let _down = [down("down.test", "redirect"), down("both-down.test", "noredirect")];
    for host in ["redirect", "noredirect", "nohttp", "nohttps", "usual", "strict"] {
        baton.wait_up(&format!("{host}-table.example.com"), 1).await;
    }
    baton_tests::until("the hosts that are down", crate::stage::LIMIT, async || {
        let routes = baton.routes_json().to_string();
        (routes.contains("\"down.test\"") && routes.contains("both-down.test")).then_some(())
    })
    .await;

    check(
        &baton,
        &[
            // There is a certificate.
            ("redirect-table.test", 301, 200),
            ("noredirect-table.test", 200, 200),
            ("nohttp-table.test", 503, 200),
            ("nohttps-table.test", 200, 503),
            ("usual-table.test", 301, 200),
            ("strict-table.test", 301, 200),
            // There is none yet.
            ("redirect-table.example.com", 200, 503),
            ("noredirect-table.example.com", 200, 503),
            ("nohttp-table.example.com", 503, 503),
            ("nohttps-table.example.com", 200, 503),
            ("usual-table.example.com", 200, 503),
            ("strict-table.example.com", 503, 503),
            ("nobody.test", 503, 503),
            ("down.test", 503, 503),
            ("both-down.test", 503, 503),
        ],
    )
    .await;
    for url in ["http://down.test/", "https://down.test/", "http://both-down.test/"] {
        let answer = get(&baton, url).await;
        assert_eq!(answer.field("retry-after"), Some("5"), "{url}: {answer:?}");
    }
    for url in ["http://nobody.test/", "https://nobody.test/"] {
        assert_eq!(get(&baton, url).await.field("retry-after"), None, "{url}: nothing to wait for");
    }
}

#[tokio::test]
async fn methods_with_a_body_are_redirected_as_it_is_said() {
    let docker = Docker::connect();
    let config = Config::new().docker(docker.endpoint()).variable("NON_GET_REDIRECT", "307");
    let baton = Baton::start(config).await;
    let label = [("com.github.nginx-proxy.nginx-proxy.non-get-redirect", "301")];
    let _containers = [
        run(&docker, "global-status", &[], &[]),
        run(&docker, "variable-status", &[("NON_GET_REDIRECT", "308")], &[]),
        run(&docker, "label-status", &[], &label),
        run(&docker, "wrong-status", &[("NON_GET_REDIRECT", "302")], &[]),
        run(&docker, "port-status", &[("EXTERNAL_HTTPS_PORT", "8443")], &[]),
    ];
    for (name, want) in [("global", 307), ("variable", 308), ("label", 301), ("wrong", 307)] {
        let host = format!("{name}-status.test");
        baton.wait_up(&host, 1).await;
        for (method, want) in [("GET", 301), ("HEAD", 301), ("POST", want), ("DELETE", want)] {
            let curl = baton.curl(&format!("http://{host}/"));
            let curl =
                if method == "HEAD" { curl.arg("--head") } else { curl.args(["-X", method]) };
            assert_eq!(curl.run().await.status, want, "{method} {host}");
        }
    }
    baton.wait_up("port-status.test", 1).await;
    let elsewhere = baton.curl("http://port-status.test/x").run().await;
    assert_eq!(elsewhere.field("location"), Some("https://port-status.test:8443/x"));
    let diagnoses = baton.routes_json()["diagnoses"].to_string();
    assert!(diagnoses.contains("is not one of 301, 307 and 308"), "{diagnoses}");
}

#[tokio::test]
async fn the_environment_says_what_holds_for_all_others() {
    let docker = Docker::connect();
    let upstream = Upstream::start("one").await.expect("upstream");
    let rows: [(&str, &str, [Row; 3]); 5] = [
        ("HTTPS_METHOD", "redirect", [("a.test", 301, 200), ("a.example.com", 200, 503), OWN]),
        ("HTTPS_METHOD", "noredirect", [("a.test", 200, 200), ("a.example.com", 200, 503), OWN]),
        ("HTTPS_METHOD", "nohttp", [("a.test", 503, 200), ("a.example.com", 503, 503), OWN]),
        ("HTTPS_METHOD", "nohttps", [("a.test", 200, 503), ("a.example.com", 200, 503), OWN]),
        (
            "ENABLE_HTTP_ON_MISSING_CERT",
            "false",
            [("a.test", 301, 200), ("a.example.com", 503, 503), OWN],
        ),
    ];
    // One that has a word of its own on it.
    const OWN: Row = ("own-method.example.com", 200, 503);
    let own = [("HTTPS_METHOD", "redirect"), ("ENABLE_HTTP_ON_MISSING_CERT", "true")];
    let _own = run(&docker, "own-method", &own, &[]);
    for (name, value, rows) in rows {
        let config = Config::new()
            .docker(docker.endpoint())
            .variable(name, value)
            .route("a.test", &[upstream.address()])
            .route("a.example.com", &[upstream.address()]);
        let baton = Baton::start(config).await;
        baton.wait_up("own-method.example.com", 1).await;
        check(&baton, &rows).await;
        assert_eq!(baton.stop().await.code(), Some(0));
    }
}
