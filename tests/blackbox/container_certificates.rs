//! What containers say of their certificates: a real Docker, and a real CA with its faults on.

use std::path::Path;
use std::time::Duration;

use baton_load::Upstream;
use baton_tests::{Baton, Config, Docker, Pebble, PebbleOptions, self_signed, until};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::stage::{IdleConnection, LIMIT};
use crate::tls::s_client;

/// Pebble takes up to 5 s before it looks, and 5 % of nonces cost a round more.
const ISSUE_LIMIT: Duration = Duration::from_secs(60);

/// A baton that watches Docker, and a CA that looks at its ports. Nothing is ordered but what is below
/// `domain`: every baton sees the containers of all tests.
async fn site(docker: &Docker, domain: &str, acme: &str) -> (Baton, Pebble) {
    site_with(docker, domain, acme, PebbleOptions::default()).await
}

async fn site_with(
    docker: &Docker,
    domain: &str,
    acme: &str,
    options: PebbleOptions,
) -> (Baton, Pebble) {
    // The CA has to know the ports, and baton the CA: the ports come first.
    let baton = Baton::start(Config::new().docker(docker.endpoint())).await;
    let pebble = Pebble::start_with(&baton, options).await;
    let section = format!("{}\nallow = [\"*.{domain}\"]\n{acme}", pebble.acme());
    let said = baton.reconfigure(&Config::new().docker(docker.endpoint()).section(&section));
    assert!(said["error"].is_null(), "{said}");
    (baton, pebble)
}

/// The names of every certificate that a CA has issued.
fn issued(baton: &Baton) -> Vec<Value> {
    let list = baton.certs_json();
    let list = list.as_array().expect("a list").iter();
    let issued = list.filter(|entry| entry["kind"] == "acme" && entry["state"] == "valid");
    issued.map(|entry| entry["names"].clone()).collect()
}

async fn wait_issued(baton: &Baton, count: usize) -> Vec<Value> {
    until(&format!("{count} certificates"), ISSUE_LIMIT, async || {
        Some(issued(baton)).filter(|issued| issued.len() == count)
    })
    .await
}

async fn status(baton: &Baton, pebble: &Pebble, name: &str) -> u16 {
    let curl = baton.curl(&format!("https://{name}/"));
    curl.arg("--cacert").arg(pebble.root_file()).run().await.status
}

#[tokio::test]
async fn a_container_binds_the_account_to_one_that_the_ca_knows() {
    let docker = Docker::connect();
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let external_accounts = vec![("kid-2".to_owned(), key.to_owned())];
    let options = PebbleOptions { external_accounts, sleeps: false, ..PebbleOptions::default() };
    let (baton, pebble) = site_with(&docker, "eab.example.com", "", options).await;
    let host = "a.eab.example.com";
    let _web = docker.run(
        "bound",
        &[("VIRTUAL_HOST", host), ("ACME_EAB_KID", "kid-2"), ("ACME_EAB_HMAC_KEY", key)],
        &[],
    );
    wait_issued(&baton, 1).await;
    until("a trusted answer", LIMIT, async || {
        (status(&baton, &pebble, host).await == 200).then_some(())
    })
    .await;
    let shown = [baton.stderr(), baton.stdout(), baton.routes_json().to_string()].concat();
    assert!(!shown.contains(key), "{shown}");
}

#[tokio::test]
async fn the_names_that_a_container_lists_are_one_certificate_with_the_key_it_wants() {
    let docker = Docker::connect();
    let (baton, pebble) = site(&docker, "san.example.com", "automatic = false").await;
    let _web = docker.run(
        "web",
        &[
            ("VIRTUAL_HOST", "a.san.example.com,b.san.example.com,c.san.example.com"),
            ("ACME_HOST", "a.san.example.com,b.san.example.com,gone.san.example.com"),
            ("ACME_KEYSIZE", "2048"),
            ("ACME_CHALLENGE", "TLS-ALPN-01"),
        ],
        &[],
    );
    let names = wait_issued(&baton, 1).await;
    assert_eq!(names, [serde_json::json!(["a.san.example.com", "b.san.example.com"])]);
    for (name, want) in
        [("a.san.example.com", 200), ("b.san.example.com", 200), ("c.san.example.com", 0)]
    {
        assert_eq!(status(&baton, &pebble, name).await, want, "{name}");
    }
    assert_eq!(pebble.orders(), 1);
    let pem = baton.directory().join("state/acme/certificates/a.san.example.com.pem");
    let said = openssl_text(&pem);
    assert!(said.contains("Public-Key: (2048 bit)") && said.contains("rsaEncryption"), "{said}");
    let diagnoses = baton.routes_json()["diagnoses"].to_string();
    assert!(diagnoses.contains("gone.san.example.com") && diagnoses.contains("is not routed"));
}

