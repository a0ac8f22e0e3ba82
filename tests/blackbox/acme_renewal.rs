//! Certificates after their first day: renewed by themselves or by order, revoked, and kept where the
//! disk is full.

use baton_load::{Target, roots_from_pem};
use baton_tests::{CaProxy, Config, Endpoint, Moment, PebbleOptions, SmallDisk, until};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::acme::{ISSUE_LIMIT, Site, time_of};
use crate::{http_kinds, more_requests, nobody_felt_anything};

const NAME: &str = "app.example.com";
/// Seconds that a short certificate lives: renewed at the half of it, less a jitter of a tenth.
const SHORT_LIFE: u64 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_under_load_is_felt_by_nobody_and_new_connections_have_it() {
    let options = PebbleOptions { life: SHORT_LIFE, ..PebbleOptions::default() };
    let site = Site::start(options).await;
    site.serve(&[NAME], "");
    let first = site.wait_issued(NAME).await;
    let serial = site.serial();
    let pem = std::fs::read(site.pebble.root_file()).expect("a file");
    let roots = roots_from_pem(&pem).expect("roots");
    let load = http_kinds(Target::tls(site.baton.https_address(), NAME, roots)).start();
    until("a renewal", ISSUE_LIMIT, async || (site.pebble.orders() > 1).then_some(())).await;
    until("another certificate", ISSUE_LIMIT, async || (site.serial() != serial).then_some(()))
        .await;
    more_requests(&load, 300).await;
    nobody_felt_anything(&load.stop().await);
    let second = site.certificate(NAME).expect("it is wanted");
    assert!(time_of(&second["not_after"]) > time_of(&first["not_after"]), "{first} {second}");
}

#[tokio::test]
async fn a_window_in_the_past_means_now_and_the_order_says_what_it_replaces() {
    let (site, proxy) = Site::start_behind_proxy(PebbleOptions::default()).await;
    proxy.suggest(&window(-time::Duration::days(2), -time::Duration::days(1)), "21600");
    let first_order = proxy.hold(Endpoint::NewOrder, Moment::Request);
    site.serve(&[NAME], "");
    first_order.reached().await;
    let second_order = proxy.hold(Endpoint::NewOrder, Moment::Request);
    first_order.release();
    second_order.reached().await;
    site.wait_issued(NAME).await;
    let replaced = site.serial();
    second_order.release();
    until("another certificate", ISSUE_LIMIT, async || (site.serial() != replaced).then_some(()))
        .await;
    // Of this one the window lies in the past too: it is kept for an hour all the same.
    until("another look", ISSUE_LIMIT, async || {
        (proxy.taken(Endpoint::RenewalInfo) == 2).then_some(())
    })
    .await;
    let soon = until("the next renewal", ISSUE_LIMIT, async || {
        let next = time_of(&site.certificate(NAME)?["next_renewal"]) - OffsetDateTime::now_utc();
        (next < time::Duration::hours(1)).then_some(next)
    })
    .await;
    assert!(soon > time::Duration::minutes(58), "{soon}");

    let orders = proxy.orders();
    assert_eq!(orders.len(), 2);
    assert_eq!(orders[0]["replaces"], Value::Null);
    let replaces = orders[1]["replaces"].as_str().expect("text");
    let (_, serial) = replaces.split_once('.').expect("an identifier of ARI");
    assert_eq!(hex(serial), replaced);
}

#[tokio::test]
async fn a_renewal_is_planned_for_the_window_and_the_ca_is_asked_again_when_it_says() {
    let (mut site, proxy) = Site::start_behind_proxy(PebbleOptions::default()).await;
    let (start, end) = (time::Duration::days(20), time::Duration::days(22));
    let window = window(start, end);
    // Within half a day, whatever it says: a day is too long.
    let names = ["six.example.com", "twelve.example.com"];
    for (number, (retry_after, hours)) in [("21600", 6), ("86400", 12)].into_iter().enumerate() {
        let name = names[number];
        proxy.suggest(&window, retry_after);
        let begun = OffsetDateTime::now_utc();
        site.serve(&names[..=number], "");
        site.wait_issued(name).await;
        until("a renewal in the window", ISSUE_LIMIT, async || {
            let next = time_of(&site.certificate(name)?["next_renewal"]);
            let window = time_of(&window["start"])..=time_of(&window["end"]);
            window.contains(&next).then_some(())
        })
        .await;
        let file = site.baton.directory().join(format!("state/acme/certificates/{name}.json"));
        let kept: Value =
            serde_json::from_slice(&std::fs::read(file).expect("a file")).expect("JSON");
        let pause = time_of(&kept["window"]["next_look"]) - begun;
        let want = time::Duration::hours(hours);
        assert!((want..want + time::Duration::MINUTE).contains(&pause), "{name}: {pause}");
    }
    let config = site.config_again(&names, "");
    site.baton.stop_for_now().await;
    site.baton.start_again(&config).await;
    assert_eq!(site.get(names[0]).await.status, 200);
    assert_eq!(proxy.taken(Endpoint::RenewalInfo), 2, "a restart asks nobody");
}

#[tokio::test]
async fn a_renewal_by_order_puts_another_certificate_in_service() {
    let site = Site::start(PebbleOptions::default()).await;
    site.serve(&[NAME], "");
    site.wait_issued(NAME).await;
    let before = site.serial();
    let output = site.baton.command(&["certs", "--renew", NAME]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.starts_with("certificate app.example.com: issued by "), "{said}");
    until("another certificate", ISSUE_LIMIT, async || (site.serial() != before).then_some(()))
        .await;
    assert_eq!(site.pebble.orders(), 2);
}

