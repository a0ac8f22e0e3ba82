//! A host whose clock is set, forth and back (libfaketime under the controller).

use std::fs;
use std::path::Path;

use baton_tests::{Config, PebbleOptions, until};

use crate::acme::{ISSUE_LIMIT, Site};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
const NAME: &str = "app.example.com";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_set_forth_renews_and_one_set_back_orders_nothing() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let clock = directory.path().join("clock");
    set(&clock, "+0d");
    let config = Config::new()
        .variable("LD_PRELOAD", LIBRARY)
        .variable("FAKETIME_TIMESTAMP_FILE", clock.to_str().expect("UTF-8"))
        .variable("FAKETIME_NO_CACHE", "1")
        // What is waited for is waited for by the clock that nobody sets.
        .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let options = PebbleOptions { sleeps: false, ..PebbleOptions::default() };
    let site = Site::start_with(config, options).await;
    site.serve(&[NAME], "");
    site.wait_issued(NAME).await;
    let first = site.serial();

    // Of ninety. A reload that wants something else of its certificates looks at the clock at once.
    set(&clock, "+80d");
    site.serve(&[NAME], "email = \"one@example.com\"");
    until("a renewal", ISSUE_LIMIT, async || (site.serial() != first).then_some(())).await;
    let second = site.serial();

    // By that clock the next one ends in ten days too: it is kept for an hour all the same.
    site.serve(&[NAME], "email = \"two@example.com\"");
    set(&clock, "+0d");
    site.serve(&[NAME, "other.example.com"], "");
    site.wait_issued("other.example.com").await;
    assert_eq!(site.serial(), second);
    assert_eq!(site.pebble.orders(), 3);
}

/// Replaced whole: it is read at every look at the clock.
fn set(clock: &Path, offset: &str) {
    let new = clock.with_extension("new");
    fs::write(&new, offset).expect("temp dir");
    fs::rename(&new, clock).expect("temp dir");
}
