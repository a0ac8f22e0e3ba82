//! TLS towards the public.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use baton_load::Upstream;
use baton_tests::{Baton, Config, self_signed, self_signed_rsa, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{APP, in_front_of_one};

/// What `openssl s_client` says of a handshake.
pub async fn s_client(address: SocketAddr, arguments: &[&str]) -> String {
    s_client_saying("Q\n".to_owned(), address, arguments).await
}

/// The same, with what it shall send before the end of its input.
pub async fn s_client_saying(input: String, address: SocketAddr, arguments: &[&str]) -> String {
    let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
    let run = move || {
        let mut child = Command::new("openssl")
            .arg("s_client")
            .arg("-connect")
            .arg(address.to_string())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl is installed");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    tokio::task::spawn_blocking(run).await.expect("openssl was run")
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let (baton, _upstream) = in_front_of_one().await;
    let address = baton.https_address();
    let new = s_client(address, &["-servername", APP, "-tls1_3", "-brief"]).await;
    assert!(new.contains("TLSv1.3"), "{new}");
    let old = s_client(address, &["-servername", APP, "-tls1_2", "-brief"]).await;
    assert!(old.contains("TLSv1.2"), "{old}");
    assert!(old.contains("ECDHE-"), "{old}");
    let older =
        s_client(address, &["-servername", APP, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]).await;
    assert!(older.contains("Cipher is (NONE)"), "{older}");
}

#[tokio::test]
async fn the_modern_profile_speaks_1_3_alone() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let config = crate::routed_to(&upstream.address()).section("[tls]\nprofile = \"modern\"");
    let baton = Baton::start(config).await;
    let old = s_client(baton.https_address(), &["-servername", APP, "-tls1_2"]).await;
    assert!(old.contains("Cipher is (NONE)"), "{old}");
    assert_eq!(baton.curl("https://app.test/").run().await.status, 200);
}

#[tokio::test]
async fn alpn_that_fits_nothing_is_refused() {
    let (baton, _upstream) = in_front_of_one().await;
    let said = s_client(baton.https_address(), &["-servername", APP, "-alpn", "gopher"]).await;
    assert!(said.contains("no application protocol"), "{said}");
}

#[tokio::test]
async fn the_certificate_follows_the_name() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let files = own_certificate("files.example.com");
    let path = |name: &str| files.path().join(name).display().to_string();
    let config = Config::new()
        .section(&format!(
            "[[tls.certificate]]\ncert = {:?}\nkey = {:?}",
            path("cert.pem"),
            path("key.pem")
        ))
        .route(APP, &[upstream.address()])
        .route("other.test", &[upstream.address()])
        .route("files.example.com", &[upstream.address()]);
    let baton = Baton::start(config).await;
    assert_eq!(baton.curl("https://app.test/").run().await.status, 200);
    assert_eq!(baton.curl("https://other.test/").run().await.status, 200);
    let own = baton.curl("https://files.example.com/");
    assert_eq!(own.arg("--cacert").arg(path("cert.pem")).run().await.status, 200);
}

#[tokio::test]
async fn an_unknown_name_gets_the_default_certificate_and_503() {
    let (baton, _upstream) = in_front_of_one().await;
    let refused = baton.curl("https://nobody.test/").run().await;
    assert_eq!(refused.exit, 60, "curl does not trust it: {refused:?}");
    let taken = baton.curl("https://nobody.test/any/path").arg("--insecure").run().await;
    assert_eq!(taken.status, 503, "{taken:?}");
}

#[tokio::test]
async fn a_session_resumes_with_the_worker_that_began_it_and_with_the_one_after_it() {
    for version in ["-tls1_2", "-tls1_3"] {
        let (baton, _upstream) = in_front_of_one().await;
        let session = baton.directory().join("session.pem");
        let said = request_in_a_session(&baton, version, "-sess_out", &session).await;
        assert!(said.contains("\nNew, TLSv1."), "{version}: {said}");

        let said = request_in_a_session(&baton, version, "-sess_in", &session).await;
        assert!(said.contains("\nReused, TLSv1."), "{version}, the same worker: {said}");

        let old = baton.worker_pid();
        kill(Pid::from_raw(old), Signal::SIGKILL).expect("it is running");
        until("a new worker", Duration::from_secs(5), async || {
            let status = baton.status_json();
            let generation = &status["generations"][0];
            (generation["state"] == "active" && generation["pid"] != old).then_some(())
        })
        .await;
        let said = request_in_a_session(&baton, version, "-sess_in", &session).await;
        assert!(said.contains("\nReused, TLSv1."), "{version}, another worker: {said}");
    }
}