#[tokio::test]
async fn what_cannot_be_ordered_is_refused_in_one_line() {
    let site = Site::start(PebbleOptions::default()).await;
    site.serve(&[NAME], "");
    site.wait_issued(NAME).await;
    for (arguments, want) in [
        (
            ["certs", "--renew", "other.example.com"],
            "baton: no certificate of a CA is wanted for other.example.com: see `baton certs`\n",
        ),
        (
            ["certs", "--retry", NAME],
            "baton: certificate app.example.com: no order has failed: --renew orders another \
             one\n",
        ),
    ] {
        let output = site.baton.command(&arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), want);
    }
    assert_eq!(site.pebble.orders(), 1);
}

#[tokio::test]
async fn an_order_that_failed_is_tried_again_by_order_and_says_how_it_went() {
    let site = Site::start(PebbleOptions::default()).await;
    // Nobody listens there.
    site.pebble.resolve(NAME, "127.0.0.2");
    site.serve(&[NAME], "challenges = [\"http-01\"]");
    site.wait_failed(NAME).await;
    let output = site.baton.command(&["certs", "--retry", NAME]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("baton: certificate app.example.com: https://"), "{said}");
    assert!(said.contains("127.0.0.2") && said.contains("; next try at "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    site.pebble.resolve_normally(NAME);
    site.baton.retry_order(NAME);
    assert_eq!(site.get(NAME).await.status, 200);
}

#[tokio::test]
async fn a_revoked_certificate_is_out_of_service_until_another_one_is_ordered() {
    let mut site = Site::start(PebbleOptions::default()).await;
    site.serve(&[NAME], "");
    site.wait_issued(NAME).await;
    let serial = site.serial();
    let output = site.baton.command(&["certs", "--revoke", NAME]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "certificate app.example.com: revoked, and out of service; --renew orders another\n"
    );
    assert_eq!(site.pebble.status_of(&serial), "Revoked");
    until("the default certificate", ISSUE_LIMIT, async || (site.serial() != serial).then_some(()))
        .await;
    // Also after a restart.
    let config = site.config_again(&[NAME], "");
    site.baton.stop_for_now().await;
    site.baton.start_again(&config).await;
    let entry = site.certificate(NAME).expect("it is wanted");
    let error = entry["last_error"].as_str().expect("an error");
    assert!(error.starts_with("revoked at "), "{error}");
    assert_eq!((&entry["state"], site.pebble.orders()), (&"failed".into(), 1));

    let output = site.baton.command(&["certs", "--renew", NAME]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(site.get(NAME).await.status, 200);
    assert_ne!(site.serial(), serial);
}

#[tokio::test]
async fn a_certificate_that_a_full_disk_does_not_take_is_served_from_memory_and_written_later() {
    let Some(disk) = SmallDisk::mount() else { return };
    let (site, proxy) = site_on(&disk).await;
    let held = proxy.hold(Endpoint::Certificate, Moment::Answer);
    serve_on(&site, &disk);
    held.reached().await;
    disk.fill();
    held.release();
    site.wait_issued(NAME).await;
    assert_eq!(site.get(NAME).await.status, 200);
    let file = disk.path().join("acme/certificates/app.example.com.pem");
    site.baton.wait_said("it is served from memory, and written again every 10 s").await;
    assert!(!file.exists());
    disk.free();
    site.baton.wait_said("certificate app.example.com: it is on disk now").await;
    assert!(file.exists());
    assert_eq!(site.pebble.orders(), 1);
}

#[tokio::test]
async fn a_full_disk_keeps_the_old_certificate_and_asks_no_ca() {
    let Some(disk) = SmallDisk::mount() else { return };
    let (site, _proxy) = site_on(&disk).await;
    serve_on(&site, &disk);
    site.wait_issued(NAME).await;
    let serial = site.serial();
    disk.fill();
    let output = site.baton.command(&["certs", "--renew", NAME]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains("No space left on device") && said.contains("; next try at "), "{said}");
    assert_eq!((site.serial(), site.pebble.orders()), (serial.clone(), 1));
    disk.free();
    site.baton.retry_order(NAME);
    until("another certificate", ISSUE_LIMIT, async || (site.serial() != serial).then_some(()))
        .await;
}

/// A site with its state on a disk of its own.
async fn site_on(disk: &SmallDisk) -> (Site, CaProxy) {
    Site::start_behind_proxy_with(Config::new().state_dir(disk.path()), PebbleOptions::default())
        .await
}

fn serve_on(site: &Site, disk: &SmallDisk) {
    let said = site.baton.reconfigure(&site.config(&[NAME], "").state_dir(disk.path()));
    assert!(said["error"].is_null(), "{said}");
}

/// From and to these times from now on.
fn window(start: time::Duration, end: time::Duration) -> Value {
    let at = |from: time::Duration| {
        let time = OffsetDateTime::now_utc() + from;
        time.format(&Rfc3339).expect("a time")
    };
    json!({"start": at(start), "end": at(end)})
}

/// base64url as openssl writes numbers.
fn hex(base64: &str) -> String {
    use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(base64).expect("base64url");
    let digits: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    // A sign byte.
    digits.strip_prefix("00").unwrap_or(&digits).to_owned()
}
