//! Certificates that others have got: read in place or imported, they are used in place of an order.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use baton_load::Upstream;
use baton_tests::{Baton, Config, Pebble, PebbleOptions, baton_binary, until};
use serde_json::Value;

const ISSUE_LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "app.example.com";

/// A certificate of the name for so many days, in a directory of certbot's.
fn certbot(directory: &Path, name: &str, days: &str) {
    let live = directory.join("live").join(name);
    fs::create_dir_all(&live).expect("mkdir");
    issue(name, days, &live.join("fullchain.pem"), &live.join("privkey.pem"));
}

fn issue(name: &str, days: &str, cert: &Path, key: &Path) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-nodes", "-subj", "/CN=somebody else", "-days", days])
        .args(["-addext", &format!("subjectAltName=DNS:{name}"), "-keyout"])
        .arg(key)
        .arg("-out")
        .arg(cert)
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "{output:?}");
}

/// Serves the name, with a CA at hand that nobody needs.
async fn serving(tls: &str) -> (Baton, Pebble, Upstream) {
    let upstream = Upstream::start("one").await.expect("upstream");
    let baton = Baton::start(Config::new().route("first.test", &[upstream.address()])).await;
    let pebble = Pebble::start_with(&baton, PebbleOptions::default()).await;
    reconfigure(&baton, &pebble, &upstream, tls);
    (baton, pebble, upstream)
}

fn reconfigure(baton: &Baton, pebble: &Pebble, upstream: &Upstream, tls: &str) {
    let config = Config::new().section(&pebble.acme()).section(tls);
    let said = baton.reconfigure(&config.route(NAME, &[upstream.address()]));
    assert!(said["error"].is_null(), "{said}");
}

fn states(baton: &Baton, name: &str) -> Vec<(String, String)> {
    let list = baton.certs_json();
    let of_name = |entry: &&Value| entry["names"][0] == name;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = list.as_array().expect("a list").iter().filter(of_name);
    list.map(|entry| (text(&entry["kind"]), text(&entry["state"]))).collect()
}

fn import(baton: &Baton, directory: &Path) -> Output {
    let mut command = Command::new(baton_binary());
    command.args(["certs", "--import"]).arg(directory).arg("--config").arg(baton.config_file());
    command.output().expect("baton starts")
}

#[tokio::test]
async fn certificates_of_certbot_are_read_in_place_and_nothing_is_ordered() {
    let directory = tempfile::tempdir().expect("temp dir");
    certbot(directory.path(), NAME, "90");
    let dirs = format!("[tls]\ncertificate_dirs = [{:?}]", directory.path());
    let (baton, pebble, upstream) = serving(&dirs).await;
    assert_eq!(states(&baton, NAME), [("file".to_owned(), "valid".to_owned())]);
    let chain = directory.path().join("live").join(NAME).join("fullchain.pem");
    let answer = baton.curl(&format!("https://{NAME}/")).arg("--cacert").arg(chain).run().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // What a name needs that has none is ordered, so that the CA could have been asked for it.
    let config = Config::new().section(&pebble.acme()).section(&dirs);
    let config =
        config.route(NAME, &[upstream.address()]).route("b.example.com", &[upstream.address()]);
    baton.reconfigure(&config);
    until("another certificate", ISSUE_LIMIT, async || {
        let valid = [("acme".to_owned(), "valid".to_owned())];
        (states(&baton, "b.example.com") == valid).then_some(())
    })
    .await;
    assert_eq!(pebble.orders(), 1);
}

