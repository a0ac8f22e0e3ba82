//! What the listener of `[metrics]` answers: to Prometheus, to watchers, and to people in a browser. Whoever reaches it may ask: it tells, and takes no order.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::exposition::Format;
use super::families::Report;
use super::tally::{Load, Tally};
use crate::controller::admin::known::Known;
use crate::controller::generations::Fleet;
use crate::controller::status_page;
use crate::controller::supervisor::{Handle, State};

/// Connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 32;
/// Of these, those on which the status page is told what happens: a scraper finds a place beside them.
const MAX_STREAMS: usize = 16;
/// Of the status page.
const EVENTS: &str = "/events";
/// For the one request of a connection, and its answer.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// For what was asked, when the server stops.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// For a worker to tell its counters: what it told last counts after it.
const STATS_LIMIT: Duration = Duration::from_secs(1);
/// When accept fails for want of descriptors, the next one would at once too.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What the server answers from.
#[derive(Debug, Clone)]
pub struct Sources {
    pub known: Known,
    pub tally: Tally,
    /// Workers route by what is known of containers, or there is no Docker to ask: they did from the
    /// start, or Docker has listed since.
    pub knows_routes: bool,
}

/// The running server.
#[derive(Debug)]
pub struct Server {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// What the configuration says of the listener; replaced whole.
#[derive(Debug, Default)]
pub struct Terms {
    /// Names that a request may be for.
    pub names: Vec<String>,
    /// There is a status page.
    pub page: bool,
}

pub type LiveTerms = watch::Receiver<Arc<Terms>>;

impl Server {
    pub fn start(listener: TcpListener, terms: LiveTerms, sources: Arc<Sources>) -> Self {
        let (stop, stopped) = oneshot::channel();
        Server { stop, task: tokio::spawn(accept(listener, terms, sources, stopped)) }
    }

    /// Accepts nobody any more, and waits until what was asked is answered, or [`LAST_ANSWERS`] is over.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::error!("metrics: {error}");
        }
    }
}

