//! Upstreams behind a network that loses everything, or that have forgotten their connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use baton_load::{Upstream, UpstreamOptions};
use baton_tests::{Baton, Config, Link, exchange_within};
use tokio::sync::oneshot;

use crate::PLAIN;
use crate::stage::get;

/// Of `timeouts.connect` and `timeouts.response_head` here.
const LIMIT: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(10);
const PORT: u16 = 8080;
const FAR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Link::FAR_ADDRESS), PORT);

/// A baton on one side of a link, and its upstreams on either.
struct Network {
    link: Link,
    baton: Baton,
    far: Option<Remote>,
    _near: Option<Remote>,
}

/// An upstream in a namespace, as long as it is held.
struct Remote(Option<oneshot::Sender<()>>, Option<std::thread::JoinHandle<()>>);

impl Remote {
    fn start(namespace: &baton_tests::Namespace, name: &'static str, address: SocketAddr) -> Self {
        let (end, ended) = oneshot::channel::<()>();
        let (started, is_there) = std::sync::mpsc::channel();
        let thread = namespace.block_on(move || async move {
            let options = UpstreamOptions {
                name: name.into(),
                listen: Some(address),
                ..UpstreamOptions::default()
            };
            let _upstream = Upstream::start_with(options).await.expect("upstream");
            started.send(()).expect("the test waits");
            let _ = ended.await;
        });
        is_there.recv().expect("it starts");
        Remote(Some(end), Some(thread))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        drop(self.0.take());
        let _ended = self.1.take().map(std::thread::JoinHandle::join);
    }
}

impl Network {
    async fn start(with_near: bool) -> Option<Self> {
        let link = Link::create(Duration::ZERO)?;
        let near = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT);
        let mut upstreams = vec![FAR];
        upstreams.extend(with_near.then_some(near));
        let far = Some(Remote::start(&link.far, "far", FAR));
        let _near = with_near.then(|| Remote::start(&link.near, "near", near));
        let config = Config::new()
            .listen(&format!("http = [\"{}:0\"]\nhttps = []", Link::ADDRESS))
            .top("threads = 1")
            .route_with(PLAIN, &upstreams, "tls = \"off\"")
            .section("[timeouts]\nconnect = \"300ms\"\nresponse_head = \"300ms\"");
        let baton = Baton::start_in(&link.near, config).await;
        Some(Network { link, baton, far, _near })
    }

    fn ask(&self) -> String {
        let address = self.baton.http_address();
        let asked = self.link.near.block_on(move || exchange_within(PATIENCE, address, get(PLAIN)));
        asked.join().expect("no panic")
    }

    /// In as many turns as it takes to have asked both.
    fn ask_often(&self) -> Vec<String> {
        (0..6).map(|_| self.ask()).collect()
    }
}

fn is_ok(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 ")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_in_a_black_hole_costs_a_wait_where_there_is_another() {
    let Some(network) = Network::start(true).await else { return };
    // Before there is a connection: nobody answers the SYN.
    network.link.cut();
    let began = Instant::now();
    let answers = network.ask_often();
    assert!(answers.iter().all(|answer| is_ok(answer)), "{answers:?}");
    // It is not asked again by each request.
    assert!(began.elapsed() < 4 * LIMIT, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_falls_into_a_black_hole_is_a_504_in_time_and_no_longer() {
    let Some(network) = Network::start(false).await else { return };
    assert!(is_ok(&network.ask()));
    // The connection is kept, and nothing comes through it.
    network.link.cut();
    let began = Instant::now();
    let answer = network.ask();
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(began.elapsed() < 5 * LIMIT, "{:?}", began.elapsed());
    network.link.mend();
    baton_tests::until("an answer", PATIENCE, async || is_ok(&network.ask()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_forgot_its_connections_is_felt_by_nobody() {
    let Some(mut network) = Network::start(false).await else { return };
    assert!(is_ok(&network.ask()));
    // It ends, which nobody hears, and another is at its address.
    network.link.cut();
    network.far = None;
    network.link.forget();
    network.far = Some(Remote::start(&network.link.far, "far again", FAR));
    network.link.mend();
    let answer = network.ask();
    assert!(is_ok(&answer) && answer.contains("far again"), "{answer}");
}
