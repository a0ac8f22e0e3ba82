//! Answers on the admin socket; it holds no state but what the controller publishes to it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::unistd::Uid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::answers::{
    Begun, CertificateOrder, CertificateOutcome, Intervened, InterventionOrder, Refused, Reloaded,
    UpgradeOrder,
};
use super::control_socket::ControlSocket;
use super::known::Known;
use super::logs::{self, Entrance, MAX_FOLLOWERS};
use crate::controller::certificates::acme::{Desk, Wish};

/// Connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 32;
/// Longest order, in bytes.
const MAX_ORDER: usize = 64 * 1024;
/// For what one connection asks.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);
/// For the answers under way when the server is paused.
const PAUSE_LIMIT: Duration = Duration::from_secs(2);
/// For an order at a CA, or a revocation: whoever asked is told then that it is under way.
const CA_LIMIT: Duration = Duration::from_secs(45);
/// For the worker to take a reloaded snapshot.
const APPLY_LIMIT: Duration = Duration::from_secs(10);

type Answer = Response<Full<Bytes>>;

/// Answered when a reload is live.
pub type ReloadReply = oneshot::Sender<Result<Reloaded, Refused>>;
/// Answered when an upgrade or a rollback has begun: the program that answers ends with it.
pub type BegunReply = oneshot::Sender<Result<Begun, Refused>>;

/// Answered when workers have been told.
pub type IntervenedReply = oneshot::Sender<Result<Intervened, Refused>>;

/// What the controller is asked to do.
#[derive(Debug)]
pub enum Order {
    Reload(ReloadReply),
    Upgrade { order: UpgradeOrder, reply: BegunReply },
    Rollback { reply: BegunReply },
    Intervene { order: InterventionOrder, reply: IntervenedReply },
}

/// What the server answers from.
#[derive(Debug, Clone)]
pub struct Sources {
    pub known: Known,
    pub orders: mpsc::Sender<Order>,
    pub certificates: Desk,
}

/// The running server.
#[derive(Debug)]
pub struct Server {
    stop: oneshot::Sender<()>,
    pauses: Pauses,
    task: JoinHandle<()>,
}

impl Server {
    pub fn start(socket: ControlSocket, sources: Sources) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (pauses, asked) = mpsc::channel(1);
        let task = tokio::spawn(accept(socket, Arc::new(sources), stopped, asked));
        Server { stop, pauses: Pauses(pauses), task }
    }

    /// What pauses this server.
    pub fn pauses(&self) -> Pauses {
        self.pauses.clone()
    }

    /// Closes the socket and every connection, and removes the file.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(e) = self.task.await {
            tracing::error!("admin socket: {e}");
        }
    }
}

/// Pauses the server, so that exec cuts no answer off.
#[derive(Debug, Clone)]
pub struct Pauses(mpsc::Sender<Pause>);

#[derive(Debug)]
struct Pause {
    quiet: oneshot::Sender<()>,
    over: oneshot::Receiver<()>,
}

/// While it lives, nobody is answered, and who connects waits in the kernel's queue, where the next
/// program finds them.
#[derive(Debug)]
#[must_use]
pub struct Paused {
    _over: oneshot::Sender<()>,
}

impl Pauses {
    /// Waits until what was asked before is answered, or [`PAUSE_LIMIT`] is over.
    pub async fn pause(&self) -> Paused {
        let (quiet, is_quiet) = oneshot::channel();
        let (_over, over) = oneshot::channel();
        // A server that has stopped is quiet.
        if self.0.send(Pause { quiet, over }).await.is_ok() {
            let _ = is_quiet.await;
        }
        Paused { _over }
    }
}

