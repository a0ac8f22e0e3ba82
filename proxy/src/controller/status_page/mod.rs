//! The status page: one page, live by server-sent events (HTML, section 9.2). It tells what `baton
//! status`, `routes` and `certs` tell, and takes no order.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::{Stream, unfold};
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{sleep, timeout};

use super::admin::answers::{Certificate, Routes, Status};
use super::admin::known::Known;
use super::metrics::{Load, Tally};
use crate::protocol::stats::{BOUNDS_US, BUCKETS};

/// Nothing of another origin, nothing inline, nobody around it (Content Security Policy 3).
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Between two readings while nothing happens: rates need them.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long the page waits before it comes again, when an upgrade or a stop has ended the stream.
const RETRY_MS: u32 = 1000;
/// Changes within this time are told together.
const BURST: Duration = Duration::from_millis(200);

/// A file of the page, with its type.
pub fn file(path: &str) -> Option<(&'static str, &'static str)> {
    match path {
        "/" => Some(("text/html; charset=utf-8", include_str!("page.html"))),
        "/page.css" => Some(("text/css; charset=utf-8", include_str!("page.css"))),
        "/page.js" => Some(("text/javascript; charset=utf-8", include_str!("page.js"))),
        _ => None,
    }
}

/// What is true at a moment.
#[derive(Debug, Serialize)]
struct Told {
    now_ms: u64,
    status: Status,
    routes: Routes,
    certificates: Vec<Certificate>,
    load: Load,
    totals: Totals,
}

/// Counters, as far as the graphs need them. They do not fall.
#[derive(Debug, Serialize)]
struct Totals {
    requests: u64,
    /// 5xx answers.
    errors: u64,
    /// Of the buckets of `buckets` but the last, which has none.
    bounds_us: [u64; BUCKETS - 1],
    /// Requests by how long they took.
    buckets: Vec<u64>,
}

impl Totals {
    fn of(tally: &Tally) -> Self {
        let workers = tally.totals().workers;
        let mut buckets = vec![0; BUCKETS];
        for host in workers.hosts.values() {
            for (sum, count) in buckets.iter_mut().zip(&host.durations.buckets) {
                *sum += count;
            }
        }
        Totals {
            requests: workers.requests_http1 + workers.requests_http2,
            errors: workers.responses[4],
            bounds_us: BOUNDS_US,
            buckets,
        }
    }
}

/// Tells the state now, and again whenever it has changed or [`INTERVAL`] is over, until `over`. The `place` is free again with the stream.
pub fn events(
    known: Known,
    tally: Tally,
    over: watch::Receiver<()>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    let teller = Teller { known, tally, over, _place: place, told_before: false };
    unfold(teller, |mut teller| async move {
        teller.wait().await?;
        let event = teller.event().await;
        Some((Ok(Frame::data(event)), teller))
    })
}

struct Teller {
    known: Known,
    tally: Tally,
    over: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
    told_before: bool,
}

impl Teller {
    /// None: the listener stops.
    async fn wait(&mut self) -> Option<()> {
        if !std::mem::replace(&mut self.told_before, true) {
            return Some(());
        }
        tokio::select! {
            // Its sender says nothing, and is dropped.
            _ = self.over.changed() => None,
            () = news(&mut self.known) => Some(()),
        }
    }

    async fn event(&mut self) -> Bytes {
        let known = &mut self.known;
        known.fleet.mark_unchanged();
        known.handoffs.mark_unchanged();
        let view = Arc::clone(&known.view.borrow_and_update());
        // Asked first, because workers tell the tally what they have counted with it.
        let status = known.status().await;
        let workers = status.generations.iter().filter_map(|one| one.counters.as_ref());
        let load = workers.fold(Load::default(), |sum, counters| sum.and(Load::of(counters)));
        let told = Told {
            now_ms: now_ms(),
            status,
            routes: view.routes.clone(),
            certificates: view.certificates.clone(),
            load,
            totals: Totals::of(&self.tally),
        };
        let json = serde_json::to_string(&told).expect("its keys are strings");
        // JSON has no line end but where it is made pretty.
        Bytes::from(format!("retry: {RETRY_MS}\nevent: state\ndata: {json}\n\n"))
    }
}

async fn news(known: &mut Known) {
    sleep(BURST).await;
    let Known { fleet, handoffs, view, .. } = known;
    let changed = async {
        tokio::select! {
            Ok(()) = fleet.changed() => {}
            Ok(()) = handoffs.changed() => {}
            Ok(()) = view.changed() => {}
            else => std::future::pending().await,
        }
    };
    // Over or not, there is something to tell.
    let _ = timeout(INTERVAL, changed).await;
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn the_state_is_told_at_once_and_after_a_change_until_it_is_over() {
        let (view, views) = watch::channel(Arc::default());
        let known = Known { view: views, ..Known::silent() };
        let (over, is_over) = watch::channel(());
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("free");
        let mut events = std::pin::pin!(events(known, Tally::default(), is_over, place));
        for _ in 0..2 {
            let frame = events.next().await.expect("told").expect("never fails");
            let text = String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text");
            let json = text.split_once("\nevent: state\ndata: ").expect("an event").1;
            let told: serde_json::Value = serde_json::from_str(json).expect("one line");
            assert_eq!(told["status"]["generations"][0]["id"], 1, "{told}");
            view.send_replace(Arc::default());
        }
        drop(over);
        assert!(events.next().await.is_none());
    }

    #[test]
    fn the_page_asks_for_nothing_but_itself() {
        for path in ["/", "/page.css", "/page.js"] {
            let (_, text) = file(path).expect("a file");
            let others = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!others.contains("://") || path == "/page.js", "{path}");
            assert!(!text.contains("innerHTML") && !text.contains(" style="), "{path}");
        }
    }
}