#[tokio::test]
async fn a_session_is_for_the_name_that_it_began_with() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let config =
        Config::new().route(APP, &[upstream.address()]).route("other.test", &[upstream.address()]);
    let baton = Baton::start(config).await;
    let session = baton.directory().join("session.pem");
    for version in ["-tls1_2", "-tls1_3"] {
        request_in_a_session(&baton, version, "-sess_out", &session).await;
        let path = session.to_str().expect("UTF-8");
        let arguments = [version, "-sess_in", path, "-servername", "other.test"];
        let said = s_client(baton.https_address(), &arguments).await;
        assert!(said.contains("\nNew, TLSv1."), "{version}: {said}");
    }
}

/// A request over a connection of its own, whose session is read from or written to this file. It
/// waits for the answer, because TLS 1.3's tickets come after the handshake.
async fn request_in_a_session(baton: &Baton, version: &str, option: &str, file: &Path) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: {APP}\r\nConnection: close\r\n\r\n");
    let file = file.to_str().expect("UTF-8");
    let arguments = [version, option, file, "-servername", APP, "-ign_eof"];
    let said = s_client_saying(request, baton.https_address(), &arguments).await;
    assert!(said.contains("HTTP/1.1 200 "), "{version} {option}: {said}");
    said
}

#[tokio::test]
async fn strict_sni_refuses_the_handshake_of_an_unknown_name() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let config = crate::routed_to(&upstream.address()).section("[tls]\nstrict_sni = true");
    let baton = Baton::start(config).await;
    let said = s_client(baton.https_address(), &["-servername", "nobody.test"]).await;
    assert!(said.contains("unrecognized name"), "{said}");
    assert_eq!(baton.curl("https://app.test/").run().await.status, 200);
}

#[tokio::test]
async fn a_host_beyond_the_certificate_of_the_connection_is_misdirected() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let config =
        Config::new().route(APP, &[upstream.address()]).route("other.test", &[upstream.address()]);
    let baton = Baton::start(config).await;
    for version in ["--http2", "--http1.1"] {
        let answer = baton
            .curl("https://app.test/")
            .arg(version)
            .args(["-H", "Host: other.test"])
            .run()
            .await;
        assert_eq!(answer.status, 421, "{version}: {answer:?}");
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn the_post_quantum_key_exchange_is_preferred() {
    let (baton, _upstream) = in_front_of_one().await;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    // A client that knows both, and one that does not know the new one.
    let [hybrid, classic] = ["X25519MLKEM768", "X25519"].map(|name| {
        let all = rustls::crypto::aws_lc_rs::ALL_KX_GROUPS.iter().copied();
        let mut groups = all.filter(|group| format!("{:?}", group.name()) == name);
        groups.next().expect("the provider knows it")
    });
    for (groups, want) in [(vec![hybrid, classic], "X25519MLKEM768"), (vec![classic], "X25519")] {
        let provider = rustls::crypto::CryptoProvider { kx_groups: groups, ..provider.clone() };
        let config = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has suites for it")
            .with_root_certificates(baton.roots())
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let socket = tokio::net::TcpStream::connect(baton.https_address()).await.expect("connect");
        let name = APP.try_into().expect("a name");
        let stream = connector.connect(name, socket).await.expect("handshake");
        let group = stream.get_ref().1.negotiated_key_exchange_group().expect("a group");
        assert_eq!(format!("{:?}", group.name()), want);
    }
}

#[tokio::test]
async fn a_certificate_with_an_rsa_key_is_served() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let files = tempfile::tempdir().expect("temp dir");
    self_signed_rsa(files.path(), "rsa.example.com");
    let path = |name: &str| files.path().join(name).display().to_string();
    let section =
        format!("[[tls.certificate]]\ncert = {:?}\nkey = {:?}", path("cert.pem"), path("key.pem"));
    let config = Config::new().section(&section).route("rsa.example.com", &[upstream.address()]);
    let baton = Baton::start(config).await;
    for version in ["1.2", "1.3"] {
        let curl = baton.curl("https://rsa.example.com/").arg("--cacert").arg(path("cert.pem"));
        let curl = curl.arg(format!("--tlsv{version}")).args(["--tls-max", version]);
        assert_eq!(curl.run().await.status, 200, "TLS {version}");
    }
}

/// `cert.pem` and `key.pem` of a self-signed certificate for this name.
fn own_certificate(name: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("temp dir");
    self_signed(directory.path(), name);
    directory
}
