//! Certificates that clients have to show: curl and openssl as clients with and without one.

use std::path::Path;
use std::time::Duration;

use baton_load::Upstream;
use baton_tests::{Answer, Baton, ClientCa, Config, Docker, self_signed, until};

use crate::stage::{IdleConnection, LIMIT};
use crate::tls::{s_client, s_client_saying};
use crate::{APP, PLAIN};

const SECURE: &str = "secure.test";

fn verified(ca: &ClientCa, mode: &str) -> String {
    format!("client_ca = {:?}\nclient_auth = {mode:?}", ca.file("ca.pem"))
}

/// curl, with the certificate of a client or without one.
async fn get(baton: &Baton, url: &str, client: Option<&ClientCa>, more: &[&str]) -> Answer {
    let curl = more.iter().fold(baton.curl(url), |curl, argument| curl.arg(*argument));
    let curl = match client {
        Some(ca) => {
            let curl = curl.arg("--cert").arg(ca.file("client.pem"));
            curl.arg("--key").arg(ca.file("client.key"))
        }
        None => curl,
    };
    curl.run().await
}

#[tokio::test]
async fn only_clients_of_the_ca_get_in_where_a_certificate_is_required() {
    let (ours, foreign) = (ClientCa::create().with_client(), ClientCa::create().with_client());
    let upstream = Upstream::start("one").await.expect("upstream");
    let config = crate::routed_to(&upstream.address())
        .route_with(SECURE, &[upstream.address()], &verified(&ours, "required"))
        .route_with("optional.test", &[upstream.address()], &verified(&ours, "optional"));
    let baton = Baton::start(config).await;
    for (host, client, want) in [
        (SECURE, None, 0),
        (SECURE, Some(&foreign), 0),
        (SECURE, Some(&ours), 200),
        ("optional.test", None, 200),
        ("optional.test", Some(&foreign), 0),
        ("optional.test", Some(&ours), 200),
        (APP, None, 200),
        (APP, Some(&foreign), 200),
    ] {
        for version in [["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3", "--tls-max", "1.3"]] {
            let before = upstream.requests();
            let answer = get(&baton, &format!("https://{host}/"), client, &version).await;
            assert_eq!(answer.status, want, "{host} {version:?}: {answer:?}");
            assert_eq!(answer.exit == 0, want == 200, "{host}: {answer:?}");
            assert_eq!(upstream.requests() - before, u64::from(want == 200), "{host}");
        }
    }
    let said = s_client(baton.https_address(), &["-servername", SECURE, "-tls1_2"]).await;
    assert!(said.contains("/CN=clients") || said.contains("CN = clients"), "its CA: {said}");
}

#[tokio::test]
async fn a_connection_that_was_not_verified_for_a_host_is_misdirected() {
    let ours = ClientCa::create().with_client();
    let files = tempfile::tempdir().expect("temp dir");
    // One certificate, so that nothing but the verification keeps the hosts apart.
    self_signed(files.path(), "*.example.com");
    let path = |name: &str| files.path().join(name);
    let upstream = Upstream::start("one").await.expect("upstream");
    let config = Config::new()
        .section(&format!(
            "[[tls.certificate]]\ncert = {:?}\nkey = {:?}",
            path("cert.pem"),
            path("key.pem")
        ))
        .route("open.example.com", &[upstream.address()])
        .route_with("secure.example.com", &[upstream.address()], &verified(&ours, "required"))
        .route_with("optional.example.com", &[upstream.address()], &verified(&ours, "optional"))
        .route_with("same.example.com", &[upstream.address()], &verified(&ours, "required"));
    let baton = Baton::start(config).await;
    for (name, host, want) in [
        ("open", "secure", 421),
        ("open", "optional", 421),
        ("optional", "secure", 421),
        ("secure", "same", 200),
        ("secure", "open", 200),
        ("open", "open", 200),
    ] {
        for version in ["--http2", "--http1.1"] {
            let field = format!("Host: {host}.example.com");
            let more = ["--insecure", version, "-H", &field];
            let url = format!("https://{name}.example.com/");
            let answer = get(&baton, &url, Some(&ours), &more).await;
            assert_eq!(answer.status, want, "{name} {host} {version}: {answer:?}");
        }
    }
    // Without a name in the handshake.
    let request = "GET / HTTP/1.1\r\nHost: secure.example.com\r\nConnection: close\r\n\r\n";
    let arguments = ["-noservername", "-ign_eof"];
    let said = s_client_saying(request.to_owned(), baton.https_address(), &arguments).await;
    assert!(said.contains("HTTP/1.1 421 "), "{said}");
}

#[tokio::test]
async fn a_session_is_not_resumed_past_the_verification() {
    let ours = ClientCa::create().with_client();
    let upstream = Upstream::start("one").await.expect("upstream");
    let open = || Config::new().route(PLAIN, &[upstream.address()]);
    let closed =
        || Config::new().route_with(PLAIN, &[upstream.address()], &verified(&ours, "required"));
    let baton = Baton::start(open()).await;
    let file = |name: &str| baton.directory().join(name).display().to_string();
    let [tls12, tls13] =
        [("-tls1_2", "12.pem"), ("-tls1_3", "13.pem")].map(|(version, name)| (version, file(name)));
    for (version, session) in [&tls12, &tls13] {
        let said = request(&baton, version, &["-sess_out", session]).await;
        assert!(said.contains("HTTP/1.1 200 "), "{said}");
    }
    let worker = baton.worker_pid();
    let said = baton.reconfigure(&closed());
    assert!(said["error"].is_null() && said["handoff"].is_null(), "{said}");
    until("the verification", LIMIT, async || {
        let answer = get(&baton, &format!("https://{PLAIN}/"), None, &[]).await;
        (answer.status == 0).then_some(())
    })
    .await;
    assert_eq!(baton.worker_pid(), worker, "it went live in the worker that runs");
    let (cert, key) = (ours.file("client.pem"), ours.file("client.key"));
    let [cert, key] = [cert, key].map(|path| path.display().to_string());
    for (version, session) in [&tls12, &tls13] {
        let said = request(&baton, version, &["-sess_in", session]).await;
        assert!(!said.contains("HTTP/1.1 200 "), "{version}: {said}");
        let with = ["-sess_in", session, "-cert", &cert, "-key", &key];
        let said = request(&baton, version, &with).await;
        assert!(said.contains("HTTP/1.1 200 "), "{version}: {said}");
        assert!(said.contains("\nNew, TLSv1."), "{version}: {said}");
    }
}

