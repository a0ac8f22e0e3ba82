//! Handshakes that are under way while listeners change hands: clients behind a slow link.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use baton_load::{Kind, Load, Target, Upstream};
use baton_tests::{Baton, Link, until};

use crate::stage::{LIMIT, Mode, find, get, in_modes};
use crate::{PLAIN, nobody_felt_anything, routed_to};

in_modes! {
    both:
    handshakes_that_straddle_a_flip_complete;
    ebpf:
    half_open_connections_of_a_closed_listener_complete
}

/// Each way.
const DELAY: Duration = Duration::from_millis(50);
const HALF_OPEN: usize = 200;

async fn handshakes_that_straddle_a_flip_complete(mode: Mode) {
    let Some(stage) = Distant::start(mode, DELAY).await else { return };
    let address = stage.baton.http_address();
    let clients = stage.link.far.block_on(move || async move {
        // 20 clients, a connection for each request: at each moment some are in a handshake.
        let load = Load::new(Target::plain(address, PLAIN)).clients(Kind::Http1Fresh, 20);
        load.requests(40).start().finish().await
    });
    for streams in 1..=5 {
        stage.hand_over(streams);
        until("the old generation's end", LIMIT, async || {
            (find(&stage.baton.status_json(), "draining").count() == 0).then_some(())
        })
        .await;
    }
    let report = clients.join().expect("no panic");
    nobody_felt_anything(&report);
    assert_eq!(report.requests(), 20 * 40, "{report}");
}

async fn half_open_connections_of_a_closed_listener_complete(mode: Mode) {
    let Some(stage) = Distant::start(mode, Duration::ZERO).await else { return };
    let address = stage.baton.http_address();
    stage.link.hold();
    let clients = stage.link.far.block_on(move || async move {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..HALF_OPEN {
            clients.spawn(baton_tests::exchange(address, get(PLAIN)));
        }
        clients.join_all().await
    });
    until("half-open connections", LIMIT, async || {
        (stage.link.held_connections() == HALF_OPEN).then_some(())
    })
    .await;
    stage.hand_over(1);
    until("the close of the old listeners", LIMIT, async || {
        stage.baton.status_json()["last_handoffs"][0]["ms_to_close"].as_u64()
    })
    .await;
    stage.link.release();
    let answers = clients.join().expect("no panic");
    assert_eq!(answers.len(), HALF_OPEN);
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200 ")), "{answers:?}");
    let status = stage.baton.status_json();
    let migrated = &find(&status, "active").next().expect("an active generation")["migrated"];
    assert_eq!(migrated, HALF_OPEN, "{status}");
}

/// A baton at the other end of a link, with its upstream beside it.
struct Distant {
    baton: Baton,
    link: Link,
    mode: Mode,
    upstream: SocketAddr,
    /// The upstream ends when this is dropped.
    _end: tokio::sync::oneshot::Sender<()>,
}

impl Distant {
    async fn start(mode: Mode, delay: Duration) -> Option<Self> {
        let link = Link::create(delay)?;
        let (_end, ended) = tokio::sync::oneshot::channel::<()>();
        let (started, address) = mpsc::channel();
        link.near.block_on(move || async move {
            let upstream = Upstream::start("near").await.expect("upstream");
            started.send(upstream.address()).expect("the test waits");
            let _ = ended.await;
        });
        let upstream = address.recv().expect("it starts");
        let baton = Baton::start_in(&link.near, config(mode, upstream, 100)).await;
        Some(Distant { baton, link, mode, upstream, _end })
    }

    fn hand_over(&self, streams: u32) {
        let said = self.baton.reconfigure(&config(self.mode, self.upstream, streams));
        assert_eq!(said["handoff"]["outcome"], "done", "{said}");
    }
}

fn config(mode: Mode, upstream: SocketAddr, streams: u32) -> baton_tests::Config {
    routed_to(&upstream)
        .top(&format!("handoff = {:?}", mode.as_str()))
        .listen(&format!("http = [\"{}:0\"]\nhttps = []", Link::ADDRESS))
        .section(&format!("[limits]\nstreams = {streams}"))
}
