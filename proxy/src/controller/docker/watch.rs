//! Keeps the list of containers true, through restarts of the daemon.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until};
use tracing::{debug, info, warn};

use super::client::{Client, ClientError};
use super::endpoint::Endpoint;
use super::event;
use super::inspect::Inspected;
use super::tracker::Tracker;
use super::{Containers, DockerStatus};
use crate::config;

/// Before the first try to connect again; doubled for each further one.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// The running watch. Ends when it is stopped or dropped.
#[derive(Debug)]
pub struct Watch {
    /// Dropped to stop the task; `None` when Docker is switched off.
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Watch {
    /// Starts to watch. The first value of the receiver knows nothing yet.
    pub fn start(settings: &config::Docker) -> (Watch, watch::Receiver<Arc<Containers>>) {
        let (publisher, receiver) = watch::channel(Arc::new(Containers::default()));
        if !settings.enabled {
            return (Watch { running: None }, receiver);
        }
        let watcher = Watcher {
            configured: settings.endpoint.clone(),
            tracker: Tracker::default(),
            status: DockerStatus::default(),
            publisher,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = watcher.run() => {}
                // Stopped or dropped, which is the same.
                _ = stopped => {}
            }
        });
        (Watch { running: Some((stop, task)) }, receiver)
    }

    /// Ends the watch. The receiver keeps the last list.
    pub async fn stop(self) {
        if let Some((stop, task)) = self.running {
            drop(stop);
            if let Err(error) = task.await {
                warn!("docker watch: {error}");
            }
        }
    }
}

struct Watcher {
    configured: Option<String>,
    tracker: Tracker,
    status: DockerStatus,
    publisher: watch::Sender<Arc<Containers>>,
}

impl Watcher {
    async fn run(mut self) {
        let mut back_off = BACK_OFF_MIN;
        loop {
            let error = self.connect_and_follow().await;
            if self.status.connected {
                back_off = BACK_OFF_MIN;
            }
            self.disconnected(error);
            sleep(back_off).await;
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    /// Returns when there is no connection, or none any more, with the reason for people.
    async fn connect_and_follow(&mut self) -> String {
        let endpoint = match Endpoint::choose(self.configured.as_deref()) {
            Ok(endpoint) => endpoint,
            Err(error) => return error.to_string(),
        };
        self.status.endpoint = endpoint.to_string();
        let client = match Client::new(endpoint) {
            Ok(client) => client,
            Err(error) => return error.to_string(),
        };
        let Err(error) = self.follow(&client).await;
        client.explain(&error)
    }

    async fn follow(&mut self, client: &Client) -> Result<Infallible, ClientError> {
        let version = client.version().await?;
        // The stream asks only when it is polled; that it begins here, before the list, is what
        // `since` says. So nothing is missed in between.
        let mut events = pin!(client.events(client.clock().await?));
        self.tracker.listed(client.list().await?, Instant::now());
        let mut answers = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            answers.extend(self.tracker.due(now).into_iter().map(|id| ask(client, id)));
            if self.tracker.take_change(now) {
                self.connected(&version);
            }
            let deadline = self.tracker.deadline();
            tokio::select! {
                event = events.next() => {
                    if let Some(reaction) = event::reaction(event.ok_or(ClientError::Ended)??) {
                        debug!(?reaction, "docker event");
                        self.tracker.react(reaction, Instant::now());
                    }
                }
                Some((id, answer)) = answers.next(), if !answers.is_empty() => {
                    match answer {
                        Ok(inspected) => self.tracker.answered(&id, inspected, Instant::now()),
                        // The daemon is gone: that says nothing of this container.
                        Err(error @ ClientError::Connect(_)) => return Err(error),
                        Err(error) => self.tracker.failed(&id, error.to_string(), Instant::now()),
                    }
                }
                () = sleep_until(deadline.unwrap_or(now).into()), if deadline.is_some() => {}
            }
        }
    }

    fn connected(&mut self, version: &str) {
        // A stop signal can be told of while the list of a new connection is still being read.
        if self.tracker.synced() {
            if !self.status.connected {
                info!("docker: connected to {version} at {}", self.status.endpoint);
            }
            self.status.connected = true;
            self.status.error = None;
            self.status.last_sync = Some(SystemTime::now());
        }
        self.publish();
    }

    fn disconnected(&mut self, error: String) {
        if self.status.error.as_ref() != Some(&error) {
            warn!("docker: {error}; trying again, routes to containers stay");
        }
        self.status.connected = false;
        self.status.error = Some(error);
        self.publish();
    }

    fn publish(&mut self) {
        let list = self.tracker.containers();
        self.status.containers = list.len();
        self.publisher.send_replace(Arc::new(Containers {
            status: self.status.clone(),
            list,
            unreadable: self.tracker.unreadable(),
        }));
    }
}

async fn ask(client: &Client, id: String) -> (String, Result<Inspected, ClientError>) {
    let answer = client.inspect(&id).await;
    (id, answer)
}