async fn accept(
    listener: TcpListener,
    terms: LiveTerms,
    sources: Arc<Sources>,
    mut stop: oneshot::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    // Streams of events end when it is dropped.
    let (streams, over) = watch::channel(());
    let places = Arc::new(Semaphore::new(MAX_STREAMS));
    loop {
        tokio::select! {
            _ = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let desk = Desk {
                        terms: terms.borrow().clone(),
                        sources: sources.clone(),
                        over: over.clone(),
                        places: places.clone(),
                        streaming: AtomicBool::new(false),
                    };
                    connections.spawn(serve(stream, desk));
                }
                Err(error) => {
                    tracing::warn!("metrics: accept: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(streams);
    let all = async { while connections.join_next().await.is_some() {} };
    // Who is still there has asked nothing, or does not read.
    let _ = timeout(LAST_ANSWERS, all).await;
}

/// One request: a scraper comes once in a while, and an idle connection would hold a place.
async fn serve(stream: TcpStream, desk: Desk) {
    let service = service_fn(|request: Request<Incoming>| {
        let desk = &desk;
        async move { Ok::<_, Infallible>(desk.answer(&request).await) }
    });
    let mut connection = hyper::server::conn::http1::Builder::new();
    connection.keep_alive(false);
    let mut served = pin!(connection.serve_connection(TokioIo::new(stream), service));
    let served = match timeout(CONNECTION_LIMIT, served.as_mut()).await {
        Ok(served) => served,
        // It lasts as long as somebody looks at the page.
        Err(_) if desk.streaming.load(Relaxed) => served.await,
        Err(_) => return,
    };
    if let Err(error) = served {
        tracing::debug!("metrics: {error}");
    }
}

/// What one connection is answered from.
struct Desk {
    terms: Arc<Terms>,
    sources: Arc<Sources>,
    over: watch::Receiver<()>,
    /// Of streams.
    places: Arc<Semaphore>,
    /// It was answered with a stream of events.
    streaming: AtomicBool,
}

impl Desk {
    async fn answer<B>(&self, request: &Request<B>) -> Answer {
        let path = request.uri().path();
        let is_page = self.terms.page && (path == EVENTS || status_page::file(path).is_some());
        match refusal(request, &self.terms.names) {
            Some(refusal) => refusal,
            None if !is_page => answer(path, request.headers(), &self.sources).await,
            None if path == EVENTS && request.method() == Method::GET => self.events(),
            None => page(path),
        }
    }

    fn events(&self) -> Answer {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let text = "too many look at the page: close it elsewhere\n";
            return plain(StatusCode::SERVICE_UNAVAILABLE, text);
        };
        self.streaming.store(true, Relaxed);
        let Sources { known, tally, .. } = &*self.sources;
        let events = status_page::events(known.clone(), tally.clone(), self.over.clone(), place);
        let kind = HeaderValue::from_static("text/event-stream");
        answered(StatusCode::OK, kind, UnsyncBoxBody::new(StreamBody::new(events)))
    }
}

fn page(path: &str) -> Answer {
    let (kind, text) = status_page::file(path).unwrap_or(("text/plain", ""));
    let mut answer = text_of(StatusCode::OK, HeaderValue::from_static(kind), text);
    let policy = HeaderValue::from_static(status_page::CONTENT_SECURITY_POLICY);
    answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    answer
}

/// Who asks for what is not theirs.
fn refusal<B>(request: &Request<B>, names: &[String]) -> Option<Answer> {
    if !is_for_us(request, names) {
        let text = "no name of this listener: ask by address, or add the name to metrics.hosts\n";
        return Some(plain(StatusCode::MISDIRECTED_REQUEST, text));
    }
    if is_foreign(request) {
        return Some(plain(StatusCode::FORBIDDEN, "pages of others may not ask here\n"));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Some(plain(StatusCode::METHOD_NOT_ALLOWED, "this is asked with GET\n"));
    }
    None
}

/// A page of another origin asks through somebody's browser. A program has no origin.
fn is_foreign<B>(request: &Request<B>) -> bool {
    let field = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let host = request.uri().authority().map(|a| a.as_str()).or(field(header::HOST));
    match request.headers().get(header::ORIGIN).map(|origin| origin.to_str()) {
        None => false,
        Some(origin) => origin.ok().and_then(|origin| origin.strip_prefix("http://")) != host,
    }
}

async fn answer(path: &str, fields: &HeaderMap, sources: &Sources) -> Answer {
    match path {
        "/metrics" => {
            let format = Format::asked_for(fields.get(header::ACCEPT));
            let text = report(sources).await.write(format);
            text_of(StatusCode::OK, format.content_type(), text)
        }
        "/healthz" => verdict(is_healthy(sources).await),
        "/readyz" => verdict(is_ready(sources)),
        _ => plain(StatusCode::NOT_FOUND, "GET /metrics, /healthz or /readyz\n"),
    }
}

/// A page in a browser reaches loopback too, and by a name of its own that it leads there (DNS
/// rebinding) it could read what we answer. It has no address for a name.
fn is_for_us<B>(request: &Request<B>, names: &[String]) -> bool {
    let field = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let Some(authority) = request.uri().authority().map(|a| a.as_str()).or(field) else {
        return false;
    };
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.eq_ignore_ascii_case(name.trim_end_matches('.')))
}

async fn report(sources: &Sources) -> Report {
    let fleet = sources.known.fleet.borrow().clone();
    let workers: Vec<_> = all(&fleet).collect();
    // That they answer is enough: what they say is added to the tally on its way.
    futures_util::future::join_all(workers.iter().map(|worker| worker.stats(STATS_LIMIT))).await;
    let mut generations =
        BTreeMap::from([("active", 0), ("canary", 0), ("draining", 0), ("starting", 0)]);
    let mut load = Load::default();
    for worker in workers {
        let status = worker.status();
        let id = worker.generation();
        sources.tally.steered(id, sources.known.steering.counted(id));
        load = load.and(status.load);
        *generations.entry(state(worker, &fleet)).or_default() += 1;
    }
    generations.remove(State::Gone.as_str());
    Report {
        started: sources.known.started,
        totals: sources.tally.totals(),
        load,
        generations,
        is_steered: sources.known.steering.is_ebpf(),
        view: sources.known.view.borrow().clone(),
    }
}

fn all(fleet: &Fleet) -> impl Iterator<Item = &Handle> {
    fleet.draining.iter().chain([&fleet.active]).chain(&fleet.canary)
}

fn state(worker: &Handle, fleet: &Fleet) -> &'static str {
    let is_canary = fleet.canary.as_ref().is_some_and(|c| c.generation() == worker.generation());
    match worker.status().state {
        State::Active if is_canary => "canary",
        other => other.as_str(),
    }
}

/// That this is answered shows that the controller lives.
async fn is_healthy(sources: &Sources) -> Result<(), &'static str> {
    let active = sources.known.fleet.borrow().active.clone();
    if !active.is_active() {
        return Err("the worker is starting or draining");
    }
    match active.stats(STATS_LIMIT).await {
        Some(_) => Ok(()),
        None => Err("the worker does not answer"),
    }
}

