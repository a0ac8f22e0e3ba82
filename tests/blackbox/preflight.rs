//! The look before a first order, external accounts, and certificates for addresses.

use std::time::Duration;

use baton_load::Upstream;
use baton_tests::{Answer, Baton, Config, Pebble, PebbleOptions, until};
use serde_json::{Value, json};

const ISSUE_LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "app.example.com";

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

    fn serve(&self, name: &str, acme: &str) {
        let config = Config::new().section(acme);
        let config = config.route_with(name, &[self.upstream.address()], "tls = \"acme\"");
        let said = self.baton.reconfigure(&config);
        assert!(said["error"].is_null(), "{said}");
    }

    async fn wait_state(&self, name: &str, state: &str) -> Value {
        until(&format!("a certificate for {name} that is {state}"), ISSUE_LIMIT, async || {
            let list = self.baton.certs_json();
            let mut list = list.as_array().expect("a list").iter();
            let is_it = |entry: &&Value| {
                entry["kind"] == "acme" && entry["names"][0] == name && entry["state"] == state
            };
            list.find(is_it).cloned()
        })
        .await
    }

    async fn wait_error(&self, name: &str) -> String {
        let failed = self.wait_state(name, "failed").await;
        failed["last_error"].as_str().expect("an error").to_owned()
    }

    async fn get(&self, name: &str) -> Answer {
        let root = self.pebble.root_file();
        self.baton.curl(&format!("https://{name}/")).arg("--cacert").arg(root).run().await
    }
}

#[tokio::test]
async fn a_name_that_leads_here_is_ordered_after_the_look() {
    let site = Site::start(PebbleOptions::default()).await;
    site.serve(NAME, &site.pebble.acme_with_preflight());
    site.wait_state(NAME, "valid").await;
    assert_eq!(site.get(NAME).await.status, 200);
    assert_eq!(site.pebble.orders(), 1);
}

