//! Keeps the list of containers true, through restarts of the daemon.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bollard::models::EventMessage;
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
use super::tracker::{COMES_BACK, Tracker};
use super::{Container, Containers, DockerStatus};
use crate::config;
use crate::controller::metrics::Tally;

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
    /// Starts to watch. The first value of the receiver knows nothing yet. `remembered` are the
    /// containers while no daemon answers.
    pub fn start(
        settings: &config::Docker,
        tally: Tally,
        remembered: Vec<Container>,
    ) -> (Watch, watch::Receiver<Arc<Containers>>) {
        let (publisher, receiver) = watch::channel(Arc::new(Containers::default()));
        if !settings.enabled {
            return (Watch { running: None }, receiver);
        }
        let watcher = Watcher {
            configured: settings.endpoint.clone(),
            tracker: Tracker::default(),
            status: DockerStatus::default(),
            remembered,
            tally,
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
    /// Of another run, until there is a list.
    remembered: Vec<Container>,
    tally: Tally,
    publisher: watch::Sender<Arc<Containers>>,
}

impl Watcher {
    async fn run(mut self) {
        let mut back_off = BACK_OFF_MIN;
        loop {
            let since = Instant::now();
            let error = self.connect_and_follow().await;
            // One that breaks at once does not promise that the next would last.
            if since.elapsed() >= BACK_OFF_MAX {
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
        let client = Client::new(endpoint);
        let Err(error) = self.follow(&client).await;
        client.explain(&error)
    }

    async fn follow(&mut self, client: &Client) -> Result<Infallible, ClientError> {
        let version = client.version().await?;
        // The stream asks only when it is polled; that it begins here, before the list, is what
        // `since` says. So nothing is missed in between.
        let listed = client.clock().await?;
        let mut events = pin!(client.events(listed - self.recollects()));
        self.tracker.listed(client.list().await?, Instant::now());
        self.tally.docker_listed();
        let mut answers = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            answers.extend(self.tracker.due(now).into_iter().map(|id| ask(client, id)));
            if self.tracker.take_change(now) {
                self.connected(&version);
            }
            let deadline = self.tracker.deadline();
            tokio::select! {
                // First, so that a container which was told to stop is not taken for one that serves.
                biased;
                event = events.next() => self.heed(event.ok_or(ClientError::Ended)??, listed),
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

    /// How many seconds of the past are of interest: those in which a container was told to stop that
    /// still runs, before this process listened. Docker remembers its last 256 events.
    fn recollects(&self) -> i64 {
        if self.tracker.is_complete() { 0 } else { COMES_BACK.as_secs().cast_signed() }
    }

    fn heed(&mut self, event: EventMessage, listed: i64) {
        let age = event
            .time
            .and_then(|time| u64::try_from(listed.saturating_sub(time)).ok())
            .unwrap_or(0);
        let Some(reaction) = event::reaction(event) else { return };
        debug!(?reaction, age, "docker event");
        let now = Instant::now();
        if age > 0 {
            let at = now.checked_sub(Duration::from_secs(age)).unwrap_or(now);
            return self.tracker.recollect(reaction, at);
        }
        self.tally.docker_event();
        self.tracker.react(reaction, now);
    }

    fn connected(&mut self, version: &str) {
        // A stop signal can be told of while the list of a new connection is still being read.
        if self.tracker.synced() {
            if !self.status.connected {
                info!("docker: connected to {version} at {}", self.status.endpoint);
            }
            self.remembered.clear();
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
        if self.status.connected {
            self.tally.docker_lost();
        }
        self.status.connected = false;
        self.status.error = Some(error);
        self.publish();
    }

    fn publish(&mut self) {
        let list = match &self.status.error {
            Some(_) if !self.remembered.is_empty() => self.remembered.clone(),
            _ => self.tracker.containers(),
        };
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

#[cfg(test)]
mod tests {
    //! Against a daemon of a later version than there is, which only a script can be.

    use std::path::Path;

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    const LIST: &str = r#"[{"Id": "old", "State": "running"}, {"Id": "new", "State": "dreaming"},
        {"Id": "gone", "State": "running"}]"#;
    const VERSION: &str = r#"{"Version": "99.0", "ApiVersion": "9.99", "Dreams": {}}"#;
    const KILLED: &str = r#"{"Type": "container", "Action": "kill", "Dreams": 1,
        "Actor": {"ID": "old", "Attributes": {"signal": "15"}}}"#;

    fn inspect(state: &str) -> String {
        format!(
            r#"{{"Name": "/{state}", "State": {{"Status": "{state}", "Running": true}},
                 "Config": {{"Env": ["VIRTUAL_HOST=a.test", "PASSWORD=x"]}}}}"#
        )
    }

    /// A daemon at `socket`, until its events are dropped.
    fn daemon(socket: &Path) -> mpsc::UnboundedSender<&'static str> {
        // What a daemon before left there.
        let _absent = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).expect("bind");
        let (events, mut follow) = mpsc::unbounded_channel::<&'static str>();
        tokio::spawn(async move {
            let mut follower = None;
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.expect("accept");
                        follower = serve(stream).await.or(follower);
                    }
                    event = follow.recv(), if follower.is_some() => {
                        let Some(event) = event else { return };
                        let stream: &mut UnixStream = follower.as_mut().expect("just asked");
                        stream.write_all(event.replace('\n', "").as_bytes()).await.expect("event");
                        stream.write_all(b"\n").await.expect("event");
                    }
                }
            }
        });
        events
    }

    /// Answers one request; gives the stream back when it asks for events.
    async fn serve(stream: UnixStream) -> Option<UnixStream> {
        let mut stream = BufReader::new(stream);
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            stream.read_line(&mut request).await.expect("request");
        }
        let mut stream = stream.into_inner();
        let path = request.split([' ', '?']).nth(1).expect("path");
        let (status, body) = match path {
            "/events" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("head");
                return Some(stream);
            }
            "/_ping" => (200, "OK".to_owned()),
            "/version" => (200, VERSION.to_owned()),
            "/containers/json" => (200, LIST.to_owned()),
            "/containers/old/json" => (200, inspect("running")),
            "/containers/new/json" => (200, inspect("dreaming")),
            _ => (404, r#"{"message": "no such container"}"#.to_owned()),
        };
        let head = format!("HTTP/1.1 {status} -\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await.expect("answer");
        None
    }

    async fn until(
        receiver: &mut watch::Receiver<Arc<Containers>>,
        condition: impl FnMut(&Arc<Containers>) -> bool,
    ) -> Arc<Containers> {
        let seen = timeout(Duration::from_secs(10), receiver.wait_for(condition));
        seen.await.expect("in time").expect("watch runs").clone()
    }

    #[tokio::test]
    async fn a_daemon_of_tomorrow_costs_one_container_and_a_lost_one_none() {
        let directory = tempfile::tempdir().expect("tempdir");
        let socket = directory.path().join("docker.sock");
        let endpoint = Some(format!("unix://{}", socket.display()));
        let (watch, mut receiver) = Watch::start(
            &config::Docker { enabled: true, endpoint: endpoint.clone() },
            Tally::default(),
            vec![],
        );
        let absent = until(&mut receiver, |seen| seen.status.error.is_some()).await;
        assert_eq!(Some(&absent.status.endpoint), endpoint.as_ref());

        let events = daemon(&socket);
        let first = until(&mut receiver, |seen| seen.status.connected).await;
        assert_eq!(first.status.error, None);
        assert_eq!(first.list.len(), 1);
        assert_eq!(first.list[0].name, "running");
        assert_eq!(first.list[0].env.keys().collect::<Vec<_>>(), ["VIRTUAL_HOST"]);
        assert_eq!(first.unreadable.len(), 1);
        assert_eq!(first.unreadable[0].0, "dreaming");

        events.send(KILLED).expect("daemon runs");
        let killed = until(&mut receiver, |seen| seen.list[0].stopping).await;
        assert!(killed.status.connected);

        drop(events);
        let lost = until(&mut receiver, |seen| !seen.status.connected).await;
        assert!(lost.status.error.is_some());
        assert_eq!(lost.list, killed.list);

        let _events = daemon(&socket);
        let again = until(&mut receiver, |seen| seen.status.connected).await;
        assert_eq!(again.list, killed.list);
        watch.stop().await;
    }

    #[tokio::test]
    async fn switched_off_it_knows_nothing() {
        let off = config::Docker { enabled: false, endpoint: None };
        let (watch, receiver) = Watch::start(&off, Tally::default(), vec![]);
        assert_eq!(**receiver.borrow(), Containers::default());
        watch.stop().await;
    }
}
