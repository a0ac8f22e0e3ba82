//! Certificates from a CA: a real one (Pebble), with its faults on.

use std::time::Duration;

use baton_load::Upstream;
use baton_tests::{
    Answer, Baton, CaProxy, Config, Docker, Pebble, PebbleOptions, shown_serial, until,
};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Pebble takes up to 5 s before it looks, and 5 % of nonces cost a round more.
pub const ISSUE_LIMIT: Duration = Duration::from_secs(60);

/// A baton whose routes lead to one upstream, and a CA that looks at its ports.
pub struct Site {
    pub baton: Baton,
    pub upstream: Upstream,
    pub pebble: Pebble,
    /// The keys of `[acme]` that lead to the CA.
    authority: String,
}

impl Site {
    pub async fn start(options: PebbleOptions) -> Self {
        Self::start_with(Config::new(), options).await
    }

    pub async fn start_with(config: Config, options: PebbleOptions) -> Self {
        let upstream = Upstream::start("one").await.expect("upstream");
        // The CA has to know the ports, and baton the CA: the ports come first.
        let baton = Baton::start(config.route("first.test", &[upstream.address()])).await;
        let pebble = Pebble::start_with(&baton, options).await;
        let authority = pebble.acme();
        Site { baton, upstream, pebble, authority }
    }

    /// With a proxy in front of the CA.
    pub async fn start_behind_proxy(options: PebbleOptions) -> (Self, CaProxy) {
        Self::start_behind_proxy_with(Config::new(), options).await
    }

    pub async fn start_behind_proxy_with(
        config: Config,
        options: PebbleOptions,
    ) -> (Self, CaProxy) {
        let site = Self::start_with(config, options).await;
        let proxy = CaProxy::start(&site.pebble);
        let authority = proxy.acme(&site.pebble);
        (Site { authority, ..site }, proxy)
    }

    /// Routes these names, with these keys of `[acme]` beside those that lead to the CA.
    pub fn config(&self, names: &[&str], acme: &str) -> Config {
        let config = Config::new().section(&format!("{}\n{acme}", self.authority));
        names.iter().fold(config, |config, name| config.route(name, &[self.upstream.address()]))
    }

    pub fn serve(&self, names: &[&str], acme: &str) {
        let said = self.baton.reconfigure(&self.config(names, acme));
        assert!(said["error"].is_null(), "{said}");
    }

    /// The same on the ports that the CA knows, for a baton that starts again.
    pub fn config_again(&self, names: &[&str], acme: &str) -> Config {
        let (http, https) = (self.baton.http_address(), self.baton.https_address());
        let listen = format!("http = [\"{http}\"]\nhttps = [\"{https}\"]");
        self.config(names, acme).listen(&listen)
    }

    /// What `baton certs` says of this name.
    pub fn certificate(&self, name: &str) -> Option<Value> {
        certificate(&self.baton, name)
    }

    pub async fn wait_failed(&self, name: &str) -> Value {
        until(&format!("a failed order for {name}"), ISSUE_LIMIT, async || {
            self.certificate(name).filter(|certificate| certificate["state"] == "failed")
        })
        .await
    }

    /// Waits until the controller has a certificate.
    pub async fn wait_valid(&self, name: &str) -> Value {
        until(&format!("a certificate for {name}"), ISSUE_LIMIT, async || {
            self.certificate(name).filter(|certificate| certificate["state"] == "valid")
        })
        .await
    }

    /// Waits until clients trust what they are shown for this name.
    pub async fn wait_issued(&self, name: &str) -> Value {
        let certificate = self.wait_valid(name).await;
        // The controller knows of it before its workers do.
        until(&format!("a trusted answer of {name}"), ISSUE_LIMIT, async || {
            (self.get(name).await.status == 200).then_some(())
        })
        .await;
        certificate
    }

    /// Of the certificate that a new client of the first name is shown.
    pub fn serial(&self) -> String {
        shown_serial(self.baton.https_address(), "app.example.com")
    }

    pub async fn get(&self, name: &str) -> Answer {
        let root = self.pebble.root_file();
        self.baton.curl(&format!("https://{name}/")).arg("--cacert").arg(root).run().await
    }
}

pub fn certificate(baton: &Baton, name: &str) -> Option<Value> {
    let list = baton.certs_json();
    let mut list = list.as_array().expect("a list").iter();
    list.find(|entry| entry["kind"] == "acme" && entry["names"][0] == name).cloned()
}

/// RFC 3339, as answers have it.
pub fn time_of(value: &Value) -> OffsetDateTime {
    OffsetDateTime::parse(value.as_str().expect("text"), &Rfc3339).expect("a time")
}

