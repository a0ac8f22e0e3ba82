//! How long what is in progress at an upstream may last once it has left the rotation, where its route
//! says so.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::local::Local;
use super::upstream::Upstream;
use crate::protocol::snapshot::UpstreamProtocol;

/// One upstream, watched.
#[derive(Debug)]
pub struct Leaving {
    local: Rc<Local>,
    news: watch::Receiver<u64>,
    upstream: (SocketAddr, UpstreamProtocol),
    limit: Duration,
}

impl Leaving {
    pub fn watch(local: &Rc<Local>, upstream: &Upstream, limit: Duration) -> Self {
        let key = (upstream.address, upstream.protocol);
        Leaving { local: local.clone(), news: local.news(), upstream: key, limit }
    }

    /// Ends when the upstream has been in no table for the time that its route gives.
    pub async fn over(&mut self) {
        let mut left = None;
        loop {
            left = if self.is_there() { None } else { left.or_else(|| Some(Instant::now())) };
            let changed = match left {
                None => self.news.changed().await,
                Some(since) => tokio::select! {
                    changed = self.news.changed() => changed,
                    () = sleep_until(since + self.limit) => return,
                },
            };
            if changed.is_err() {
                // The worker ends, and has limits of its own.
                return std::future::pending().await;
            }
        }
    }

    fn is_there(&self) -> bool {
        self.local.routing().pools.has(self.upstream)
    }
}