async fn accept(
    socket: ControlSocket,
    sources: Arc<Sources>,
    mut stop: oneshot::Receiver<()>,
    mut pauses: mpsc::Receiver<Pause>,
) {
    let mut connections = JoinSet::new();
    let mut followers = JoinSet::new();
    let (entrance, mut asked) = Entrance::open();
    loop {
        tokio::select! {
            _ = &mut stop => return,
            Some(Pause { quiet, over }) = pauses.recv() => {
                // They ask the program that comes.
                followers.abort_all();
                let all = async { while connections.join_next().await.is_some() {} };
                // Who is still there, is not answered by this program.
                let _ = timeout(PAUSE_LIMIT, all).await;
                let _ = quiet.send(());
                let _ = over.await;
            }
            Some(_) = connections.join_next() => {}
            Some(_) = followers.join_next() => {}
            Some(follower) = asked.recv() => {
                followers.spawn(logs::follow(follower, sources.known.fleet.clone()));
            }
            accepted = socket.listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                match accepted {
                    Ok((stream, _)) => {
                        let connection = serve(stream, sources.clone(), entrance.clone());
                        connections.spawn(timeout(CONNECTION_LIMIT, connection));
                    }
                    Err(e) => {
                        // Out of descriptors: the next accept would fail at once too.
                        tracing::warn!("admin socket: accept: {e}");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        }
    }
}

/// One request, so that a pause need not end the connection between two: whoever has connected is
/// still answered by this program, its question read or not.
async fn serve(stream: UnixStream, sources: Arc<Sources>, entrance: Entrance) {
    let permitted = is_permitted(&stream);
    let service = service_fn(|request: Request<Incoming>| {
        let (sources, entrance) = (sources.clone(), entrance.clone());
        async move {
            let answer = match permitted {
                false => forbidden(),
                true if request.uri().path() == "/logs" => follow_log(request, &entrance),
                true => route(request, &sources).await,
            };
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    let served = builder.keep_alive(false).serve_connection(TokioIo::new(stream), service);
    if let Err(e) = served.with_upgrades().await {
        tracing::debug!("admin socket: {e}");
    }
}

/// The file's mode says the same; this holds even where somebody changed it.
fn is_permitted(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == Uid::effective().as_raw())
}

async fn route(request: Request<Incoming>, sources: &Sources) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => json(StatusCode::OK, &sources.known.status().await),
        (&Method::GET, "/routes") => json(StatusCode::OK, &sources.known.routes().await),
        (&Method::GET, "/certs") => json(StatusCode::OK, &sources.known.view.borrow().certificates),
        (&Method::POST, "/reload") => outcome(reload(sources).await),
        (&Method::POST, "/certs/renew") => certificate(request, sources, Wish::Renew).await,
        (&Method::POST, "/certs/retry") => certificate(request, sources, Wish::Retry).await,
        (&Method::POST, "/certs/revoke") => certificate(request, sources, Wish::Revoke).await,
        (&Method::POST, "/upgrade") => match order::<UpgradeOrder>(request).await {
            Ok(order) => outcome(ordered(sources, |reply| Order::Upgrade { order, reply }).await),
            Err(error) => refuse(StatusCode::BAD_REQUEST, &error),
        },
        (&Method::POST, "/rollback") => {
            outcome(ordered(sources, |reply| Order::Rollback { reply }).await)
        }
        (&Method::POST, "/intervene") => match required(request).await {
            Ok(order) => outcome(intervene(sources, order).await),
            Err(error) => refuse(StatusCode::BAD_REQUEST, &error),
        },
        (_, "/status" | "/routes" | "/certs") => {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "this is asked with GET")
        }
        (
            _,
            "/reload" | "/upgrade" | "/rollback" | "/intervene" | "/certs/renew" | "/certs/retry"
            | "/certs/revoke",
        ) => refuse(StatusCode::METHOD_NOT_ALLOWED, "this is ordered with POST"),
        _ => refuse(
            StatusCode::NOT_FOUND,
            "GET /status, /routes, /certs or /logs; POST /reload, /upgrade, /rollback, /intervene, \
             /certs/renew, /certs/retry or /certs/revoke",
        ),
    }
}

/// The connection becomes one that carries lines alone.
fn follow_log(mut request: Request<Incoming>, entrance: &Entrance) -> Answer {
    if request.method() != Method::GET {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "this is asked with GET");
    }
    let host = request.uri().query().and_then(|query| query.strip_prefix("host="));
    let Some(host) = host.map(str::to_ascii_lowercase) else {
        return refuse(StatusCode::BAD_REQUEST, "GET /logs?host=NAME");
    };
    let upgrade = request.headers().get(header::UPGRADE);
    if upgrade.is_none_or(|protocol| protocol != logs::PROTOCOL) {
        let error = "this is asked with Connection: upgrade and Upgrade: baton-log";
        return refuse(StatusCode::UPGRADE_REQUIRED, error);
    }
    let connection = hyper::upgrade::on(&mut request);
    if !entrance.admit(host, connection) {
        let error = format!("{MAX_FOLLOWERS} follow a log already: end one of them");
        return refuse(StatusCode::CONFLICT, &error);
    }
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = [(header::CONNECTION, "upgrade"), (header::UPGRADE, logs::PROTOCOL)];
    answer
        .headers_mut()
        .extend(fields.map(|(name, value)| (name, HeaderValue::from_static(value))));
    answer
}

