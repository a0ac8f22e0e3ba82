//! What a CA offers to choose from: chains and profiles.

use baton_tests::{Answer, Endpoint, PebbleOptions, common_name, until};
use serde_json::{Value, json};

use crate::acme::{ISSUE_LIMIT, Site};

const NAME: &str = "app.example.com";

fn quick() -> PebbleOptions {
    PebbleOptions { sleeps: false, ..PebbleOptions::default() }
}

/// By a client that trusts one root alone.
async fn trusting(site: &Site, root: usize) -> Answer {
    let root = site.pebble.numbered_root_file(root);
    site.baton.curl(&format!("https://{NAME}/")).arg("--cacert").arg(root).run().await
}

#[tokio::test]
async fn the_chain_to_a_preferred_root_is_served() {
    let site = Site::start(PebbleOptions { alternate_roots: 2, ..quick() }).await;
    let wanted = common_name(&site.pebble.numbered_root_file(2));
    site.serve(&[NAME], &format!("preferred_chain = \"{wanted}\""));
    site.wait_valid(NAME).await;
    until("the other chain", ISSUE_LIMIT, async || {
        (trusting(&site, 2).await.status == 200).then_some(())
    })
    .await;
    // Nothing of the default chain is in it.
    assert_eq!(trusting(&site, 0).await.status, 0);
    assert_eq!(site.pebble.orders(), 1);
}

#[tokio::test]
async fn without_such_a_chain_the_default_one_is_served_and_the_others_are_named() {
    let site = Site::start(PebbleOptions { alternate_roots: 1, ..quick() }).await;
    site.serve(&[NAME], "preferred_chain = \"Root of nobody\"");
    site.wait_issued(NAME).await;
    let [first, second] = [0, 1].map(|number| common_name(&site.pebble.numbered_root_file(number)));
    let said = format!("no chain to `Root of nobody`: the CA has `{first}`, `{second}`");
    site.baton.wait_said(&said).await;
}

#[tokio::test]
async fn a_profile_is_ordered_where_the_ca_has_it() {
    let (site, ca) = Site::start_behind_proxy(quick()).await;
    ca.edit(Endpoint::Directory, |directory| {
        let mut directory: Value = serde_json::from_str(directory).expect("JSON");
        directory["meta"]["profiles"] =
            json!({"shortlived": "six days", "tlsserver": "for servers"});
        directory.to_string()
    });
    site.serve(&[NAME], "profile = \"shortlived\"");
    site.wait_issued(NAME).await;
    assert_eq!(ca.orders().last().expect("an order")["profile"], "shortlived");

    site.serve(&[NAME, "other.example.com"], "profile = \"longlived\"");
    let failed = site.wait_failed("other.example.com").await;
    let said = "the CA has no profile `longlived`: it has `shortlived`, `tlsserver`";
    assert!(failed.to_string().contains(said), "{failed}");
    assert_eq!(ca.orders().len(), 1);
}

#[tokio::test]
async fn a_ca_without_profiles_is_asked_all_the_same_and_it_is_said() {
    let site = Site::start(quick()).await;
    site.serve(&[NAME], "profile = \"shortlived\"");
    site.wait_issued(NAME).await;
    site.baton.wait_said("this CA has no profiles: `shortlived` says nothing").await;
}
