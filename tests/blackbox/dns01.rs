//! Wildcard certificates: dns-01 by a program, and by dynamic updates of a real DNS server.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use baton_load::Upstream;
use baton_tests::{Baton, Config, Knot, Pebble, PebbleOptions, until};
use serde_json::Value;

/// Pebble takes up to 5 s before it looks, and 5 % of nonces cost a round more.
const ISSUE_LIMIT: Duration = Duration::from_secs(60);

const WILDCARD: &str = "*.example.com";
const RECORD: &str = "_acme-challenge.example.com";

struct Site {
    baton: Baton,
    upstream: Upstream,
    pebble: Pebble,
}

impl Site {
    async fn start(options: PebbleOptions) -> Self {
        let upstream = Upstream::start("one").await.expect("upstream");
        let baton = Baton::start(Config::new().route("first.test", &[upstream.address()])).await;
        let pebble = Pebble::start_with(&baton, options).await;
        Site { baton, upstream, pebble }
    }

    /// Routes a host that is to have a certificate, with these keys behind those that lead to the CA.
    fn serve(&self, host: &str, acme: &str) {
        let config = Config::new()
            .section(&format!("{}\n{acme}", self.pebble.acme_alone()))
            .route_with(host, &[self.upstream.address()], "tls = \"acme\"");
        let said = self.baton.reconfigure(&config);
        assert!(said["error"].is_null(), "{said}");
    }

    fn certificate(&self, name: &str) -> Option<Value> {
        let list = self.baton.certs_json();
        let mut list = list.as_array().expect("a list").iter();
        list.find(|entry| entry["kind"] == "acme" && entry["names"][0] == name).cloned()
    }

    async fn wait_issued(&self, name: &str) {
        until(&format!("a certificate for {name}"), ISSUE_LIMIT, async || {
            self.certificate(name).filter(|entry| entry["state"] == "valid")
        })
        .await;
    }

    async fn wait_failed(&self, name: &str) -> String {
        until(&format!("a failed order for {name}"), ISSUE_LIMIT, async || {
            let failed = self.certificate(name).filter(|entry| entry["state"] == "failed")?;
            failed["last_error"].as_str().map(str::to_owned)
        })
        .await
    }

    async fn answers(&self, name: &str) {
        let root = self.pebble.root_file();
        let url = format!("https://{name}/");
        let answer = self.baton.curl(&url).arg("--cacert").arg(root).run().await;
        assert_eq!((answer.status, answer.field("x-upstream")), (200, Some("one")), "{answer:?}");
    }
}

/// A program for `acme.dns.exec` that tells Pebble's DNS server, and writes down what it was asked.
fn program(pebble: &Pebble, directory: &Path) -> PathBuf {
    let text = format!(
        r#"#!/bin/sh
echo "$1 $2" >> {directory:?}/asked
case "$1" in
present) order="set-txt"; body="{{\"host\":\"$2.\",\"value\":\"$3\"}}" ;;
cleanup) order="clear-txt"; body="{{\"host\":\"$2.\"}}" ;;
esac
curl --silent --show-error --fail --data "$body" "http://{management}/$order"
"#,
        management = pebble.dns_management(),
    );
    let path = directory.join("dns.sh");
    std::fs::write(&path, text).expect("write");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).expect("chmod");
    path
}

fn exec(pebble: &Pebble, program: &Path) -> String {
    let dns = pebble.dns();
    format!("resolver = \"{dns}\"\n[acme.dns]\nexec = {program:?}\nnameservers = [\"{dns}\"]")
}

#[tokio::test]
async fn a_wildcard_arrives_by_a_program_and_serves_two_subdomains() {
    let site = Site::start(PebbleOptions::default()).await;
    let directory = tempfile::tempdir().expect("temp dir");
    let program = program(&site.pebble, directory.path());
    site.serve(WILDCARD, &exec(&site.pebble, &program));
    site.wait_issued(WILDCARD).await;
    site.answers("a.example.com").await;
    site.answers("b.example.com").await;
    assert_eq!(site.pebble.orders(), 1);
    let asked = std::fs::read_to_string(directory.path().join("asked")).expect("it was asked");
    assert_eq!(asked, format!("present {RECORD}\ncleanup {RECORD}\n"));
}