#[tokio::test]
async fn a_container_chooses_a_certificate_by_its_name() {
    let docker = Docker::connect();
    let files = tempfile::tempdir().expect("temp dir");
    self_signed(files.path(), "shared.example.com");
    let path = |name: &str| files.path().join(name).display().to_string();
    let section =
        format!("[[tls.certificate]]\ncert = {:?}\nkey = {:?}", path("cert.pem"), path("key.pem"));
    let baton = Baton::start(Config::new().docker(docker.endpoint()).section(&section)).await;
    let run = |name: &str, certificate: &str| {
        let host = format!("{name}.named.test");
        docker.run(name, &[("VIRTUAL_HOST", host.as_str()), ("CERT_NAME", certificate)], &[])
    };
    let _there = run("there", "shared.example.com");
    let gone = run("gone", "gone.example.com");
    for (name, https, http) in [("there", 200, 301), ("gone", 503, 200)] {
        let host = format!("{name}.named.test");
        baton.wait_up(&host, 1).await;
        let get = |scheme| baton.curl(&format!("{scheme}://{host}/")).arg("--insecure").run();
        assert_eq!((get("https").await.status, get("http").await.status), (https, http), "{name}");
    }
    let arguments = ["-servername", "there.named.test", "-brief"];
    let said = s_client(baton.https_address(), &arguments).await;
    assert!(said.contains("shared.example.com"), "{said}");
    let routes = baton.routes_json();
    let diagnoses = routes["diagnoses"].as_array().expect("a list");
    let told = diagnoses.iter().find(|diagnosis| diagnosis["container"] == gone.name());
    let told = told.expect("its diagnosis");
    assert_eq!(
        (&told["setting"], &told["value"]),
        (&"CERT_NAME".into(), &"gone.example.com".into())
    );
    assert_eq!(told["problem"], "is not a certificate that there is: no HTTPS for gone.named.test");
}

fn openssl_text(certificate: &Path) -> String {
    let mut command = std::process::Command::new("openssl");
    let output = command.args(["x509", "-noout", "-text", "-in"]).arg(certificate).output();
    String::from_utf8_lossy(&output.expect("openssl is installed").stdout).into_owned()
}

#[tokio::test]
async fn single_domain_certificates_and_a_ca_of_the_containers_own() {
    let docker = Docker::connect();
    let (baton, pebble) = site(&docker, "single.example.com", "automatic = false").await;
    // The configuration's CA cannot be reached any more; the container's is the one that runs.
    let acme = format!(
        "[acme]\nagree_tos = true\npreflight = false\nallow = [\"*.single.example.com\"]\nautomatic = false\ndirectory = \"https://127.0.0.1:9/\"\n\
         ca_file = {:?}",
        pebble.ca_file()
    );
    baton.reconfigure(&Config::new().docker(docker.endpoint()).section(&acme));
    let directory = pebble.directory();
    let _web = docker.run(
        "web",
        &[
            ("VIRTUAL_HOST", "a.single.example.com,b.single.example.com"),
            ("LETSENCRYPT_HOST", "a.single.example.com,b.single.example.com"),
            ("ACME_SINGLE_DOMAIN_CERTS", "true"),
            ("ACME_CA_URI", directory.as_str()),
        ],
        &[],
    );
    let names = wait_issued(&baton, 2).await;
    assert_eq!(
        names,
        [["a.single.example.com"], ["b.single.example.com"]].map(|names| serde_json::json!(names))
    );
}

#[tokio::test]
async fn a_challenge_is_answered_in_every_https_method() {
    let docker = Docker::connect();
    let (baton, pebble) = site(&docker, "methods.example.com", "challenges = [\"http-01\"]").await;
    let methods = ["redirect", "noredirect", "nohttp", "nohttps"];
    let _containers = methods.map(|method| {
        let host = format!("{method}.methods.example.com");
        let host = host.as_str();
        // Without HTTPS a certificate is ordered where it is asked for by name alone.
        let environment = [("VIRTUAL_HOST", host), ("ACME_HOST", host), ("HTTPS_METHOD", method)];
        docker.run(method, &environment, &[])
    });
    wait_issued(&baton, 4).await;
    assert_eq!(pebble.orders(), 4, "none failed");
}

#[tokio::test]
async fn a_draining_worker_answers_the_challenge_of_an_order_that_began_after_it() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let route = || Config::new().route_with("plain.test", &[upstream.address()], "tls = \"off\"");
    let baton = Baton::start(route()).await;
    let pebble = Pebble::start(&baton).await;
    // The CA looks where nobody answers, so that the order stays under way.
    let port = baton.http_address().port();
    let _silent = TcpListener::bind(("127.0.0.2", port)).await.expect("another address");
    pebble.resolve("app.example.com", "127.0.0.2");
    let idle = IdleConnection::open(baton.http_address()).await;
    let section = format!("{}\nchallenges = [\"http-01\"]", pebble.acme());
    let config = route()
        .top("balance = \"least-loaded\"")
        .section(&section)
        .route("app.example.com", &[upstream.address()]);
    let said = baton.reconfigure(&config);
    assert!(!said["handoff"].is_null(), "{said}");
    let order = baton.directory().join("state/acme/orders/app.example.com.json");
    let (token, answer) = until("an answer to a challenge", ISSUE_LIMIT, async || {
        let order: Value = serde_json::from_slice(&std::fs::read(&order).ok()?).ok()?;
        let answer = &order["answers"][0];
        let text = |key: &str| answer[key].as_str().map(str::to_owned);
        Some((text("token")?, text("key_authorization")?))
    })
    .await;
    let path = format!("/.well-known/acme-challenge/{token}");
    until("the active worker's answer", LIMIT, async || {
        let got = baton.curl(&format!("http://app.example.com{path}")).run().await;
        (got.status == 200 && got.text() == answer).then_some(())
    })
    .await;
    let states = baton.status_json()["generations"].to_string();
    assert!(states.contains("draining"), "{states}");
    let request = format!("GET {path} HTTP/1.1\r\nHost: app.example.com\r\n\r\n");
    let got = idle.last(&request).await.expect("an answer of the old worker");
    assert!(got.starts_with("HTTP/1.1 200 ") && got.ends_with(&answer), "{got}");
    assert!(got.to_lowercase().contains("connection: close"), "{got}");
}