#[tokio::test]
async fn a_name_without_an_address_is_not_ordered_until_it_has_one() {
    let site = Site::start(PebbleOptions::default()).await;
    site.pebble.set_dns("set-default-ipv4", &json!({"ip": ""}));
    site.serve(NAME, &site.pebble.acme_with_preflight());
    assert_eq!(
        site.wait_error(NAME).await,
        "app.example.com has no address in the DNS: add an A or AAAA record that leads to this host"
    );
    assert_eq!(site.pebble.orders(), 0);
    // Its own short retry, and no longer one after the second time.
    site.pebble.set_dns("set-default-ipv4", &json!({"ip": "127.0.0.1"}));
    until("the next look", ISSUE_LIMIT * 2, async || {
        (site.get(NAME).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(site.pebble.orders(), 1);
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_is_not_ordered_and_the_reason_is_in_plain_words() {
    let site = Site::start(PebbleOptions::default()).await;
    // Nobody listens there.
    site.pebble.resolve(NAME, "127.0.0.2");
    site.serve(NAME, &site.pebble.acme_with_preflight());
    let (http, tls) = (site.baton.http_address().port(), site.baton.https_address().port());
    assert_eq!(
        site.wait_error(NAME).await,
        format!(
            "app.example.com does not lead here: at 127.0.0.2 port {http} nobody listens, at \
             127.0.0.2 port {tls} nobody listens: the CA would see the same (acme.preflight = false \
             orders without asking)"
        )
    );
    assert_eq!(site.pebble.orders(), 0);
}

#[tokio::test]
async fn somebody_else_at_the_port_is_told_from_us() {
    let site = Site::start(PebbleOptions::default()).await;
    let other = site.upstream.address().port();
    let acme = site.pebble.acme_with_preflight();
    let http = format!("http_port = {}", site.baton.http_address().port());
    let acme = acme.replace(&http, &format!("http_port = {other}"));
    site.serve(NAME, &format!("{acme}\nchallenges = [\"http-01\"]"));
    let error = site.wait_error(NAME).await;
    let want = format!(
        "app.example.com does not lead here: at 127.0.0.1 port {other} somebody else answers (HTTP "
    );
    assert!(error.starts_with(&want), "{error}");
    assert_eq!(site.pebble.orders(), 0);
}

#[tokio::test]
async fn the_look_chooses_the_challenge_that_can_work() {
    let site = Site::start(PebbleOptions::default()).await;
    let acme = site.pebble.acme_with_preflight();
    let http = format!("http_port = {}", site.baton.http_address().port());
    let acme = acme.replace(&http, &format!("http_port = {}", site.upstream.address().port()));
    site.serve(NAME, &acme);
    site.wait_state(NAME, "valid").await;
    let state = site.baton.directory().join("state/acme/certificates").join(format!("{NAME}.json"));
    let origin: Value = serde_json::from_slice(&std::fs::read(state).expect("read")).expect("JSON");
    assert_eq!(origin["challenge"], "tls-alpn-01");
}

#[tokio::test]
async fn switched_off_the_ca_is_asked_without_a_look() {
    let site = Site::start(PebbleOptions::default()).await;
    site.pebble.resolve(NAME, "127.0.0.2");
    site.serve(NAME, &format!("{}\nchallenges = [\"http-01\"]", site.pebble.acme()));
    let error = site.wait_error(NAME).await;
    assert!(error.starts_with("app.example.com: "), "the CA's own words: {error}");
    assert_eq!(site.pebble.orders(), 1);
}

#[tokio::test]
async fn an_account_is_bound_to_an_external_one() {
    // A key of Pebble's documentation.
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let external_accounts = vec![("kid-1".to_owned(), key.to_owned())];
    let site = Site::start(PebbleOptions { external_accounts, ..PebbleOptions::default() }).await;
    site.serve(NAME, &site.pebble.acme());
    let error = site.wait_error(NAME).await;
    assert!(error.contains("'externalAccountBinding'"), "{error}");
    let binding = format!("eab_kid = \"kid-1\"\neab_hmac_key = \"{key}\"");
    site.serve("b.example.com", &format!("{}\n{binding}", site.pebble.acme()));
    site.wait_state("b.example.com", "valid").await;
    assert_eq!(site.get("b.example.com").await.status, 200);
}

#[tokio::test]
async fn an_address_gets_a_certificate_of_the_ca_where_its_route_says_so() {
    let site = Site::start(PebbleOptions::default()).await;
    site.serve("127.0.0.1", &site.pebble.acme_with_preflight());
    site.wait_state("127.0.0.1", "valid").await;
    let root = site.pebble.root_file();
    let url = format!("https://127.0.0.1:{}/", site.baton.https_address().port());
    let answer = site.baton.curl(&url).arg("--cacert").arg(root).run().await;
    assert_eq!((answer.status, answer.field("x-upstream")), (200, Some("one")), "{answer:?}");
}

#[tokio::test]
async fn a_private_address_has_one_of_the_local_ca_otherwise() {
    let site = Site::start(PebbleOptions::default()).await;
    let config = Config::new().section(&site.pebble.acme());
    site.baton.reconfigure(&config.route("127.0.0.1", &[site.upstream.address()]));
    let url = format!("https://127.0.0.1:{}/", site.baton.https_address().port());
    let answer = site.baton.curl(&url).arg("--cacert").arg(site.baton.ca_file()).run().await;
    assert_eq!((answer.status, answer.field("x-upstream")), (200, Some("one")), "{answer:?}");
    assert_eq!(site.pebble.orders(), 0);
}

#[tokio::test]
async fn an_ipv6_address_gets_one_too() {
    let site = Site::start(PebbleOptions { sleeps: false, ..PebbleOptions::default() }).await;
    let both = |port: u16| format!("[\"127.0.0.1:0\", \"[::1]:{port}\"]");
    let [http, https] =
        [site.baton.http_address(), site.baton.https_address()].map(|address| address.port());
    let config = Config::new()
        .listen(&format!("http = {}\nhttps = {}", both(http), both(https)))
        .section(&site.pebble.acme_with_preflight())
        .route_with("::1", &[site.upstream.address()], "tls = \"acme\"");
    let said = site.baton.reconfigure(&config);
    assert!(said["error"].is_null(), "{said}");
    site.wait_state("::1", "valid").await;
    let url = format!("https://[::1]:{https}/");
    let answer = until("a trusted answer", ISSUE_LIMIT, async || {
        let curl = site.baton.curl(&url).arg("--cacert").arg(site.pebble.root_file());
        Some(curl.run().await).filter(|answer| answer.status == 200)
    })
    .await;
    assert_eq!(answer.field("x-upstream"), Some("one"), "{answer:?}");
}
