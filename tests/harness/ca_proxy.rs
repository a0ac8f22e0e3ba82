//! A proxy in front of Pebble: what else a CA may do is done here, at a request that a test chooses,
//! and requests are counted by what they ask for. The CA behind it is the real one.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::pebble::Pebble;
use crate::wait::until;

/// For a request that a test waits for.
const LIMIT: Duration = Duration::from_secs(60);
/// Where it answers what Pebble does not know: ACME renewal information (RFC 9773).
const RENEWAL_INFO: &str = "/renewal-info";

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Directory,
    Nonce,
    NewAccount,
    NewOrder,
    Order,
    Authorization,
    Challenge,
    Finalize,
    Certificate,
    Revoke,
    RenewalInfo,
    Other,
}

impl Endpoint {
    /// Pebble's paths.
    fn of(path: &str) -> Self {
        match path.split('/').nth(1).unwrap_or_default() {
            "dir" => Endpoint::Directory,
            "nonce-plz" => Endpoint::Nonce,
            "sign-me-up" => Endpoint::NewAccount,
            "order-plz" => Endpoint::NewOrder,
            "my-order" => Endpoint::Order,
            "authZ" => Endpoint::Authorization,
            "chalZ" => Endpoint::Challenge,
            "finalize-order" => Endpoint::Finalize,
            "certZ" => Endpoint::Certificate,
            "revoke-cert" => Endpoint::Revoke,
            "renewal-info" => Endpoint::RenewalInfo,
            _ => Endpoint::Other,
        }
    }
}

/// When a request is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The CA knows nothing of it.
    Request,
    /// The CA has done what it was asked for, and says so to nobody.
    Answer,
}

/// An answer in place of the CA's.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub fields: Vec<(&'static str, String)>,
    pub body: String,
}

impl Reply {
    /// A problem document (RFC 8555 section 6.7).
    pub fn problem(status: u16, kind: &str, detail: &str) -> Self {
        let kind = format!("urn:ietf:params:acme:error:{kind}");
        let body = json!({"type": kind, "detail": detail, "status": status}).to_string();
        Reply {
            status,
            fields: vec![("content-type", "application/problem+json".to_owned())],
            body,
        }
    }

    #[must_use]
    pub fn field(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, value.to_owned()));
        self
    }
}

type Edit = Arc<dyn Fn(&str) -> String + Send + Sync>;

#[derive(Clone)]
enum Action {
    Hold(Moment, Held),
    Reply(Reply),
    /// Of what the CA answers.
    Edit(Edit),
}

struct Rule {
    endpoint: Endpoint,
    action: Action,
    /// For each request, or for the next one alone.
    lasts: bool,
}

/// A request that waits.
#[derive(Debug, Clone)]
pub struct Held {
    reached: Arc<watch::Sender<bool>>,
    released: Arc<watch::Sender<bool>>,
}

impl Held {
    fn new() -> Self {
        let flag = || Arc::new(watch::Sender::new(false));
        Held { reached: flag(), released: flag() }
    }

    /// Waits until it is there.
    pub async fn reached(&self) {
        until("the request that is held", LIMIT, async || self.reached.borrow().then_some(()))
            .await;
    }

    pub fn release(&self) {
        self.released.send_replace(true);
    }

    async fn hold(&self) {
        self.reached.send_replace(true);
        // Its sender is this very value.
        drop(self.released.subscribe().wait_for(|released| *released).await);
    }
}

/// What is known and done, shared with the thread that serves.
#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    /// Requests that the CA took.
    taken: HashMap<Endpoint, usize>,
    /// It did not take the nonce of one, which comes again: that is no other request.
    again: HashSet<Endpoint>,
    /// What new orders had in them.
    orders: Vec<Value>,
    /// The body and Retry-After of renewal information.
    renewal_info: Option<(Value, String)>,
}

pub struct CaProxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Ends the thread.
    _stop: oneshot::Sender<()>,
}

