//! Strict-Transport-Security: who is told to come by HTTPS alone.

use baton_load::Upstream;
use baton_tests::{Answer, Baton, Config, Docker, Recorder, self_signed};

const FIELD: &str = "strict-transport-security";

/// A certificate of the operator's own, for every name under example.com.
fn own_certificate(directory: &std::path::Path) -> String {
    self_signed(directory, "*.example.com");
    let path = |name: &str| directory.join(name).display().to_string();
    format!("[[tls.certificate]]\ncert = {:?}\nkey = {:?}", path("cert.pem"), path("key.pem"))
}

async fn get(baton: &Baton, url: &str, version: &str) -> Answer {
    baton.curl(url).args(["--insecure", version]).run().await
}

#[tokio::test]
async fn hsts_comes_with_a_trusted_certificate_over_https_alone() {
    let files = tempfile::tempdir().expect("temp dir");
    let upstream = Upstream::start("one").await.expect("upstream");
    let own = Recorder::start(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nStrict-Transport-Security: max-age=7\r\n\r\n",
    )
    .await;
    let config = Config::new()
        .section(&own_certificate(files.path()))
        .route("usual.example.com", &[upstream.address()])
        .route_with("off.example.com", &[upstream.address()], "hsts = \"off\"")
        .route_with("other.example.com", &[upstream.address()], "hsts = \"max-age=5; preload\"")
        .route("own.example.com", &[own.address()])
        .route("local.test", &[upstream.address()])
        .route_with("plain.example.com", &[upstream.address()], "tls = \"off\"");
    let baton = Baton::start(config).await;
    for (url, want) in [
        ("https://usual.example.com/", Some("max-age=31536000")),
        // A page of baton's own is one of the host, too.
        ("https://usual.example.com/status?code=404", Some("max-age=31536000")),
        ("https://off.example.com/", None),
        ("https://other.example.com/", Some("max-age=5; preload")),
        ("https://own.example.com/", Some("max-age=7")),
        ("https://local.test/", None),
        ("https://nobody.test/", None),
        ("http://usual.example.com/", None),
        ("http://plain.example.com/", None),
    ] {
        for version in ["--http1.1", "--http2"] {
            let answer = get(&baton, url, version).await;
            assert_eq!(answer.field(FIELD), want, "{url} {version}: {answer:?}");
        }
    }

    let said =
        baton.reconfigure(&Config::new().section(&own_certificate(files.path())).route_with(
            "usual.example.com",
            &[upstream.address()],
            "hsts = \"off\"",
        ));
    assert!(said["error"].is_null() && said["handoff"].is_null(), "{said}");
    baton_tests::until("the change", crate::stage::LIMIT, async || {
        let answer = get(&baton, "https://usual.example.com/", "--http2").await;
        answer.field(FIELD).is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn containers_and_the_environment_say_hsts() {
    let docker = Docker::connect();
    let files = tempfile::tempdir().expect("temp dir");
    let config = Config::new()
        .docker(docker.endpoint())
        .section(&own_certificate(files.path()))
        .variable("HSTS", "max-age=11");
    let baton = Baton::start(config).await;
    let _usual = docker.run("usual", &[("VIRTUAL_HOST", "usual-hsts.example.com")], &[]);
    let _variable =
        docker.run("v", &[("VIRTUAL_HOST", "variable-hsts.example.com"), ("HSTS", "off")], &[]);
    let label = [("baton.hsts", "max-age=13")];
    let _label =
        docker.run("l", &[("VIRTUAL_HOST", "label-hsts.example.com"), ("HSTS", "off")], &label);
    for (host, want) in [
        ("usual-hsts.example.com", Some("max-age=11")),
        ("variable-hsts.example.com", None),
        ("label-hsts.example.com", Some("max-age=13")),
    ] {
        baton.wait_up(host, 1).await;
        let answer = get(&baton, &format!("https://{host}/"), "--http2").await;
        assert_eq!((answer.status, answer.field(FIELD)), (200, want), "{host}");
    }
}