fn is_ready(sources: &Sources) -> Result<(), &'static str> {
    if !sources.known.fleet.borrow().active.is_active() {
        return Err("the worker is starting or draining");
    }
    match sources.knows_routes || sources.known.view.borrow().docker.last_sync.is_some() {
        true => Ok(()),
        false => Err("Docker has not listed its containers yet"),
    }
}

fn verdict(verdict: Result<(), &str>) -> Answer {
    match verdict {
        Ok(()) => plain(StatusCode::OK, "ok\n"),
        Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    text_of(status, HeaderValue::from_static("text/plain; charset=utf-8"), text)
}

fn text_of(status: StatusCode, kind: HeaderValue, text: impl Into<Bytes>) -> Answer {
    answered(status, kind, UnsyncBoxBody::new(Full::new(text.into())))
}

fn answered(
    status: StatusCode,
    kind: HeaderValue,
    body: UnsyncBoxBody<Bytes, Infallible>,
) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_anybody_can_lead_here_are_refused() {
        let names = ["metrics.example.com".to_owned()];
        for (host, want) in [
            (Some("127.0.0.1:9180"), true),
            (Some("10.1.2.3"), true),
            (Some("[::1]:9180"), true),
            (Some("[2001:db8::1]"), true),
            (Some("localhost:9180"), true),
            (Some("Localhost"), true),
            (Some("Metrics.Example.com:9180"), true),
            (Some("metrics.example.com."), true),
            (Some("evil.example.com:9180"), false),
            (Some("127.0.0.1.evil.example.com"), false),
            (Some("localhost.evil.example.com"), false),
            (Some(""), false),
            (None, false),
        ] {
            let request = Request::get("/metrics");
            let request = match host {
                Some(host) => request.header(header::HOST, host),
                None => request,
            };
            let request = request.body(()).expect("a request");
            assert_eq!(is_for_us(&request, &names), want, "{host:?}");
        }
        // The target says it itself (RFC 9112 section 3.2.2).
        let request = Request::get("http://evil.example.com/metrics").header(header::HOST, "[::1]");
        assert!(!is_for_us(&request.body(()).expect("a request"), &names));
    }

    fn sources(knows_routes: bool) -> Sources {
        Sources { known: Known::silent(), tally: Tally::default(), knows_routes }
    }

    #[test]
    fn pages_of_others_are_refused() {
        for (origin, want) in [
            (None, false),
            (Some("http://127.0.0.1:9180"), false),
            (Some("https://127.0.0.1:9180"), true),
            (Some("http://127.0.0.1:9181"), true),
            (Some("http://evil.example.com"), true),
            (Some("null"), true),
        ] {
            let request = Request::get("/events").header(header::HOST, "127.0.0.1:9180");
            let request =
                origin.iter().fold(request, |r, origin| r.header(header::ORIGIN, *origin));
            assert_eq!(is_foreign(&request.body(()).expect("a request")), want, "{origin:?}");
        }
    }

    #[tokio::test]
    async fn each_path_has_its_answer() {
        for (method, path, knows_routes, page, want) in [
            (Method::GET, "/metrics", true, false, StatusCode::OK),
            (Method::HEAD, "/metrics", true, false, StatusCode::OK),
            (Method::POST, "/metrics", true, false, StatusCode::METHOD_NOT_ALLOWED),
            // Nobody is behind its handle.
            (Method::GET, "/healthz", true, false, StatusCode::SERVICE_UNAVAILABLE),
            (Method::GET, "/readyz", true, false, StatusCode::OK),
            (Method::GET, "/readyz", false, false, StatusCode::SERVICE_UNAVAILABLE),
            (Method::GET, "/", true, false, StatusCode::NOT_FOUND),
            (Method::GET, "/events", true, false, StatusCode::NOT_FOUND),
            (Method::GET, "/", true, true, StatusCode::OK),
            (Method::GET, "/page.js", true, true, StatusCode::OK),
            (Method::GET, "/events", true, true, StatusCode::OK),
            (Method::POST, "/events", true, true, StatusCode::METHOD_NOT_ALLOWED),
        ] {
            let request = Request::builder().method(&method).uri(path);
            let request = request.header(header::HOST, "[::1]").body(()).expect("a request");
            let desk = Desk {
                terms: Arc::new(Terms { names: vec![], page }),
                sources: Arc::new(sources(knows_routes)),
                over: watch::channel(()).1,
                places: Arc::new(Semaphore::new(1)),
                streaming: AtomicBool::new(false),
            };
            let answer = desk.answer(&request).await;
            assert_eq!(answer.status(), want, "{method} {path} {knows_routes} {page}");
        }
    }
}
