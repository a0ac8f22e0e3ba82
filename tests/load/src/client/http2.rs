//! HTTP/2 clients: one connection, several streams at a time, each with think times of its own.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Version};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Answer, Ask, Client, grpc};
use crate::failure::{Cause, Failure};
use crate::target::{Stream, Target};

/// A stream's window, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
/// The connection's: equal windows stall when one stream is not read.
const CONNECTION_WINDOW: u32 = 8 << 20;

pub(super) async fn run(mut client: Client, streams: usize) {
    while client.goes_on() {
        let began = Instant::now();
        let connected = timeout(client.plan.timeout, connect(&client))
            .await
            .unwrap_or_else(|_| Err(Failure::timeout("connection")));
        match connected {
            Ok(connection) => {
                let mut workers = JoinSet::new();
                for _ in 0..streams.max(1) {
                    workers.spawn(stream_after_stream(client.fork(), connection.requests.clone()));
                }
                // `requests` bounds each stream: those of the last connection count for all.
                client.left = workers.join_all().await.into_iter().max().unwrap_or_default();
                if client.goes_on() {
                    client.tally.closed_between();
                }
            }
            Err(failure) => client.count(began, Err(failure)).await,
        }
    }
}

/// A connection for each request. The first one begins the session, and is not counted unless it fails.
pub(super) async fn resumed(mut client: Client) {
    client.target = Arc::new(client.target.resuming("h2"));
    let began = Instant::now();
    let ask = client.ask();
    if let Err(failure) = connect_and_ask(&client, &ask).await {
        client.count(began, Err(failure)).await;
    }
    while let Some(began) = client.turn().await {
        let ask = client.ask();
        let outcome = connect_and_ask(&client, &ask).await;
        client.count(began, outcome).await;
    }
}

async fn connect_and_ask(client: &Client, ask: &Ask) -> Result<String, Failure> {
    let exchange = async {
        let connection = connect(client).await?;
        let ready = connection.requests.clone().ready().await?;
        exchange(&client.target, ready, ask)
            .await?
            .ok_or_else(|| Failure::new(Cause::Eof, "GOAWAY"))
    };
    let answer = timeout(client.plan.timeout, exchange)
        .await
        .unwrap_or_else(|_| Err(Failure::timeout("response")))?;
    ask.check(answer)
}

async fn connect(client: &Client) -> Result<Connection, Failure> {
    Connection::new(client.connect("h2").await?).await
}

/// A client connection and the task that drives it.
pub(crate) struct Connection {
    pub(crate) requests: SendRequest<Bytes>,
    /// Aborted when dropped.
    _driver: JoinSet<()>,
}

impl Connection {
    pub(crate) async fn new(stream: Stream) -> Result<Self, Failure> {
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake(stream)
            .await?;
        let mut driver = JoinSet::new();
        // Its error reaches each stream that it concerns.
        driver.spawn(async move { drop(connection.await) });
        Ok(Connection { requests, _driver: driver })
    }
}

/// Requests one after the other until the connection takes no more; how many are left.
async fn stream_after_stream(mut client: Client, requests: SendRequest<Bytes>) -> u64 {
    while let Some(began) = client.turn().await {
        let Ok(ready) = timeout(client.plan.timeout, requests.clone().ready()).await else {
            client.count(began, Err(Failure::timeout("free stream"))).await;
            continue;
        };
        // GOAWAY, or an end of the connection, before anything was sent: nobody feels it.
        let Ok(ready) = ready else { break };
        let ask = client.ask();
        let outcome = timeout(client.plan.timeout, exchange(&client.target, ready, &ask))
            .await
            .unwrap_or_else(|_| Err(Failure::timeout("response")));
        let outcome = match outcome {
            // The same, in the moment between.
            Ok(None) => break,
            Ok(Some(answer)) => ask.check(answer),
            Err(failure) => Err(failure),
        };
        client.count(began, outcome).await;
    }
    client.left
}

/// None when the connection takes no more requests: nothing was sent.
async fn exchange(
    target: &Target,
    mut requests: SendRequest<Bytes>,
    ask: &Ask,
) -> Result<Option<Answer>, Failure> {
    let method = if ask.body.is_some() { Method::POST } else { Method::GET };
    let mut request = request(target, method, &ask.path)?;
    let nonce = ask.nonce.parse().expect("a nonce is hexadecimal");
    request.headers_mut().insert("x-nonce", nonce);
    if ask.grpc {
        grpc::add_fields(request.headers_mut());
    }
    let (response, mut body) = match requests.send_request(request, ask.body.is_none()) {
        Err(error) if error.is_go_away() => return Ok(None),
        sent => sent?,
    };
    if let Some(bytes) = &ask.body {
        send(&mut body, bytes.clone(), true).await?;
    }
    let (head, mut stream) = response.await?.into_parts();
    let mut whole = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        whole.extend_from_slice(&piece);
    }
    let trailers = stream.trailers().await?.unwrap_or_default();
    let value = |name| head.headers.get(name).or_else(|| trailers.get(name));
    let text = |name| Some(value(name)?.to_str().ok()?.to_owned());
    Ok(Some(Answer {
        status: head.status.as_u16(),
        nonce: text("x-nonce"),
        upstream: text("x-upstream"),
        grpc_status: text("grpc-status"),
        body: whole,
    }))
}

pub(crate) fn request(target: &Target, method: Method, path: &str) -> Result<Request<()>, Failure> {
    Request::builder()
        .version(Version::HTTP_2)
        .method(method)
        .uri(format!("{}://{}{path}", target.scheme(), target.host))
        .body(())
        .map_err(|e| Failure::new(Cause::Protocol, format!("request: {e}")))
}

/// Sends as the other end's window allows.
pub(crate) async fn send(
    stream: &mut h2::SendStream<Bytes>,
    mut bytes: Bytes,
    end: bool,
) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let capacity = match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(capacity) => capacity?,
            // The stream is closed: sending says why.
            None => bytes.len(),
        };
        let now = bytes.split_to(capacity.min(bytes.len()));
        stream.send_data(now, end && bytes.is_empty())?;
    }
    Ok(())
}