async fn certificate(request: Request<Incoming>, sources: &Sources, wish: Wish) -> Answer {
    let CertificateOrder { name } = match order(request).await {
        Ok(order) => order,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error),
    };
    let asked = sources.certificates.ask(wish, name.clone());
    match timeout(CA_LIMIT, asked).await {
        Ok(Some(Ok(text))) => json(StatusCode::OK, &CertificateOutcome::done(text)),
        Ok(Some(Err(error))) => refuse(StatusCode::CONFLICT, &error),
        Ok(None) => refuse(StatusCode::CONFLICT, "baton is stopping"),
        Err(_) => json(StatusCode::OK, &CertificateOutcome::under_way(&name)),
    }
}

/// An order without a body is the one that says nothing.
async fn order<T: DeserializeOwned + Default>(request: Request<Incoming>) -> Result<T, String> {
    let body = body(request).await?;
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

async fn required<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, String> {
    serde_json::from_slice(&body(request).await?).map_err(|error| error.to_string())
}

async fn body(request: Request<Incoming>) -> Result<Bytes, String> {
    let body = Limited::new(request.into_body(), MAX_ORDER).collect().await;
    Ok(body.map_err(|error| error.to_string())?.to_bytes())
}

async fn reload(sources: &Sources) -> Result<Reloaded, Refused> {
    let mut reloaded = ordered(sources, Order::Reload).await?;
    if let Err(late) = applied(sources, reloaded.snapshot).await {
        reloaded.warnings.push(late);
    }
    Ok(reloaded)
}

async fn intervene(sources: &Sources, order: InterventionOrder) -> Result<Intervened, Refused> {
    let intervened = ordered(sources, |reply| Order::Intervene { order, reply }).await?;
    applied(sources, intervened.snapshot).await.map_err(Refused::because)?;
    Ok(intervened)
}

/// What the controller says to an order.
async fn ordered<T>(
    sources: &Sources,
    order: impl FnOnce(oneshot::Sender<Result<T, Refused>>) -> Order,
) -> Result<T, Refused> {
    let stopping = || Refused::because("baton is stopping".to_owned());
    let (reply, answer) = oneshot::channel();
    sources.orders.send(order(reply)).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?
}

/// Waits until requests see this snapshot.
async fn applied(sources: &Sources, snapshot: u64) -> Result<(), String> {
    let mut active = sources.known.fleet.borrow().active.clone();
    match active.applied(snapshot, APPLY_LIMIT).await {
        true => Ok(()),
        false => {
            let limit = APPLY_LIMIT.as_secs();
            Err(format!("the worker did not take the change within {limit} s"))
        }
    }
}

fn outcome(outcome: Result<impl Serialize, Refused>) -> Answer {
    match outcome {
        Ok(done) => json(StatusCode::OK, &done),
        Err(refused) => json(StatusCode::CONFLICT, &refused),
    }
}

fn forbidden() -> Answer {
    refuse(StatusCode::FORBIDDEN, "ask as root, or as the user that baton runs as")
}

fn refuse(status: StatusCode, error: &str) -> Answer {
    json(status, &Refused { error: error.to_owned(), reasons: Vec::new() })
}

fn json(status: StatusCode, answer: &impl Serialize) -> Answer {
    let mut body = serde_json::to_vec_pretty(answer).expect("answers have string keys alone");
    body.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::super::answers::Status;
    use super::super::client::{AskError, exchange, parse};
    use super::*;
    use std::pin::pin;
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Running {
        directory: TempDir,
        server: Server,
        orders: mpsc::Receiver<Order>,
    }

    impl Running {
        fn start() -> Self {
            let directory = tempfile::tempdir().expect("tempdir");
            let socket = ControlSocket::claim(&directory.path().join("s")).expect("claim");
            let (orders_sender, orders) = mpsc::channel(1);
            let sources = Sources {
                known: Known::silent(),
                orders: orders_sender,
                certificates: Desk::open().0,
            };
            Running { directory, server: Server::start(socket, sources), orders }
        }

        async fn ask(&self, method: Method, path: &str) -> Result<Bytes, AskError> {
            exchange(&self.directory.path().join("s"), method, path).await
        }
    }

    #[tokio::test]
    async fn answers_what_is_asked_and_says_what_can_be() {
        let running = Running::start();
        let body = running.ask(Method::GET, "/status").await.expect("status");
        let status: Status = parse(&body).expect("status");
        assert_eq!(status.pid, std::process::id());
        assert_eq!(status.generations[0].ms_to_ready, 3);
        assert_eq!(running.ask(Method::GET, "/certs").await.expect("certs"), "[]\n");
        for (method, path, want) in [
            (
                Method::GET,
                "/",
                "GET /status, /routes, /certs or /logs; POST /reload, /upgrade, /rollback, /intervene, \
                 /certs/renew, /certs/retry or /certs/revoke",
            ),
            (Method::GET, "/reload", "this is ordered with POST"),
            (Method::POST, "/status", "this is asked with GET"),
        ] {
            let error = running.ask(method, path).await.expect_err("refused");
            assert_eq!(error.to_string(), want);
        }
        let path = running.directory.path().join("s");
        running.server.stop().await;
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_pause_waits_for_answers_and_leaves_the_next_in_the_queue() {
        let mut running = Running::start();
        let socket = running.directory.path().join("s");
        let reload = tokio::spawn({
            let socket = socket.clone();
            async move { exchange(&socket, Method::POST, "/reload").await }
        });
        let Some(Order::Reload(reply)) = running.orders.recv().await else { panic!("a reload") };
        let pauses = running.server.pauses();
        let mut pausing = pin!(pauses.pause());
        assert!(futures_util::poll!(pausing.as_mut()).is_pending());
        let reloaded = Reloaded { changes: vec![], warnings: vec![], snapshot: 1, handoff: None };
        reply.send(Ok(reloaded)).expect("waiting");
        let paused = pausing.await;
        reload.await.expect("no panic").expect("answered before the pause");

        let mut next = pin!(running.ask(Method::GET, "/certs"));
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        drop(paused);
        assert_eq!(next.await.expect("answered after the pause"), "[]\n");
    }

    #[tokio::test]
    async fn who_has_connected_and_not_asked_yet_is_answered_before_a_pause() {
        let running = Running::start();
        let mut early = UnixStream::connect(running.directory.path().join("s")).await.expect("s");
        // Accepted in the order in which they came.
        running.ask(Method::GET, "/certs").await.expect("answered");
        let pauses = running.server.pauses();
        let mut pausing = pin!(pauses.pause());
        assert!(futures_util::poll!(pausing.as_mut()).is_pending());
        early.write_all(b"GET /certs HTTP/1.1\r\nHost: baton\r\n\r\n").await.expect("asked");
        let mut answer = String::new();
        early.read_to_string(&mut answer).await.expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        drop(pausing.await);
    }

    #[tokio::test]
    async fn a_reload_answers_what_the_controller_says() {
        let mut running = Running::start();
        let reloaded = Reloaded { changes: vec![], warnings: vec![], snapshot: 1, handoff: None };
        let refused =
            Refused { error: "no".to_owned(), reasons: vec!["a".to_owned(), "b".to_owned()] };
        for answer in [Ok(reloaded), Err(refused)] {
            let request = running.orders.recv();
            let socket = running.directory.path().join("s");
            let (asked, ()) = tokio::join!(exchange(&socket, Method::POST, "/reload"), async {
                let Some(Order::Reload(reply)) = request.await else { panic!("a reload") };
                reply.send(answer.clone()).expect("waiting");
            });
            match answer {
                Ok(want) => {
                    assert_eq!(parse::<Reloaded>(&asked.expect("reloaded")).expect("json"), want);
                }
                Err(_) => {
                    assert_eq!(asked.expect_err("refused").to_string(), "no\n  a\n  b");
                }
            }
        }
    }
}