#[tokio::test]
async fn a_routed_name_gets_a_trusted_certificate_by_http_01() {
    let site = Site::start(PebbleOptions::default()).await;
    site.serve(&["app.example.com"], "challenges = [\"http-01\"]");
    let certificate = site.wait_issued("app.example.com").await;
    assert!(certificate["issuer"].as_str().is_some_and(|text| text.contains("Pebble")));
    assert!(certificate["next_renewal"].is_string(), "{certificate}");
    let answer = site.get("app.example.com").await;
    assert_eq!((answer.status, answer.field("x-upstream")), (200, Some("one")), "{answer:?}");
    assert_eq!(site.pebble.orders(), 1);
}

#[tokio::test]
async fn a_routed_name_gets_a_trusted_certificate_by_tls_alpn_01() {
    let site = Site::start(PebbleOptions::default()).await;
    site.serve(&["app.example.com"], "challenges = [\"tls-alpn-01\"]");
    site.wait_issued("app.example.com").await;
    let answer = site.get("app.example.com").await;
    assert_eq!((answer.status, answer.field("x-upstream")), (200, Some("one")), "{answer:?}");
}

#[tokio::test]
async fn a_container_gets_a_trusted_certificate_without_anyone_doing_anything() {
    let docker = Docker::connect();
    let site = Site::start(PebbleOptions::default()).await;
    // Docker is asked from the start on, so that this baton is another one.
    let config = site.config_again(&[], "").docker(docker.endpoint());
    let Site { mut baton, pebble, .. } = site;
    baton.stop_for_now().await;
    baton.start_again(&config).await;
    let _web = docker.run("web", &[("VIRTUAL_HOST", "web.example.com")], &[]);
    until("a certificate", ISSUE_LIMIT, async || {
        certificate(&baton, "web.example.com").filter(|entry| entry["state"] == "valid")
    })
    .await;
    let answer =
        baton.curl("https://web.example.com/").arg("--cacert").arg(pebble.root_file()).run().await;
    assert_eq!((answer.status, answer.field("x-upstream")), (200, Some("web")), "{answer:?}");
    let plain = baton.curl("http://web.example.com/").run().await;
    assert_eq!(plain.status, 301, "{plain:?}");
}

#[tokio::test]
async fn a_restart_orders_nothing() {
    let mut site = Site::start(PebbleOptions::default()).await;
    site.serve(&["app.example.com"], "");
    let before = site.wait_issued("app.example.com").await;
    let config = site.config_again(&["app.example.com"], "");
    site.baton.stop_for_now().await;
    site.baton.start_again(&config).await;
    // In service from the first moment, and the same.
    assert_eq!(site.certificate("app.example.com"), Some(before));
    assert_eq!(site.get("app.example.com").await.status, 200);
    assert_eq!(site.pebble.orders(), 1);
}

#[tokio::test]
async fn a_name_that_fails_holds_back_none_of_ten_others_and_is_remembered() {
    let mut site = Site::start(PebbleOptions::default()).await;
    let bad = "bad.example.com";
    // Nobody listens there.
    site.pebble.resolve(bad, "127.0.0.2");
    let good: Vec<String> = (0..10).map(|number| format!("good{number}.example.com")).collect();
    let names: Vec<&str> = std::iter::once(bad).chain(good.iter().map(String::as_str)).collect();
    site.serve(&names, "challenges = [\"http-01\"]");
    for name in &good {
        site.wait_issued(name).await;
        assert_eq!(site.get(name).await.status, 200, "{name}");
    }
    let failed = site.wait_failed(bad).await;
    let error = failed["last_error"].as_str().expect("an error");
    assert!(error.starts_with("bad.example.com: ") && error.contains("127.0.0.2"), "{error}");
    let plain = site.baton.curl(&format!("http://{bad}/")).run().await;
    assert_eq!(plain.status, 200, "it is served over plain HTTP meanwhile: {plain:?}");
    assert_eq!(site.pebble.orders(), 11);

    let config = site.config_again(&names, "challenges = [\"http-01\"]");
    site.baton.stop_for_now().await;
    site.baton.start_again(&config).await;
    let again = site.certificate(bad).expect("it is wanted");
    for key in ["state", "last_error", "next_try"] {
        assert_eq!(again[key], failed[key], "{key}");
    }
    assert_eq!(site.pebble.orders(), 11, "a restart is no new try");
}

#[tokio::test]
async fn a_token_of_somebody_else_is_routed() {
    let site = Site::start(PebbleOptions::default()).await;
    site.serve(&["app.example.com"], "");
    site.wait_issued("app.example.com").await;
    // A token that is not ours is routed: another ACME client may live in a container.
    let path = "/.well-known/acme-challenge/other";
    let answer = site.baton.curl(&format!("http://app.example.com{path}")).run().await;
    assert_eq!(answer.status, 301, "{answer:?}");
}