#[tokio::test]
async fn one_that_nobody_renews_is_ordered_and_serves_until_then() {
    let directory = tempfile::tempdir().expect("temp dir");
    certbot(directory.path(), NAME, "90");
    let dirs = format!("[tls]\ncertificate_dirs = [{:?}]", directory.path());
    let (baton, pebble, upstream) = serving(&dirs).await;
    assert_eq!(pebble.orders(), 0);
    // As certbot leaves one behind that is switched off.
    let live = directory.path().join("live").join(NAME);
    backdate(&live);
    reconfigure(&baton, &pebble, &upstream, &dirs);
    let plain = baton.curl(&format!("http://{NAME}/")).run().await;
    assert_eq!(plain.status, 301, "it is served over TLS meanwhile: {plain:?}");
    until("a certificate of the CA", ISSUE_LIMIT, async || {
        states(&baton, NAME).contains(&("acme".to_owned(), "valid".to_owned())).then_some(())
    })
    .await;
    let root = pebble.root_file();
    let answer = baton.curl(&format!("https://{NAME}/")).arg("--cacert").arg(root).run().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(pebble.orders(), 1);
}

/// Replaces the certificate by one that began 80 days ago and has 10 days to live.
fn backdate(live: &Path) {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").current_dir(live).args(arguments).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "{output:?}");
    };
    openssl(&["req", "-new", "-key", "privkey.pem", "-subj", "/CN=somebody else", "-out", "csr"]);
    fs::write(live.join("index.txt"), "").expect("write");
    fs::write(live.join("serial"), "01\n").expect("write");
    fs::write(
        live.join("ca.conf"),
        format!(
            "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\nserial = serial\n\
             new_certs_dir = .\ndefault_md = sha256\npolicy = any\nx509_extensions = names\n\
             [any]\ncommonName = supplied\n[names]\nsubjectAltName = DNS:{NAME}\n"
        ),
    )
    .expect("write");
    let day = |offset: i64| {
        let output = Command::new("date")
            .args(["-u", "-d", &format!("{offset} days"), "+%Y%m%d%H%M%SZ"])
            .output()
            .expect("coreutils are installed");
        String::from_utf8(output.stdout).expect("ASCII").trim().to_owned()
    };
    openssl(&[
        "ca",
        "-batch",
        "-config",
        "ca.conf",
        "-selfsign",
        "-keyfile",
        "privkey.pem",
        "-in",
        "csr",
        "-startdate",
        &day(-80),
        "-enddate",
        &day(10),
        "-notext",
        "-out",
        "fullchain.pem",
    ]);
}

#[tokio::test]
async fn an_import_takes_what_is_good_names_what_is_not_and_orders_nothing() {
    let directory = tempfile::tempdir().expect("temp dir");
    let companion = directory.path();
    issue(
        NAME,
        "90",
        &companion.join(format!("{NAME}.crt")),
        &companion.join(format!("{NAME}.key")),
    );
    let bad = companion.join("bad.example.com");
    fs::create_dir(&bad).expect("mkdir");
    fs::write(bad.join("fullchain.pem"), "nothing").expect("write");
    fs::write(bad.join("key.pem"), "nothing").expect("write");

    let upstream = Upstream::start("one").await.expect("upstream");
    let baton = Baton::start(Config::new().route("first.test", &[upstream.address()])).await;
    let output = import(&baton, companion);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with(&format!("imported {NAME} (until ")), "{said}");
    let bad: PathBuf = bad.join("fullchain.pem");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!("baton: {}: no certificate in it (expected PEM)\n", bad.display())
    );

    let pebble = Pebble::start_with(&baton, PebbleOptions::default()).await;
    reconfigure(&baton, &pebble, &upstream, "");
    assert_eq!(states(&baton, NAME), [("file".to_owned(), "valid".to_owned())]);
    let chain = companion.join(format!("{NAME}.crt"));
    let answer = baton.curl(&format!("https://{NAME}/")).arg("--cacert").arg(chain).run().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(pebble.orders(), 0);
}

#[tokio::test]
async fn an_import_of_nothing_fails_and_says_what_was_expected() {
    let directory = tempfile::tempdir().expect("temp dir");
    let baton = Baton::start(Config::new()).await;
    let output = import(&baton, directory.path());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!(
            "baton: {}: no certificate with its key in it (expected live/NAME/fullchain.pem and \
             privkey.pem, NAME.crt and NAME.key, or NAME/fullchain.pem and key.pem)\n",
            directory.path().display()
        )
    );
}
