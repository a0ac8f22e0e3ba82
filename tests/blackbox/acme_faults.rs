//! CAs that do not do their part: named, waited for as they ask, and the next one in the list takes
//! over where one is at fault.

use baton_tests::{Config, Endpoint, Pebble, PebbleOptions, Reply, self_signed};
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::acme::{Site, time_of};

const NAME: &str = "app.example.com";

#[tokio::test]
async fn a_ca_that_limits_is_asked_again_when_it_says() {
    let (site, proxy) = Site::start_behind_proxy(PebbleOptions::default()).await;
    let limited = Reply::problem(429, "rateLimited", "too many certificates");
    proxy.reply(Endpoint::NewOrder, limited.field("retry-after", "7200"));
    let begun = OffsetDateTime::now_utc();
    site.serve(&[NAME], "");
    let failed = site.wait_failed(NAME).await;
    assert_eq!(failed["last_error"], "the CA: 429 Too Many Requests: too many certificates");
    let wait = time_of(&failed["next_try"]) - begun;
    // To the second, from when it answered.
    assert!(wait >= Duration::hours(2) - Duration::SECOND, "{wait}");
    assert!(wait < Duration::hours(2) + Duration::MINUTE, "{wait}");
    assert_eq!(site.pebble.orders(), 0);
}

#[tokio::test]
async fn the_next_ca_takes_over_from_one_that_fails() {
    let (site, proxy) = Site::start_behind_proxy(PebbleOptions::default()).await;
    proxy.reply(Endpoint::NewOrder, Reply::problem(503, "serverInternal", "in maintenance"));
    let said = serve_from(&site, &[proxy.directory(), site.pebble.directory()]);
    assert!(said["error"].is_null(), "{said}");
    site.wait_issued(NAME).await;
    assert_eq!((proxy.taken(Endpoint::NewOrder), site.pebble.orders()), (0, 1));
    let log = site.baton.stderr();
    let line =
        format!("{}: the CA: 503 Service Unavailable: in maintenance; next try", proxy.directory());
    assert!(log.contains(&line), "{log}");
}

#[tokio::test]
async fn the_next_ca_takes_over_from_one_that_is_down() {
    let site = Site::start(PebbleOptions::default()).await;
    // The port of a CA that was there a moment ago.
    let mut gone = Pebble::start(&site.baton).await;
    gone.stop();
    serve_from(&site, &[gone.directory(), site.pebble.directory()]);
    site.wait_issued(NAME).await;
    let line =
        format!("{}: the CA: cannot be reached: connection refused; next try", gone.directory());
    assert!(site.baton.stderr().contains(&line), "{}", site.baton.stderr());
}

#[tokio::test]
async fn a_name_that_fails_at_one_ca_is_not_taken_to_the_next() {
    let (site, proxy) = Site::start_behind_proxy(PebbleOptions::default()).await;
    // Nobody listens there.
    site.pebble.resolve(NAME, "127.0.0.2");
    serve_from(&site, &[proxy.directory(), site.pebble.directory()]);
    site.wait_failed(NAME).await;
    assert_eq!((proxy.taken(Endpoint::NewOrder), site.pebble.orders()), (1, 1));
}

#[tokio::test]
async fn a_ca_that_makes_no_sense_is_named_and_asked_again() {
    for endpoint in [Endpoint::Directory, Endpoint::NewOrder, Endpoint::Order] {
        let (site, proxy) = Site::start_behind_proxy(PebbleOptions::default()).await;
        proxy.edit(endpoint, |_| "{\"status\": ".to_owned());
        site.serve(&[NAME], "");
        let failed = site.wait_failed(NAME).await;
        let error = failed["last_error"].as_str().expect("an error");
        assert!(error.starts_with("the CA: "), "{endpoint:?}: {error}");
        proxy.behave();
        site.baton.retry_order(NAME);
        assert_eq!(site.get(NAME).await.status, 200, "{endpoint:?}");
    }
}

#[tokio::test]
async fn a_challenge_of_an_unknown_kind_without_a_token_is_passed_over() {
    let (site, proxy) = Site::start_behind_proxy(PebbleOptions::default()).await;
    proxy.edit(Endpoint::Authorization, |text| {
        let mut authorization: Value = serde_json::from_str(text).expect("JSON");
        let challenges = authorization["challenges"].as_array_mut().expect("a list");
        let unknown = serde_json::json!({
            "type": "dns-persist-01",
            "url": challenges[0]["url"],
            "status": "pending",
            "issuer-domain-names": ["ca.example.com"],
        });
        challenges.insert(0, unknown);
        authorization.to_string()
    });
    site.serve(&[NAME], "");
    site.wait_issued(NAME).await;
    assert_eq!(site.get(NAME).await.status, 200);
}

#[tokio::test]
async fn a_certificate_that_is_not_of_our_key_is_refused() {
    let (site, proxy) = Site::start_behind_proxy(PebbleOptions::default()).await;
    let directory = tempfile::tempdir().expect("temp dir");
    self_signed(directory.path(), NAME);
    let other = std::fs::read_to_string(directory.path().join("cert.pem")).expect("a file");
    proxy.edit(Endpoint::Certificate, move |_| other.clone());
    site.serve(&[NAME], "");
    let failed = site.wait_failed(NAME).await;
    assert_eq!(
        failed["last_error"],
        "the certificate from the CA: private key does not match the certificate"
    );
    let plain = site.baton.curl(&format!("http://{NAME}/")).run().await;
    assert_eq!(plain.status, 200, "it is served over plain HTTP meanwhile: {plain:?}");
}

/// Routes the name, with these CAs in this order.
fn serve_from(site: &Site, directories: &[String]) -> Value {
    let acme = format!(
        "[acme]\nagree_tos = true\npreflight = false\ndirectory = {directories:?}\nca_file = {:?}",
        site.pebble.ca_file()
    );
    let config = Config::new().section(&acme).route(NAME, &[site.upstream.address()]);
    site.baton.reconfigure(&config)
}
