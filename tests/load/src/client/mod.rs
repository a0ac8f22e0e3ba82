//! One client: what it asks, how it checks the answer, and when it ends.

mod grpc;
pub(crate) mod http1;
pub(crate) mod http2;
mod websocket;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use crate::failure::{Cause, Failure};
use crate::load::{Kind, Plan};
use crate::pattern;
use crate::random::Random;
use crate::report::Tally;
use crate::schedule::Schedule;
use crate::target::{Stream, Target};

/// Pause after a failure, so that a server that is gone is not asked in a tight loop.
const AFTER_FAILURE: Duration = Duration::from_millis(10);
/// Largest body of a POST, in bytes.
const MAX_POST: u64 = 8 * 1024;

pub(crate) async fn run(kind: Kind, client: Client) {
    match kind {
        Kind::Http1KeepAlive => http1::keep_alive(client).await,
        Kind::Http1Fresh => http1::fresh(client).await,
        Kind::Http2 { streams } | Kind::Grpc { streams } => http2::run(client, streams).await,
        Kind::Http2Resumed => http2::resumed(client).await,
        Kind::WebSocket => websocket::run(client).await,
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) target: Arc<Target>,
    pub(crate) plan: Arc<Plan>,
    /// In place of think times.
    pub(crate) schedule: Option<Arc<Schedule>>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) stopped: watch::Receiver<bool>,
    pub(crate) began: Instant,
    pub(crate) random: Random,
    /// Requests to make.
    pub(crate) left: u64,
    pub(crate) grpc: bool,
}

/// One request.
#[derive(Debug)]
struct Ask {
    path: String,
    nonce: String,
    /// A POST where there is one.
    body: Option<Bytes>,
    /// Of the answer's body, where nothing else is known of it.
    length: Option<usize>,
    grpc: bool,
}

/// One response, as far as it is checked.
#[derive(Debug)]
struct Answer {
    status: u16,
    nonce: Option<String>,
    upstream: Option<String>,
    grpc_status: Option<String>,
    body: Vec<u8>,
}

impl Client {
    /// Another one with the same limits, for a stream of its own.
    fn fork(&mut self) -> Self {
        Client { random: Random::new(self.random.draw()), ..self.clone() }
    }

    /// Whether there is a next request to make.
    fn goes_on(&self) -> bool {
        self.left > 0 && !*self.stopped.borrow() && self.began.elapsed() < self.plan.until
    }

    /// Waits for the next request, and says when it was due; `None` when there is none. Cancel safe.
    async fn turn(&mut self) -> Option<Instant> {
        if !self.goes_on() {
            return None;
        }
        let due = match self.schedule.clone() {
            Some(schedule) => tokio::select! {
                due = schedule.next() => due,
                _ = self.stopped.wait_for(|stopped| *stopped) => return None,
            },
            None => {
                let think = self.random.duration(&self.plan.think);
                self.pause(think).await;
                Instant::now()
            }
        };
        self.goes_on().then_some(due)
    }

    /// Waits; less where the load is stopped meanwhile.
    async fn pause(&mut self, time: Duration) {
        // A timer would take a millisecond for nothing.
        if time.is_zero() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            _ = self.stopped.wait_for(|stopped| *stopped) => {}
        }
    }

    async fn connect(&self, alpn: &str) -> Result<Stream, Failure> {
        let stream = self.target.connect(alpn).await?;
        self.tally.connected();
        Ok(stream)
    }

    fn ask(&mut self) -> Ask {
        self.left -= 1;
        let nonce = format!("{:016x}", self.random.draw());
        if self.grpc {
            let body = Some(grpc::message(&nonce));
            return Ask { path: grpc::PATH.to_owned(), nonce, body, length: None, grpc: true };
        }
        if let Some((path, length)) = &self.plan.file {
            let length = Some(*length);
            return Ask { path: path.clone(), nonce, body: None, length, grpc: false };
        }
        let every = self.plan.post_one_in;
        let body = (every > 0 && self.random.below(every) == 0).then(|| self.post_body(&nonce));
        let path = if body.is_some() { "echo" } else { "" };
        Ask { path: format!("{}{path}", self.plan.base), nonce, body, length: None, grpc: false }
    }

    fn post_body(&mut self, nonce: &str) -> Bytes {
        let filler = pattern::bytes(self.random.below(MAX_POST) as usize);
        [nonce.as_bytes(), &filler].concat().into()
    }

    /// Counts an attempt; after a failure pauses.
    async fn count(&mut self, began: Instant, outcome: Result<String, Failure>) {
        let failed = outcome.is_err();
        self.tally.count(began.elapsed(), outcome);
        if failed {
            self.pause(AFTER_FAILURE).await;
        }
    }
}

impl Ask {
    /// The upstream's name, where the answer is the one to this request and no other.
    fn check(&self, answer: Answer) -> Result<String, Failure> {
        let wrong = |text: String| Err(Failure::new(Cause::WrongBody, text));
        if answer.status != 200 {
            return Err(Failure::new(Cause::WrongStatus, answer.status.to_string()));
        }
        if let Some(length) = self.length {
            return match answer.body.len() == length {
                true => Ok("file".to_owned()),
                false => wrong(format!("{} bytes in place of {length}", answer.body.len())),
            };
        }
        if self.grpc && answer.grpc_status.as_deref() != Some("0") {
            return wrong(format!("grpc-status {:?}", answer.grpc_status));
        }
        let upstream = answer.upstream.unwrap_or_default();
        if answer.nonce.as_deref() != Some(&self.nonce) {
            return wrong(format!("nonce {:?} in place of {}", answer.nonce, self.nonce));
        }
        let same = match &self.body {
            Some(sent) => answer.body == *sent,
            None => answer.body == format!("{upstream} {}\n", self.nonce).as_bytes(),
        };
        if !same {
            let start = &answer.body[..answer.body.len().min(60)];
            return wrong(format!("{} bytes: {}", answer.body.len(), start.escape_ascii()));
        }
        Ok(upstream)
    }
}
