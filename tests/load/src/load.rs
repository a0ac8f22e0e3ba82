//! A load: how many clients of which kind, what they ask, and for how long.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::{self, Client};
use crate::random::Random;
use crate::report::{Report, Tally};
use crate::schedule::Schedule;
use crate::target::Target;

/// A load that nobody stops ends by itself.
const USUAL_TIME: Duration = Duration::from_secs(3600);
/// Whatever is asked for.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);
/// Bound on the clients of one load.
const MAX_CLIENTS: usize = 10_000;

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// HTTP/1.1, one connection as long as the server keeps it.
    Http1KeepAlive,
    /// HTTP/1.1, a connection for each request.
    Http1Fresh,
    /// HTTP/2, one connection as long as the server keeps it, with this many concurrent streams.
    Http2 { streams: usize },
    /// HTTP/2, a connection for each request, whose TLS session is resumed.
    Http2Resumed,
    /// Unary calls of gRPC over one HTTP/2 connection, with this many at a time; each message is echoed.
    Grpc { streams: usize },
    /// A WebSocket held open; each message is echoed.
    WebSocket,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Http1KeepAlive => "HTTP/1.1 keep-alive",
            Kind::Http1Fresh => "HTTP/1.1 new connection",
            Kind::Http2 { .. } => "HTTP/2",
            Kind::Http2Resumed => "HTTP/2 resumed connection",
            Kind::Grpc { .. } => "gRPC",
            Kind::WebSocket => "WebSocket",
        })
    }
}

#[derive(Debug, Clone)]
pub struct Load {
    target: Target,
    groups: Vec<(Kind, usize)>,
    plan: Plan,
    seed: u64,
}

/// What all clients of a load have in common.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Prefix of every path, ending in `/`.
    pub(crate) base: String,
    pub(crate) think: Range<Duration>,
    /// Requests a second of all clients together, in place of think times.
    pub(crate) rate: Option<u64>,
    /// The one path that is asked for, and the length of its body.
    pub(crate) file: Option<(String, usize)>,
    pub(crate) timeout: Duration,
    /// One request of so many is a POST with a body.
    pub(crate) post_one_in: u64,
    /// Requests of each client.
    pub(crate) requests: u64,
    pub(crate) until: Duration,
}

impl Load {
    pub fn new(target: Target) -> Self {
        Load {
            target,
            groups: Vec::new(),
            plan: Plan {
                base: "/".to_owned(),
                think: Duration::from_millis(1)..Duration::from_millis(20),
                rate: None,
                file: None,
                timeout: Duration::from_secs(10),
                post_one_in: 8,
                requests: u64::MAX,
                until: USUAL_TIME,
            },
            seed: 1,
        }
    }

    /// Adds clients of one kind.
    #[must_use]
    pub fn clients(mut self, kind: Kind, count: usize) -> Self {
        self.groups.push((kind, count.min(MAX_CLIENTS)));
        self
    }

    /// The prefix under which the upstream answers; default `/`.
    #[must_use]
    pub fn base(mut self, path: &str) -> Self {
        self.plan.base = format!("{}/", path.trim_end_matches('/'));
        self
    }

    /// Pause between two requests of a client, or of a stream; default 1 to 20 ms. An empty range from
    /// zero is no pause.
    #[must_use]
    pub fn think(mut self, range: Range<Duration>) -> Self {
        self.plan.think = range;
        self
    }

    /// So many requests a second of all clients together, whatever has become of those before, in place
    /// of pauses. Latency counts from when a request was due.
    #[must_use]
    pub fn rate(mut self, per_second: u64) -> Self {
        self.plan.rate = Some(per_second);
        self
    }

    /// Every request but those of gRPC and WebSockets is a GET of this path, and every body has to have
    /// this length. For servers that are not the upstream of this crate.
    #[must_use]
    pub fn file(mut self, path: &str, length: usize) -> Self {
        self.plan.file = Some((path.to_owned(), length));
        self
    }

    /// From the first byte of a request (or of its connection) to the last of its response; default
    /// 10 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.plan.timeout = timeout;
        self
    }

    /// One request of so many is a POST with a body; 0 is none, default 8.
    #[must_use]
    pub fn post_one_in(mut self, count: u64) -> Self {
        self.plan.post_one_in = count;
        self
    }

    /// Each client ends after so many requests.
    #[must_use]
    pub fn requests(mut self, count: u64) -> Self {
        self.plan.requests = count;
        self
    }

    /// The load ends after this time, a day at most; default an hour.
    #[must_use]
    pub fn time(mut self, limit: Duration) -> Self {
        self.plan.until = limit.min(MAX_TIME);
        self
    }

    /// Same seed, same requests and think times.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Starts every client on the current tokio runtime.
    pub fn start(self) -> Running {
        let began = Instant::now();
        let (stop, stopped) = watch::channel(false);
        let (target, plan) = (Arc::new(self.target), Arc::new(self.plan));
        let schedule = plan.rate.map(Schedule::start);
        let mut tallies = BTreeMap::new();
        let mut tasks = JoinSet::new();
        let mut seed = self.seed;
        for (kind, count) in self.groups {
            let tally = tallies.entry(kind).or_insert_with(|| Arc::new(Tally::new(began)));
            for _ in 0..count {
                seed = seed.wrapping_add(1);
                let client = Client {
                    target: target.clone(),
                    plan: plan.clone(),
                    schedule: schedule.clone(),
                    tally: Arc::clone(tally),
                    stopped: stopped.clone(),
                    began,
                    random: Random::new(seed),
                    left: plan.requests,
                    grpc: matches!(kind, Kind::Grpc { .. }),
                };
                tasks.spawn(client::run(kind, client));
            }
        }
        Running { began, stop, tallies, tasks }
    }
}

/// A load under way. Dropping it tears its connections.
#[derive(Debug)]
pub struct Running {
    began: Instant,
    stop: watch::Sender<bool>,
    tallies: BTreeMap<Kind, Arc<Tally>>,
    tasks: JoinSet<()>,
}

impl Running {
    /// What was felt so far.
    pub fn snapshot(&self) -> Report {
        let kinds = self.tallies.iter().map(|(kind, tally)| (*kind, tally.snapshot())).collect();
        Report { elapsed: self.began.elapsed(), kinds }
    }

    /// Waits until every client ended by itself, by requests or time.
    pub async fn finish(mut self) -> Report {
        self.ended().await;
        self.snapshot()
    }

    /// The same, and keeps the load. Cancel safe.
    pub async fn ended(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            // A client that panics would otherwise count as one that felt nothing.
            if let Err(error) = ended {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }

    /// Lets each client finish the request that it is in, then ends.
    pub async fn stop(mut self) -> Report {
        self.stop.send_replace(true);
        self.ended().await;
        self.snapshot()
    }
}