#[tokio::test]
async fn what_the_program_says_on_stderr_is_the_error_and_no_second_order_is_placed() {
    let site = Site::start(PebbleOptions::default()).await;
    let directory = tempfile::tempdir().expect("temp dir");
    let good = program(&site.pebble, directory.path());
    let bad = directory.path().join("bad.sh");
    std::fs::write(&bad, "#!/bin/sh\necho no such zone >&2\nexit 1\n").expect("write");
    std::fs::set_permissions(&bad, PermissionsExt::from_mode(0o700)).expect("chmod");
    site.serve(WILDCARD, &exec(&site.pebble, &bad));
    let error = site.wait_failed(WILDCARD).await;
    assert_eq!(error, format!("{}: exit status: 1: no such zone", bad.display()));
    // The order that was placed is still good: the next try goes on with it.
    std::fs::copy(&good, &bad).expect("copy");
    site.baton.retry_order(WILDCARD);
    assert_eq!(site.pebble.orders(), 1);
}

async fn with_knot(notifies: bool) -> Option<(Site, Knot)> {
    let knot = Knot::start(notifies).await?;
    let resolver = Some(knot.primary());
    let site = Site::start(PebbleOptions { resolver, ..PebbleOptions::default() }).await;
    Some((site, knot))
}

#[tokio::test]
async fn a_wildcard_arrives_by_signed_updates_and_serves_two_subdomains() {
    let Some((site, knot)) = with_knot(true).await else { return };
    site.serve(WILDCARD, &knot.acme());
    site.wait_issued(WILDCARD).await;
    site.answers("a.example.com").await;
    site.answers("b.example.com").await;
    assert_eq!(site.pebble.orders(), 1);
    assert_eq!(knot.texts(knot.primary(), RECORD), "", "the record was taken away");
}

#[tokio::test]
async fn an_alias_leads_the_record_elsewhere() {
    let Some((site, knot)) = with_knot(true).await else { return };
    site.serve("*.delegated.example.com", &knot.acme());
    site.wait_issued("*.delegated.example.com").await;
    site.answers("a.delegated.example.com").await;
    assert_eq!(knot.texts(knot.primary(), "proofs.elsewhere.example.com"), "");
}

#[tokio::test]
async fn the_ca_is_not_told_to_look_before_every_server_has_the_record() {
    let Some((site, knot)) = with_knot(false).await else { return };
    site.serve(WILDCARD, &format!("{}\npropagation_limit = \"20s\"", knot.acme()));
    until("the record at the primary", ISSUE_LIMIT, async || {
        (!knot.texts(knot.primary(), RECORD).is_empty()).then_some(())
    })
    .await;
    let error = site.wait_failed(WILDCARD).await;
    let secondary = knot.secondary().ip();
    assert_eq!(
        error,
        format!(
            "{RECORD} is not everywhere after 20 s: ns2.example.com ({secondary}) does not have it: \
             see acme.dns.propagation_limit"
        )
    );
    let log = site.pebble.log();
    assert!(!log.contains("Attempting to validate"), "it was told to look:\n{log}");
    // The next try finds it everywhere, within the same order.
    knot.refresh();
    site.baton.retry_order(WILDCARD);
    assert_eq!(site.pebble.orders(), 1);
}

#[tokio::test]
async fn a_controller_that_is_killed_meanwhile_leaves_neither_a_second_order_nor_a_record() {
    let Some((mut site, knot)) = with_knot(false).await else { return };
    site.serve(WILDCARD, &knot.acme());
    until("the record at the primary", ISSUE_LIMIT, async || {
        (!knot.texts(knot.primary(), RECORD).is_empty()).then_some(())
    })
    .await;
    site.baton.kill_controller().await;
    site.baton.start_controller();
    knot.refresh();
    site.baton.wait_ready().await;
    site.wait_issued(WILDCARD).await;
    assert_eq!(site.pebble.orders(), 1);
    assert_eq!(knot.texts(knot.primary(), RECORD), "", "the record was taken away");
}

#[tokio::test]
async fn a_key_that_the_server_does_not_know_is_named() {
    let Some((site, knot)) = with_knot(true).await else { return };
    site.serve(WILDCARD, &knot.acme().replace("\"baton\"", "\"stranger\""));
    let error = site.wait_failed(WILDCARD).await;
    let server = knot.primary();
    assert_eq!(
        error,
        format!(
            "the update of example.com at {server}: the answer is not signed with key stranger: does \
             the server know it, with this secret and algorithm"
        )
    );
}

#[tokio::test]
async fn a_wildcard_without_dns_01_is_not_ordered_and_says_why() {
    let site = Site::start(PebbleOptions::default()).await;
    site.serve(WILDCARD, "");
    site.baton
        .wait_said("*.example.com: a wildcard is ordered by dns-01 alone: see [acme.dns]")
        .await;
    assert_eq!(site.pebble.orders(), 0);
}