impl CaProxy {
    /// On a thread of its own: tests block while they ask baton.
    pub fn start(pebble: &Pebble) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(Mutex::new(State::default()));
        let server = Arc::new(Server {
            address,
            ca: pebble.api(),
            connector: connector(pebble),
            state: state.clone(),
        });
        let acceptor = acceptor(pebble);
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let listener = TcpListener::from_std(listener).expect("it is bound");
                tokio::select! {
                    _ = stopped => {}
                    () = serve(listener, acceptor, server) => {}
                }
            });
        });
        CaProxy { address, state, _stop: stop }
    }

    /// The keys of `[acme]` that lead to it.
    pub fn acme(&self, pebble: &Pebble) -> String {
        format!(
            "[acme]\nagree_tos = true\npreflight = false\ndirectory = {:?}\nca_file = {:?}",
            self.directory(),
            pebble.ca_file()
        )
    }

    /// URL of the directory.
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// The next request of this kind waits.
    pub fn hold(&self, endpoint: Endpoint, moment: Moment) -> Held {
        let held = Held::new();
        self.add(endpoint, Action::Hold(moment, held.clone()), false);
        held
    }

    /// Every request of this kind is answered like this, and the CA hears of none.
    pub fn reply(&self, endpoint: Endpoint, reply: Reply) {
        self.add(endpoint, Action::Reply(reply), true);
    }

    /// What the CA answers to every request of this kind is changed.
    pub fn edit(&self, endpoint: Endpoint, edit: impl Fn(&str) -> String + Send + Sync + 'static) {
        self.add(endpoint, Action::Edit(Arc::new(edit)), true);
    }

    /// From now on it has wishes for the renewal of every certificate.
    pub fn suggest(&self, window: &Value, retry_after: &str) {
        let info = json!({"suggestedWindow": window});
        self.lock().renewal_info = Some((info, retry_after.to_owned()));
    }

    /// As if nothing had been asked for.
    pub fn behave(&self) {
        self.lock().rules.clear();
    }

    /// Requests of this kind that were answered with success.
    pub fn taken(&self, endpoint: Endpoint) -> usize {
        self.lock().taken.get(&endpoint).copied().unwrap_or_default()
    }

    /// What was in the new orders that the CA took.
    pub fn orders(&self) -> Vec<Value> {
        self.lock().orders.clone()
    }

    fn add(&self, endpoint: Endpoint, action: Action, lasts: bool) {
        self.lock().rules.push(Rule { endpoint, action, lasts });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn acceptor(pebble: &Pebble) -> TlsAcceptor {
    let read = |name: &str| std::fs::read(pebble.ca_file().with_file_name(name)).expect("a file");
    let certificate = CertificateDer::from_pem_slice(&read("cert.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(&read("key.pem")).expect("a key");
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key);
    TlsAcceptor::from(Arc::new(config.expect("a pair")))
}

fn connector(pebble: &Pebble) -> TlsConnector {
    let pem = std::fs::read(pebble.ca_file()).expect("a file");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).expect("a certificate")).expect("a root");
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, server: Arc<Server>) {
    loop {
        let (stream, _) = listener.accept().await.expect("accept");
        let (acceptor, server) = (acceptor.clone(), server.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            });
            // A client that was killed is no failure of ours.
            let connection = hyper::server::conn::http1::Builder::new();
            drop(connection.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

type Answer = Response<Full<Bytes>>;

struct Server {
    address: SocketAddr,
    ca: SocketAddr,
    connector: TlsConnector,
    state: Arc<Mutex<State>>,
}

impl Server {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let endpoint = Endpoint::of(request.uri().path());
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        if let Some(answer) = self.before(endpoint).await {
            return answer;
        }
        let server = self.clone();
        // To its end, even where the client is gone.
        let asked = tokio::spawn(async move {
            let answer = server.ask(parts.method, parts.uri, parts.headers, body.clone()).await;
            server.note(endpoint, &answer, &body);
            answer
        });
        let answer = asked.await.expect("it does not panic");
        self.after(endpoint, answer).await
    }

    async fn before(&self, endpoint: Endpoint) -> Option<Answer> {
        if endpoint == Endpoint::RenewalInfo {
            return Some(self.renewal_info());
        }
        if lock(&self.state).again.remove(&endpoint) {
            return None;
        }
        match self.rule(endpoint, |action| !is_of_answer(action))? {
            Action::Hold(_, held) => {
                held.hold().await;
                None
            }
            Action::Reply(reply) => Some(replied(&reply)),
            Action::Edit(_) => None,
        }
    }

    async fn after(&self, endpoint: Endpoint, answer: Answer) -> Answer {
        let answer = self.with_ari(endpoint, answer).await;
        // A nonce that the CA did not take is asked for again.
        if !answer.status().is_success() {
            return answer;
        }
        match self.rule(endpoint, is_of_answer) {
            Some(Action::Hold(_, held)) => {
                held.hold().await;
                answer
            }
            Some(Action::Edit(edit)) => edited(answer, |text| edit(text)).await,
            Some(Action::Reply(_)) | None => answer,
        }
    }

    /// The first rule for this, which is used up unless it lasts.
    fn rule(&self, endpoint: Endpoint, fits: impl Fn(&Action) -> bool) -> Option<Action> {
        let mut state = lock(&self.state);
        let at =
            state.rules.iter().position(|rule| rule.endpoint == endpoint && fits(&rule.action))?;
        match state.rules[at].lasts {
            true => Some(state.rules[at].action.clone()),
            false => Some(state.rules.remove(at).action),
        }
    }

    fn note(&self, endpoint: Endpoint, answer: &Answer, body: &Bytes) {
        // An account that was there already is answered with 200 (RFC 8555 section 7.3.1).
        let is_taken = match endpoint {
            Endpoint::NewAccount => answer.status() == StatusCode::CREATED,
            _ => answer.status().is_success(),
        };
        let mut state = lock(&self.state);
        // Pebble refuses one nonce in twenty.
        if answer.status() == StatusCode::BAD_REQUEST {
            state.again.insert(endpoint);
        }
        if is_taken {
            *state.taken.entry(endpoint).or_default() += 1;
            if endpoint == Endpoint::NewOrder {
                state.orders.push(payload(body));
            }
        }
    }

    fn renewal_info(&self) -> Answer {
        let mut state = lock(&self.state);
        *state.taken.entry(Endpoint::RenewalInfo).or_default() += 1;
        let (info, retry_after) = state.renewal_info.clone().expect("it is in the directory");
        let reply = Reply { status: 200, fields: Vec::new(), body: info.to_string() };
        replied(&reply.field("retry-after", &retry_after))
    }

    /// What Pebble of Debian 12 lacks: where renewal information is, and that an order which replaces a
    /// certificate says so (RFC 9773 section 5).
    async fn with_ari(&self, endpoint: Endpoint, answer: Answer) -> Answer {
        if lock(&self.state).renewal_info.is_none() || !answer.status().is_success() {
            return answer;
        }
        let url = format!("https://{}{RENEWAL_INFO}", self.address);
        let replaces = lock(&self.state).orders.last().map(|order| order["replaces"].clone());
        edited(answer, |text| {
            let Ok(mut value) = serde_json::from_str::<Value>(text) else { return text.to_owned() };
            match (endpoint, replaces) {
                (Endpoint::Directory, _) => value["renewalInfo"] = json!(url),
                (Endpoint::NewOrder, Some(replaces)) if !replaces.is_null() => {
                    value["replaces"] = replaces;
                }
                _ => return text.to_owned(),
            }
            value.to_string()
        })
        .await
    }

    /// With the Host that the client named: Pebble makes its URLs of it.
    async fn ask(&self, method: Method, uri: Uri, fields: http::HeaderMap, body: Bytes) -> Answer {
        let Ok(stream) = TcpStream::connect(self.ca).await else {
            let reply =
                Reply { status: 502, fields: Vec::new(), body: "the CA is down".to_owned() };
            return replied(&reply);
        };
        let name = ServerName::from(self.ca.ip());
        let stream = self.connector.connect(name, stream).await.expect("TLS with Pebble");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = fields;
        request.headers_mut().remove(CONTENT_LENGTH);
        let host = HeaderValue::from_str(&self.address.to_string()).expect("an address");
        request.headers_mut().insert(HOST, host);
        let answer = sender.send_request(request).await.expect("an answer of Pebble");
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.expect("the whole answer").to_bytes();
        Response::from_parts(parts, Full::new(body))
    }
}

fn is_of_answer(action: &Action) -> bool {
    matches!(action, Action::Hold(Moment::Answer, _) | Action::Edit(_))
}

fn replied(reply: &Reply) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(reply.body.clone())));
    *answer.status_mut() = StatusCode::from_u16(reply.status).expect("a status");
    for (name, value) in &reply.fields {
        let value = HeaderValue::from_str(value).expect("a value");
        answer.headers_mut().insert(HeaderName::from_static(name), value);
    }
    answer
}

async fn edited(answer: Answer, edit: impl FnOnce(&str) -> String) -> Answer {
    let (mut parts, body) = answer.into_parts();
    let body = body.collect().await.unwrap_or_else(|never| match never {}).to_bytes();
    let body = edit(&String::from_utf8_lossy(&body));
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Full::new(Bytes::from(body)))
}

/// What a signed request has in it (RFC 8555 section 6.2).
fn payload(body: &Bytes) -> Value {
    let jws: Value = serde_json::from_slice(body).expect("a JWS");
    let payload = jws["payload"].as_str().expect("text");
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).expect("base64url");
    serde_json::from_slice(&payload).expect("JSON")
}
