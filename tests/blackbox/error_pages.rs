//! Pages that people have written for errors.

use std::fs;

use baton_load::Upstream;
use baton_tests::{Baton, Config};

use crate::{APP, PLAIN};

/// Nobody listens there.
const NOBODY: &str = "127.0.0.1:9";

#[tokio::test]
async fn errors_have_the_pages_of_the_directory() {
    let directory = tempfile::tempdir().expect("tempdir");
    let page = |name: &str, html: &str| fs::write(directory.path().join(name), html).expect("page");
    fs::create_dir(directory.path().join("shop")).expect("a set");
    page("5xx.html", "<p>Everything falls.");
    page("shop/502.html", "<p>The shop is shut.");
    let upstream = Upstream::start("one").await.expect("upstream");
    let config = Config::new()
        .top(&format!("error_pages = \"{}\"", directory.path().display()))
        .route_with(APP, &[NOBODY], "error_pages = \"shop\"")
        .route_with(APP, &[upstream.address()], "path = \"/status\"")
        .route_with(PLAIN, &[NOBODY], "tls = \"off\"");
    let baton = Baton::start(config.clone()).await;

    let text = async |url: &str, fields: [&str; 2]| {
        let answer = baton.curl(url).args(fields).run().await;
        (answer.status, answer.text())
    };
    let html = ["-H", "Accept: text/html"];
    let shop = text("https://app.test/", html).await;
    assert_eq!(shop, (502, "<p>The shop is shut.".to_owned()));
    let usual = text("http://plain.test/", html).await;
    assert_eq!(usual, (502, "<p>Everything falls.".to_owned()));
    let unknown = text("http://unknown.test/", html).await;
    assert_eq!(unknown, (503, "<p>Everything falls.".to_owned()));
    let json = text("http://plain.test/", ["-H", "Accept: application/json"]).await;
    assert!(json.0 == 502 && json.1.starts_with('{'), "{json:?}");
    // What an upstream says is its own.
    let (status, own) = text("https://app.test/status?code=500", html).await;
    assert!(status == 500 && !own.contains("falls"), "{own}");

    page("5xx.html", "<p>It will rise.");
    baton.reconfigure(&config);
    let again = text("http://plain.test/", html).await;
    assert_eq!(again, (502, "<p>It will rise.".to_owned()));
}