/// What openssl says of a request for [`PLAIN`], with these arguments.
async fn request(baton: &Baton, version: &str, more: &[&str]) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: {PLAIN}\r\nConnection: close\r\n\r\n");
    let arguments = [&[version, "-servername", PLAIN, "-ign_eof"], more].concat();
    s_client_saying(request, baton.https_address(), &arguments).await
}

#[tokio::test]
async fn a_connection_that_is_open_already_is_not_let_past_it() {
    let ours = ClientCa::create();
    let upstream = Upstream::start("one").await.expect("upstream");
    let config = crate::routed_to(&upstream.address());
    let baton = Baton::start(config).await;
    // Over plain HTTP nobody can show a certificate.
    let open = IdleConnection::open(baton.http_address()).await;
    let more = format!("tls = \"off\"\n{}", verified(&ours, "required"));
    let closed = Config::new().route_with(PLAIN, &[upstream.address()], &more);
    assert!(baton.reconfigure(&closed)["error"].is_null());
    until("the verification", LIMIT, async || {
        let answer = baton.curl(&format!("http://{PLAIN}/")).run().await;
        (answer.status == 503).then_some(())
    })
    .await;
    let request = format!("GET / HTTP/1.1\r\nHost: {PLAIN}\r\nConnection: close\r\n\r\n");
    let answer = open.last(&request).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn nobody_gets_in_where_the_ca_cannot_be_read() {
    let ours = ClientCa::create().with_client();
    let upstream = Upstream::start("one").await.expect("upstream");
    let more = "client_ca = \"/nowhere/ca.pem\"";
    let config =
        crate::routed_to(&upstream.address()).route_with(SECURE, &[upstream.address()], more);
    let baton = Baton::start(config).await;
    for client in [None, Some(&ours)] {
        let answer = get(&baton, &format!("https://{SECURE}/"), client, &[]).await;
        assert_eq!(answer.status, 0, "{answer:?}");
    }
    assert!(baton.stderr().contains("/nowhere/ca.pem: cannot be read: "), "{}", baton.stderr());
    assert_eq!(baton.curl(&format!("https://{APP}/")).run().await.status, 200);
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn files_as_nginx_proxy_has_them_are_read_and_labels_heeded() {
    let docker = Docker::connect();
    let (own, all) = (ClientCa::create().with_client(), ClientCa::create().with_client());
    let directory = tempfile::tempdir().expect("temp dir");
    let put =
        |from: &ClientCa, name: &str| copy(&from.file("ca.pem"), &directory.path().join(name));
    put(&own, "own.files.test.ca.crt");
    put(&all, "ca.crt");
    let section = format!("[tls]\nclient_ca_dir = {:?}", directory.path());
    let baton = Baton::start(Config::new().docker(docker.endpoint()).section(&section)).await;
    let label = "com.github.nginx-proxy.nginx-proxy.ssl_verify_client";
    let run = |name: &str, mode: &str| {
        let host = format!("{name}.files.test");
        docker.run(name, &[("VIRTUAL_HOST", host.as_str())], &[(label, mode)])
    };
    let _containers =
        [run("own", ""), run("on", "on"), run("optional", "optional"), run("off", "off")];
    for name in ["own", "on", "optional", "off"] {
        baton.wait_up(&format!("{name}.files.test"), 1).await;
    }
    for (name, client, want) in [
        ("own", None, 0),
        ("own", Some(&all), 0),
        ("own", Some(&own), 200),
        ("on", None, 0),
        ("on", Some(&all), 200),
        ("optional", None, 200),
        ("optional", Some(&own), 0),
        ("optional", Some(&all), 200),
        ("off", None, 200),
    ] {
        let answer = get(&baton, &format!("https://{name}.files.test/"), client, &[]).await;
        assert_eq!(answer.status, want, "{name}: {answer:?}");
    }
    let diagnoses = baton.routes_json()["diagnoses"].to_string();
    assert!(!diagnoses.contains(label), "{diagnoses}");
    // Gone with the next reload.
    std::fs::remove_file(directory.path().join("ca.crt")).expect("remove");
    std::fs::remove_file(directory.path().join("own.files.test.ca.crt")).expect("remove");
    let said = baton.reconfigure(&Config::new().docker(docker.endpoint()).section(&section));
    assert!(said["error"].is_null(), "{said}");
    until("the file's end", Duration::from_secs(20), async || {
        let answer = get(&baton, "https://own.files.test/", None, &[]).await;
        (answer.status == 200).then_some(())
    })
    .await;
    let answer = get(&baton, "https://on.files.test/", Some(&all), &[]).await;
    assert_eq!(answer.status, 0, "a label asks for it and there is no CA: {answer:?}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::copy(from, to).expect("copy");
}
