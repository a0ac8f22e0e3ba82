//! What a route does beside forwarding, by label and by configuration.

use baton_load::Upstream;
use baton_tests::{Answer, Baton, Config, Docker, Recorder};

async fn get(baton: &Baton, url: &str, version: &str) -> Answer {
    baton.curl(url).args(["--insecure", version]).run().await
}

const VERSIONS: [&str; 2] = ["--http1.1", "--http2"];

#[tokio::test]
async fn a_route_changes_fields_both_ways() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let own = Recorder::start(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nServer: secret/1\r\nX-Twice: a\r\n\r\n",
    )
    .await;
    let config = Config::new()
        .route_with(
            "up.test",
            &[upstream.address()],
            "request_headers.set = { X-Tenant = \"a\" }\nrequest_headers.remove = [\"X-Debug\"]",
        )
        .route_with(
            "down.test",
            &[own.address()],
            "headers.set = { X-Frame-Options = \"DENY\" }\nheaders.add = { X-Twice = \"b\" }\n\
             headers.remove = [\"server\"]",
        );
    let baton = Baton::start(config).await;
    for version in VERSIONS {
        let answer = baton
            .curl("https://up.test/headers")
            .args(["--insecure", version, "--header", "X_Tenant: mallory"])
            .args(["--header", "X-Debug: 1", "--header", "X-Kept: 1"])
            .run()
            .await;
        let seen = answer.text().to_ascii_lowercase();
        assert!(seen.contains("x-tenant") && seen.contains("x-kept"), "{version}: {seen}");
        assert!(!seen.contains("mallory") && !seen.contains("x-debug"), "{version}: {seen}");

        let answer = get(&baton, "https://down.test/", version).await;
        assert_eq!(answer.status, 200, "{version}: {answer:?}");
        assert_eq!(answer.field("x-frame-options"), Some("DENY"), "{version}");
        assert_eq!(answer.field("server"), None, "{version}");
        assert_eq!(answer.fields("x-twice"), ["a", "b"], "{version}");
    }
}

#[tokio::test]
async fn labels_of_a_container_change_fields() {
    let docker = Docker::connect();
    let baton = Baton::start(Config::new().docker(docker.endpoint())).await;
    let labels = [
        ("baton.headers.set.X-Frame-Options", "DENY"),
        ("baton.headers.set.Transfer-Encoding", "chunked"),
        ("baton.request_headers.set.X-Tenant", "a"),
    ];
    let _web = docker.run("web", &[("VIRTUAL_HOST", "fields.test")], &labels);
    baton.wait_up("fields.test", 1).await;
    let answer = get(&baton, "https://fields.test/headers", "--http2").await;
    assert_eq!((answer.status, answer.field("x-frame-options")), (200, Some("DENY")));
    assert!(answer.text().to_ascii_lowercase().contains("x-tenant"), "{answer:?}");
    let diagnoses = baton.routes_json()["diagnoses"].to_string();
    assert!(diagnoses.contains("baton.headers.set.Transfer-Encoding"), "{diagnoses}");
    assert!(!diagnoses.contains("chunked"), "{diagnoses}");
}

#[tokio::test]
async fn a_route_is_open_to_the_networks_that_it_names() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let address = [upstream.address()];
    let config = Config::new()
        .top("trusted_proxies = [\"127.0.0.1\"]")
        .route_with("allow.test", &address, "allow = [\"192.0.2.0/24\"]")
        .route_with("deny.test", &address, "deny = [\"192.0.2.7\"]")
        .route_with("nobody.test", &address, "allow = []");
    let baton = Baton::start(config).await;
    for (host, from, want) in [
        // The peer itself.
        ("allow.test", "", 403),
        ("allow.test", "192.0.2.7", 200),
        ("allow.test", "192.0.2.7, 198.51.100.1", 403),
        ("deny.test", "", 200),
        ("deny.test", "192.0.2.7", 403),
        ("nobody.test", "192.0.2.7", 403),
    ] {
        for version in VERSIONS {
            let curl = baton.curl(&format!("https://{host}/")).args(["--insecure", version]);
            let answer = curl.args(["--header", &format!("X-Forwarded-For: {from}")]).run().await;
            assert_eq!(answer.status, want, "{host} {from} {version}");
        }
    }
}

#[tokio::test]
async fn labels_and_network_access_close_a_container() {
    let docker = Docker::connect();
    let config = Config::new().docker(docker.endpoint()).top("trusted_proxies = [\"127.0.0.1\"]");
    let baton = Baton::start(config).await;
    let internal = [("VIRTUAL_HOST", "internal.test"), ("NETWORK_ACCESS", "internal")];
    let _internal = docker.run("internal", &internal, &[]);
    let _label = docker.run(
        "label",
        &[("VIRTUAL_HOST", "label-access.test")],
        &[("baton.allow", "192.0.2.0/24, 192.0.2.0/33"), ("baton.deny", "192.0.2.7")],
    );
    for (host, from, want) in [
        ("internal.test", "10.1.2.3", 200),
        ("internal.test", "192.0.2.1", 403),
        ("label-access.test", "192.0.2.1", 200),
        ("label-access.test", "192.0.2.7", 403),
        ("label-access.test", "10.1.2.3", 403),
    ] {
        baton.wait_up(host, 1).await;
        let curl = baton.curl(&format!("https://{host}/")).arg("--insecure");
        let answer = curl.args(["--header", &format!("X-Forwarded-For: {from}")]).run().await;
        assert_eq!(answer.status, want, "{host} {from}");
    }
    let diagnoses = baton.routes_json()["diagnoses"].to_string();
    assert!(diagnoses.contains("192.0.2.0/33"), "{diagnoses}");
}
