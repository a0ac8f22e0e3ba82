//! Orders under way while baton itself changes: handed over, upgraded, killed. The CA sees one order
//! for each certificate.

use std::time::{Duration, Instant};

use baton_tests::{Baton, Docker, Endpoint, Moment, PebbleOptions, until};
use serde_json::Value;

use crate::acme::{ISSUE_LIMIT, Site};
use crate::stage::LIMIT;

/// Every request of an order, before the CA has heard of it and after it has done its part. The first
/// order registers an account.
const STEPS: [(Endpoint, Moment); 11] = [
    (Endpoint::NewAccount, Moment::Request),
    (Endpoint::NewOrder, Moment::Request),
    (Endpoint::Authorization, Moment::Request),
    (Endpoint::Authorization, Moment::Answer),
    (Endpoint::Challenge, Moment::Request),
    (Endpoint::Challenge, Moment::Answer),
    (Endpoint::Order, Moment::Answer),
    (Endpoint::Finalize, Moment::Request),
    (Endpoint::Finalize, Moment::Answer),
    (Endpoint::Certificate, Moment::Request),
    (Endpoint::Certificate, Moment::Answer),
];

/// From `docker run` to a trusted answer, with a CA that looks at once.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(5);

fn name_of(number: usize) -> String {
    format!("step{number}.example.com")
}

#[tokio::test]
async fn a_controller_killed_at_any_step_of_an_order_places_no_second_one() {
    let (mut site, proxy) = Site::start_behind_proxy(PebbleOptions::default()).await;
    for (number, (endpoint, moment)) in STEPS.into_iter().enumerate() {
        let held = proxy.hold(endpoint, moment);
        serve_up_to(&site, number, "");
        held.reached().await;
        kill_and_start(&mut site.baton).await;
        println!("killed at {endpoint:?} {moment:?}");
        site.wait_issued(&name_of(number)).await;
    }
    assert_eq!(proxy.taken(Endpoint::NewOrder), STEPS.len());
    assert_eq!(site.pebble.orders(), STEPS.len());
}

#[tokio::test]
async fn a_controller_killed_as_the_ca_registers_it_finds_its_account_again() {
    let (mut site, proxy) = Site::start_behind_proxy(PebbleOptions::default()).await;
    let held = proxy.hold(Endpoint::NewAccount, Moment::Answer);
    serve_up_to(&site, 0, "");
    held.reached().await;
    kill_and_start(&mut site.baton).await;
    site.wait_issued(&name_of(0)).await;
    assert_eq!(proxy.taken(Endpoint::NewAccount), 1);
    assert_eq!(site.pebble.orders(), 1);
}

/// The one window that ACME leaves open: the CA alone knows of the order. See ARCHITECTURE.md.
#[tokio::test]
async fn a_controller_killed_as_the_ca_takes_the_order_gets_its_certificate_by_another_one() {
    let (mut site, proxy) = Site::start_behind_proxy(PebbleOptions::default()).await;
    let held = proxy.hold(Endpoint::NewOrder, Moment::Answer);
    serve_up_to(&site, 0, "");
    held.reached().await;
    kill_and_start(&mut site.baton).await;
    site.wait_issued(&name_of(0)).await;
    assert_eq!(site.pebble.orders(), 2);
}

#[tokio::test]
async fn a_handoff_and_an_upgrade_at_any_step_of_an_order_leave_it_one_order() {
    let (site, proxy) = Site::start_behind_proxy(PebbleOptions::default()).await;
    let cut_off_nowhere =
        [(Endpoint::NewAccount, Moment::Answer), (Endpoint::NewOrder, Moment::Answer)];
    let steps: Vec<_> = cut_off_nowhere.into_iter().chain(STEPS.into_iter().skip(1)).collect();
    let mut limits = String::new();
    for (number, (endpoint, moment)) in steps.iter().enumerate() {
        let step = format!("{endpoint:?} {moment:?}");
        let held = proxy.hold(*endpoint, *moment);
        serve_up_to(&site, number, &limits);
        held.reached().await;
        // A change of this key needs a generation.
        limits = format!("[limits]\nstreams = {}", 50 + number);
        let said = serve_up_to(&site, number, &limits);
        assert_eq!(said["handoff"]["outcome"], "done", "{step}: {said}");
        upgrade(&site.baton, || held.release()).await;
        println!("handed over at {step}");
        site.wait_issued(&name_of(number)).await;
    }
    assert_eq!(proxy.taken(Endpoint::NewAccount), 1);
    assert_eq!(proxy.taken(Endpoint::NewOrder), steps.len());
    assert_eq!(site.pebble.orders(), steps.len());
}

#[tokio::test]
async fn a_stop_waits_until_the_order_that_the_ca_takes_is_on_disk() {
    let (mut site, proxy) = Site::start_behind_proxy(PebbleOptions::default()).await;
    let held = proxy.hold(Endpoint::NewOrder, Moment::Answer);
    serve_up_to(&site, 0, "");
    held.reached().await;
    site.baton.signal(nix::sys::signal::Signal::SIGTERM);
    site.baton.wait_said("waiting for the answer of a CA").await;
    held.release();
    assert!(site.baton.ended().await.success());
    let names = [name_of(0)];
    let config = site.config_again(&[names[0].as_str()], "");
    site.baton.start_again(&config).await;
    site.wait_issued(&name_of(0)).await;
    assert_eq!(site.pebble.orders(), 1);
}

#[tokio::test]
async fn a_container_is_trusted_within_five_seconds_of_its_start() {
    let docker = Docker::connect();
    let site = Site::start(PebbleOptions { sleeps: false, ..PebbleOptions::default() }).await;
    let config = site.config_again(&[], "").docker(docker.endpoint());
    let Site { mut baton, pebble, .. } = site;
    baton.stop_for_now().await;
    baton.start_again(&config).await;
    let root = pebble.root_file();
    let begun = Instant::now();
    let _web = docker.run("web", &[("VIRTUAL_HOST", "web.example.com")], &[]);
    until("the first trusted answer", ISSUE_LIMIT, async || {
        let curl = baton.curl("https://web.example.com/").arg("--cacert").arg(&root);
        let answer = curl.run().await;
        (answer.status == 200).then_some(())
    })
    .await;
    let taken = begun.elapsed();
    println!("from docker run to the first trusted answer: {} ms", taken.as_millis());
    assert!(taken < FIRST_ANSWER_LIMIT, "{taken:?}");
}

/// Routes the names of all steps so far.
fn serve_up_to(site: &Site, number: usize, sections: &str) -> Value {
    let names: Vec<String> = (0..=number).map(name_of).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let config = site.config(&names, "").section(sections);
    let said = site.baton.reconfigure(&config);
    assert!(said["error"].is_null(), "{said}");
    said
}

async fn kill_and_start(baton: &mut Baton) {
    baton.kill_controller().await;
    baton.start_controller();
    until("the takeover", LIMIT, async || {
        let status = baton.try_status_json()?;
        (status["last_handoffs"][0]["outcome"] == "done").then_some(())
    })
    .await;
}

/// Upgrades to the same program. `release` is called when it waits for a CA, or else when it is over.
async fn upgrade(baton: &Baton, release: impl FnOnce()) {
    let waits = || baton.stderr().matches("waiting for the answer of a CA").count();
    let before = waits();
    let mut upgrade = baton.spawn_command(&["upgrade"]);
    until("the upgrade", LIMIT, async || {
        let is_over = upgrade.try_wait().expect("our child").is_some();
        (is_over || waits() > before).then_some(())
    })
    .await;
    release();
    let output = upgrade.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
}
