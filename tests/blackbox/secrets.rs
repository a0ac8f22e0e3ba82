//! What a container, a client or a configuration says stays where it belongs: no value ends a line of a
//! header or a log, and no secret is shown.

use std::process::Command;

use baton_load::Upstream;
use baton_tests::{Baton, Config, Docker, baton_binary, exchange, until};

use crate::PLAIN;
use crate::stage::LIMIT;

/// All that people and scripts can ask for, and both logs.
fn all_that_is_shown(baton: &Baton, host: &str) -> String {
    let mut shown = baton.stderr() + &baton.stdout();
    for command in [
        &["status"][..],
        &["status", "--json"],
        &["routes"],
        &["routes", "--json"],
        &["certs"],
        &["certs", "--json"],
        &["why", host],
        &["why", host, "--json"],
        &["reload"],
    ] {
        let output = baton.command(command);
        shown += &String::from_utf8_lossy(&[output.stdout, output.stderr].concat());
    }
    for more in [&[][..], &["--json"]] {
        let output = Command::new(baton_binary())
            .args(["check", "--config"])
            .arg(baton.config_file())
            .args(more)
            .output()
            .expect("baton starts");
        shown += &String::from_utf8_lossy(&[output.stdout, output.stderr].concat());
    }
    shown
}

#[tokio::test]
async fn no_value_of_a_container_ends_a_line() {
    let docker = Docker::connect();
    let baton = Baton::start(Config::new().docker(docker.endpoint())).await;
    let forged = "\n2026-01-01T00:00:00Z ERROR forged\x1b[2J\r\nforged";
    let hosts = format!("lines.test,bad{forged}");
    let labels = [
        ("baton.headers.set.X-Good", "yes"),
        ("baton.headers.set.X-Bad", "a\r\nSet-Cookie: evil=1"),
        ("baton.headers.set.X-Worse\r\nSet-Cookie", "evil=1"),
        ("baton.redirect.to", "302 https://evil.test/\r\nSet-Cookie: evil=1"),
        ("baton.deny", "192.0.2.1\n\nforged"),
        ("baton.rate_limit", forged),
        ("baton.sticky", "cookie a; Domain=evil.test\r\nSet-Cookie: evil=1"),
        ("baton.forged\nforged", forged),
    ];
    let settings = [
        ("VIRTUAL_HOST", hosts.as_str()),
        ("VIRTUAL_PORT", forged),
        ("HSTS", "max-age=1\r\nSet-Cookie: evil=1"),
        ("ACME_HOST", forged),
        ("CERT_NAME", "../../etc\nforged"),
        ("NETWORK_ACCESS", forged),
    ];
    let _container = docker.run("lines", &settings, &labels);
    baton.wait_up("lines.test", 1).await;
    let answer = baton.curl("https://lines.test/").arg("--insecure").run().await;
    assert_eq!((answer.status, answer.field("x-good")), (200, Some("yes")), "{answer:?}");
    assert!(!answer.head.to_ascii_lowercase().contains("evil"), "{answer:?}");
    let shown = all_that_is_shown(&baton, "lines.test");
    assert!(shown.contains("forged"), "nobody is told: {shown}");
    for line in shown.lines() {
        let begins =
            ["2026-01-01", "forged", "Set-Cookie"].iter().any(|word| line.starts_with(word));
        assert!(!begins && !line.contains(['\x1b', '\r']), "{line:?} in {shown}");
    }
}

#[tokio::test]
async fn no_client_writes_a_line_of_the_log() {
    for format in ["combined", "json"] {
        let upstream = Upstream::start("one").await.expect("upstream");
        let config = crate::routed_to(&upstream.address())
            .section(&format!("[log]\nlevel = \"debug\"\naccess = {format:?}"));
        let baton = Baton::start(config).await;
        let requests = [
            "GET /a\"%0aforged HTTP/1.1\r\nHost: plain.test\r\nConnection: close\r\n\
             Referer: x\" \"\t\x1b[2Jforged\r\nUser-Agent: \\\"\u{85}\u{2028}forged\r\n\r\n",
            "GET /b HTTP/1.1\r\nHost: nobody\"forged\r\n\r\n",
            "GET /c\x1b[2J HTTP/1.1\r\nHost: plain.test\r\n\r\n",
            "\x1b[2J\r\nforged\r\n\r\n",
        ];
        for request in requests {
            exchange(baton.http_address(), request).await;
        }
        let lines = async || {
            let said = baton.stdout();
            (said.lines().count() >= requests.len()).then_some(said)
        };
        let said = until("a line for each", LIMIT, lines).await;
        assert_eq!(said.lines().count(), requests.len(), "{said}");
        for text in [said, baton.stderr()] {
            assert!(!text.contains(['\x1b', '\r']), "{text:?}");
            assert!(text.lines().all(|line| !line.starts_with("forged")), "{text}");
        }
    }
}

#[tokio::test]
async fn no_secret_is_shown() {
    const SECRETS: [&str; 6] =
        ["$6$", "s3cret-1", "s3cret-2", "czNjcmV0LTM", "s3cret-4", "s3cret-5"];
    let docker = Docker::connect();
    let upstream = Upstream::start("one").await.expect("upstream");
    // Nobody answers there.
    let acme = "[acme]\nagree_tos = true\ndirectory = \"https://127.0.0.1:1/\"\n\
        eab_kid = \"kid\"\neab_hmac_key = \"czNjcmV0LTMtczNjcmV0LTMtczNjcmV0LTM\"";
    let hash = "$6$salt$hq0gRmEw4n6iwd6wWqbKrQVd0L8TtOv7QwWSsgnXsVlGJVTN4jGvPo2Gi4cKcF6cWbtuuJfMIzLbJMPbVEhUF1";
    let more = format!(
        "tls = \"off\"\nauth.basic = [\"alice:{hash}\"]\n\
         headers.set.X-A = \"s3cret-1\"\nrequest_headers.set.Authorization = \"s3cret-2\""
    );
    let config = Config::new()
        .docker(docker.endpoint())
        .section("[log]\nlevel = \"debug\"\naccess = \"json\"")
        .section(acme)
        .route_with(PLAIN, &[upstream.address()], &more);
    let baton = Baton::start(config).await;
    let labels =
        [("baton.request_headers.set.X-Token", "s3cret-4"), ("baton.auth.basic", "s3cret-5")];
    let settings = [
        ("VIRTUAL_HOST", "hidden.test"),
        ("ACME_EAB_KID", "kid"),
        ("ACME_EAB_HMAC_KEY", "czNjcmV0LTMtczNjcmV0LTMtczNjcmV0LTM"),
    ];
    let _container = docker.run("hidden", &settings, &labels);
    baton.wait_up("hidden.test", 1).await;
    for host in [PLAIN, "hidden.test"] {
        let url = format!("http://{host}/?a=b");
        let field = ["-H", "Cookie: s3cret-1", "-H", "Authorization: Basic s3cret-2"];
        baton.curl(&url).args(field).run().await;
        let shown = all_that_is_shown(&baton, host);
        for secret in SECRETS {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }
}
