//! Containers to routes: what they say, and where it leads.

use baton_tests::{Baton, Config, Docker, free_addresses};
use serde_json::Value;

async fn watching(docker: &Docker) -> Baton {
    let baton = Baton::start(Config::new().docker(docker.endpoint())).await;
    baton_tests::until(
        "the first list of containers",
        std::time::Duration::from_secs(20),
        async || (baton.status_json()["docker"]["connected"] == true).then_some(()),
    )
    .await;
    baton
}

/// Why a container is not routed.
fn reason(routes: &Value, container: &str) -> Option<String> {
    let unrouted = routes["unrouted"].as_array()?;
    let entry = unrouted.iter().find(|entry| entry["container"] == container)?;
    entry["reason"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn a_container_with_virtual_host_is_reached_over_https() {
    let docker = Docker::connect();
    let baton = watching(&docker).await;
    let _web = docker.run("web", &[("VIRTUAL_HOST", "web.test,*.web.test")], &[]);
    baton.wait_up("web.test", 1).await;
    for host in ["web.test", "any.web.test"] {
        let answer = baton.curl(&format!("https://{host}/")).run().await;
        assert_eq!((answer.status, answer.field("x-upstream")), (200, Some("web")), "{host}");
    }
}

#[tokio::test]
async fn containers_that_were_there_before_are_found() {
    let docker = Docker::connect();
    let _web = docker.run("web", &[("VIRTUAL_HOST", "before.test")], &[]);
    let baton = watching(&docker).await;
    baton.wait_up("before.test", 1).await;
    assert_eq!(baton.curl("https://before.test/").run().await.status, 200);
}

#[tokio::test]
async fn port_path_dest_and_proto_are_obeyed() {
    let docker = Docker::connect();
    let baton = watching(&docker).await;
    let _root = docker.run("root", &[("VIRTUAL_HOST", "paths.test")], &[]);
    let _api = docker.run_options(
        "api",
        &[
            ("VIRTUAL_HOST", "paths.test"),
            ("VIRTUAL_PATH", "/api/"),
            ("VIRTUAL_DEST", "/v1/"),
            ("VIRTUAL_PORT", "8080"),
        ],
        &["--expose", "8080"],
        &["--listen", "0.0.0.0:8080"],
    );
    let _secret = docker.run_options(
        "secret",
        &[("VIRTUAL_HOST", "secret.test"), ("VIRTUAL_PROTO", "https"), ("VIRTUAL_PORT", "443")],
        &[],
        &["--listen", "0.0.0.0:443", "--tls"],
    );
    let _grpc =
        docker.run("grpc", &[("VIRTUAL_HOST", "grpc.test"), ("VIRTUAL_PROTO", "grpc")], &[]);
    baton.wait_up("paths.test", 2).await;
    baton.wait_up("secret.test", 1).await;
    baton.wait_up("grpc.test", 1).await;

    let root = baton.curl("https://paths.test/headers").run().await;
    assert_eq!(
        (root.field("x-upstream"), root.json()["target"].as_str()),
        (Some("root"), Some("/headers"))
    );
    let api = baton.curl("https://paths.test/api/headers").run().await;
    assert_eq!(
        (api.field("x-upstream"), api.json()["target"].as_str()),
        (Some("api"), Some("/v1/headers"))
    );
    let secret = baton.curl("https://secret.test/").run().await;
    assert_eq!(secret.field("x-upstream"), Some("secret"), "{secret:?}");
    let grpc = baton.curl("https://grpc.test/headers").run().await;
    assert_eq!(grpc.json()["version"], "HTTP/2", "{grpc:?}");
}

#[tokio::test]
async fn virtual_host_multiports_leads_to_several_ports() {
    let docker = Docker::connect();
    let baton = watching(&docker).await;
    let multiports = r#"
front.multi.test:
  /:
    port: 8080
  /api/:
    port: "8080"
    dest: /v1/
  /other/:
    port: 9090
  /bad/:
    proto: uwsgi
back.multi.test:
  /:
    port: 8080
"#;
    let environment = [
        ("VIRTUAL_HOST_MULTIPORTS", multiports),
        // Overridden.
        ("VIRTUAL_HOST", "other.multi.test"),
        ("VIRTUAL_PORT", "1"),
    ];
    let _both = docker.run_options("both", &environment, &[], &["--listen", "0.0.0.0:8080"]);
    let unreadable = [("VIRTUAL_HOST_MULTIPORTS", "a: ["), ("VIRTUAL_HOST", "torn.test")];
    let torn = docker.run("torn", &unreadable, &[]);
    baton.wait_up("back.multi.test", 1).await;
    baton.wait_up("front.multi.test", 2).await;
    for (url, target) in [
        ("https://front.multi.test/headers", "/headers"),
        ("https://front.multi.test/api/headers", "/v1/headers"),
        ("https://back.multi.test/headers", "/headers"),
    ] {
        let answer = baton.curl(url).run().await;
        assert_eq!(answer.field("x-upstream"), Some("both"), "{url}");
        assert_eq!(answer.json()["target"], target, "{url}");
    }
    // Nobody listens there.
    assert_eq!(baton.curl("https://front.multi.test/other/").run().await.status, 503);
    assert_eq!(baton.curl("http://other.multi.test/").run().await.status, 503);
    let shown = baton.routes_json().to_string();
    assert!(shown.contains(":9090"), "{shown}");
    let limit = std::time::Duration::from_secs(20);
    let read = async || reason(&baton.routes_json(), torn.name());
    let why = baton_tests::until("the container with torn YAML", limit, read).await;
    let diagnoses = baton.routes_json()["diagnoses"].to_string();
    assert!(diagnoses.contains("uwsgi") && diagnoses.contains("is not supported"), "{diagnoses}");
    assert!(why.starts_with("VIRTUAL_HOST_MULTIPORTS is not YAML"), "{why}");
}

#[tokio::test]
async fn batons_own_labels_win_over_the_environment() {
    let docker = Docker::connect();
    let baton = watching(&docker).await;
    let _web = docker.run(
        "web",
        &[("VIRTUAL_HOST", "environment.test")],
        &[("baton.host", "label.test"), ("baton.path", "/app"), ("baton.strip_prefix", "true")],
    );
    baton.wait_up("label.test", 1).await;
    let answer = baton.curl("https://label.test/app/headers").run().await;
    assert_eq!(answer.json()["target"], "/headers", "{answer:?}");
    let routes = baton.routes_json().to_string();
    assert!(!routes.contains("environment.test"), "{routes}");
}

#[tokio::test]
async fn every_container_is_in_the_routes_or_has_its_reason() {
    let docker = Docker::connect();
    let baton = watching(&docker).await;
    let silent = docker.run("silent", &[], &[]);
    let bad = docker.run("bad", &[("VIRTUAL_HOST", "~(")], &[]);
    let good = docker.run("good", &[("VIRTUAL_HOST", "good.test"), ("VIRTUAL_PORT", "x")], &[]);
    baton_tests::until(
        "three containers accounted for",
        std::time::Duration::from_secs(20),
        async || {
            let routes = baton.routes_json();
            let text = routes.to_string();
            [silent.name(), bad.name(), good.name()]
                .iter()
                .all(|name| text.contains(*name))
                .then_some(())
        },
    )
    .await;
    let routes = baton.routes_json();
    assert!(reason(&routes, silent.name()).is_some(), "{routes}");
    let diagnoses = routes["diagnoses"].to_string();
    assert!(diagnoses.contains("VIRTUAL_PORT"), "{diagnoses}");
    assert!(diagnoses.contains(good.name()), "{diagnoses}");
}

#[tokio::test]
async fn two_containers_of_one_host_are_one_pool() {
    let docker = Docker::connect();
    let baton = watching(&docker).await;
    let _one = docker.run("one", &[("VIRTUAL_HOST", "pool.test")], &[]);
    let _two = docker.run("two", &[("VIRTUAL_HOST", "pool.test")], &[]);
    baton.wait_up("pool.test", 2).await;
    let load = baton_load::Load::new(baton.https("pool.test"))
        .clients(baton_load::Kind::Http1KeepAlive, 2)
        .requests(50);
    let report = load.start().finish().await;
    crate::nobody_felt_anything(&report);
    assert!(report.answered_by("one") > 20 && report.answered_by("two") > 20, "{report}");
}

#[tokio::test]
async fn a_name_claimed_by_two_projects_stays_with_the_first() {
    let docker = Docker::connect();
    let baton = watching(&docker).await;
    let project = "com.docker.compose.project";
    let _first = docker.run("first", &[("VIRTUAL_HOST", "claimed.test")], &[(project, "a")]);
    baton.wait_up("claimed.test", 1).await;
    let second = docker.run("second", &[("VIRTUAL_HOST", "claimed.test")], &[(project, "b")]);
    baton_tests::until(
        "the second one's diagnosis",
        std::time::Duration::from_secs(20),
        async || {
            let routes = baton.routes_json();
            let told = [&routes["diagnoses"], &routes["unrouted"]];
            told.iter().any(|list| list.to_string().contains(second.name())).then_some(())
        },
    )
    .await;
    for _ in 0..5 {
        let answer = baton.curl("https://claimed.test/").run().await;
        assert_eq!(answer.field("x-upstream"), Some("first"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_healthcheck_decides_when_there_is_one() {
    let docker = Docker::connect();
    let baton = watching(&docker).await;
    let web =
        docker.run_checked("web", &[("VIRTUAL_HOST", "health.test")], &["--healthy-after", "1500"]);
    let limit = std::time::Duration::from_secs(20);
    baton_tests::until("the container in the routes", limit, async || {
        baton.routes_json().to_string().contains(web.name()).then_some(())
    })
    .await;
    assert_eq!(baton.upstreams_up("health.test"), 0, "it is not healthy yet");
    let answer = baton.curl("https://health.test/").run().await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.field("retry-after").is_some(), "{answer:?}");
    baton.wait_up("health.test", 1).await;
    assert_eq!(baton.curl("https://health.test/").run().await.status, 200);
    baton.curl("https://health.test/health?set=down").run().await;
    baton.wait_up("health.test", 0).await;
    assert_eq!(baton.curl("https://health.test/").run().await.status, 503);
}

#[tokio::test]
async fn the_host_network_is_reached_at_127_0_0_1() {
    let docker = Docker::connect();
    let baton = watching(&docker).await;
    let [address] = free_addresses();
    let (port, address) = (address.port().to_string(), address.to_string());
    let _web = docker.run_options(
        "web",
        &[("VIRTUAL_HOST", "host.test"), ("VIRTUAL_PORT", &port)],
        &["--network", "host"],
        &["--listen", &address],
    );
    baton.wait_up("host.test", 1).await;
    assert_eq!(baton.curl("https://host.test/").run().await.field("x-upstream"), Some("web"));
}
