//! The status page, in a browser.

use std::time::Duration;

use baton_tests::{Baton, Browser, Config, exchange, until};
use serde_json::Value;

use crate::{APP, in_front_of_one, routed_to};

const METRICS: &str = "[metrics]\nlisten = \"127.0.0.1:0\"";
const LIMIT: Duration = Duration::from_secs(20);

/// What is in the table of routes.
async fn routes(browser: &Browser) -> String {
    text(&browser.script("return document.getElementById('routes').innerText").await)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_sees_what_changes_as_it_does() {
    let (baton, upstream) = in_front_of_one().await;
    let config = || routed_to(&upstream.address()).section(METRICS);
    baton.reconfigure(&config());
    let browser = Browser::start(&[]).await;
    browser.go(&format!("http://{}/", baton.metrics_address())).await;
    until("the first state", LIMIT, async || routes(&browser).await.contains(APP).then_some(()))
        .await;

    // A route that comes, without anybody loading the page again.
    browser.script("window.loaded = 'once'").await;
    baton.reconfigure(&config().route("new.test", &["127.0.0.1:9"]));
    until("another route", LIMIT, async || {
        routes(&browser).await.contains("new.test").then_some(())
    })
    .await;
    assert_eq!(browser.script("return window.loaded").await, "once");

    browser
        .script(
            "const f = document.getElementById('filter'); f.value = 'NEW.'; \
        f.dispatchEvent(new Event('input'))",
        )
        .await;
    let found = routes(&browser).await;
    assert!(found.contains("new.test") && !found.contains(APP), "{found}");

    // A handoff, whose steps somebody opens; they stay open when the next state comes.
    baton.reconfigure(&config().section("[limits]\nstreams = 7"));
    let opened = "return document.querySelector('#handoffs details')?.open ?? null";
    until("the handoff", LIMIT, async || browser.script(opened).await.as_bool()).await;
    // Its route is not in this configuration: what lies below it moves up once, and is clicked then.
    until("the route to go", LIMIT, async || routes(&browser).await.is_empty().then_some(())).await;
    browser.click("#handoffs summary").await;
    let steps = browser.script("return document.querySelector('#handoffs ol').innerText").await;
    assert!(text(&steps).contains("new connections go to generation"), "{steps}");
    until("its end", LIMIT, async || {
        let said = browser.script("return document.querySelector('#handoffs summary').innerText");
        text(&said.await).contains("done").then_some(())
    })
    .await;
    assert_eq!(browser.script(opened).await, true);

    looks_well(&browser).await;

    // An upgrade takes the connection away and gives it back.
    let upgraded = baton.command(&["upgrade"]);
    assert!(upgraded.status.success(), "{upgraded:?}");
    until("the page to be live again", LIMIT, async || {
        let shown = browser.script("return document.querySelector('#handoffs summary').innerText");
        let link = browser.script("return document.getElementById('link').innerText");
        let shown = text(&shown.await);
        (shown.contains("upgrade") && shown.contains("done") && link.await == "live").then_some(())
    })
    .await;
}

/// By day and by night, on a desk and in a hand.
async fn looks_well(browser: &Browser) {
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        grounds
            .push(browser.script("return getComputedStyle(document.body).backgroundColor").await);
    }
    assert_ne!(grounds[0], grounds[1]);
    for width in [360, 1280] {
        browser.resize(width, 800).await;
        let wide = browser.script("return document.documentElement.scrollWidth - innerWidth").await;
        assert!(wide.as_i64().is_some_and(|wide| wide <= 0), "{wide} pixels beyond {width}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_is_answered() {
    let upstream = "127.0.0.1:9".to_owned();
    let baton = Baton::start(Config::new().route(APP, &[&upstream]).section(METRICS)).await;
    let address = baton.metrics_address();
    let ask = async |fields: &str| {
        let request = format!("GET /events HTTP/1.1\r\n{fields}Connection: close\r\n\r\n");
        exchange(address, request).await
    };
    let by_name = ask("Host: evil.example.com\r\n").await;
    assert!(by_name.starts_with("HTTP/1.1 421 "), "{by_name}");
    let by_page = ask(&format!("Host: {address}\r\nOrigin: http://evil.example.com\r\n")).await;
    assert!(by_page.starts_with("HTTP/1.1 403 "), "{by_page}");
    let page = exchange(address, format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n")).await;
    let policy = "content-security-policy: default-src 'none'; script-src 'self'";
    assert!(page.starts_with("HTTP/1.1 200 ") && page.contains(policy), "{page}");
}
