//! Talks to the daemon, one request a connection, and believes it no length: an answer has a limit, and
//! so has an event.
//!
//! bollard's types are closed, it logs each answer, in which an inspect has the secrets of a container's
//! environment, and it collects whatever comes: so only its type of an
//! event is used. All paths are without a version: a daemon then speaks the newest that it knows.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::EventMessage;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream, TryStreamExt};
use http::header::{DATE, HOST};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::time::timeout;

use super::endpoint::Endpoint;
use super::inspect::{self, Inspected};

/// For an answer of the daemon; it holds a container's lock while that starts or stops.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer, in bytes. A list of 2,000 containers takes about 4 MiB.
const MAX_ANSWER: usize = 64 << 20;
/// Longest answer about the daemon itself, in bytes.
const MAX_SHORT: usize = 1 << 20;
/// Longest event, in bytes: it has the labels of its container.
const MAX_EVENT: usize = 1 << 20;
/// `{"type":["container","network"]}`
const EVENT_TYPES: &str = "%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%7D";
/// Stands in for the host in requests over a unix socket.
const HOST_NAME: &str = "docker";

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon cannot be reached.
    #[error("connect: {0}")]
    Connect(io::Error),
    #[error("the connection broke: {0}")]
    Http(#[from] hyper::Error),
    #[error("answer: {0}")]
    Answer(Box<dyn std::error::Error + Send + Sync>),
    #[error("the daemon answered {status}: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("no answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    #[error("the daemon ended the event stream")]
    Ended,
    #[error("an event has more than {MAX_EVENT} bytes")]
    EventTooLong,
}

/// One daemon.
#[derive(Clone)]
pub struct Client {
    endpoint: Arc<Endpoint>,
}

impl Client {
    /// Opens nothing yet.
    pub fn new(endpoint: Endpoint) -> Client {
        Client { endpoint: Arc::new(endpoint) }
    }

    /// What answers there, for people: `Docker Engine 20.10.24, API 1.41`.
    ///
    /// # Errors
    /// When nothing answers.
    pub async fn version(&self) -> Result<String, ClientError> {
        let (_, body) = self.get("/version", MAX_SHORT).await?;
        let version: Version =
            serde_json::from_slice(&body).map_err(|e| ClientError::Answer(e.into()))?;
        Ok(version.to_string())
    }

    /// The daemon's clock, in whole seconds of Unix time, rounded down.
    ///
    /// # Errors
    /// When nothing answers.
    pub async fn clock(&self) -> Result<i64, ClientError> {
        let (headers, _) = self.get("/_ping", MAX_SHORT).await?;
        Ok(date(&headers).unwrap_or_else(OffsetDateTime::now_utc).unix_timestamp())
    }

    /// Events of containers and networks from `since` on, by the daemon's own clock.
    pub fn events(
        &self,
        since: i64,
    ) -> impl Stream<Item = Result<EventMessage, ClientError>> + use<> {
        let client = self.clone();
        let opened = async move { client.open_events(since).await.map(events_in) };
        stream::once(opened).try_flatten()
    }

    async fn open_events(&self, since: i64) -> Result<Incoming, ClientError> {
        let request = get_request(&format!("/events?since={since}&filters={EVENT_TYPES}"))?;
        let answer = timeout(ANSWER_TIMEOUT, send(&self.endpoint, request)).await;
        let answer = answer.map_err(|_| ClientError::Timeout)??;
        let (status, message) = (answer.status(), String::new());
        if !status.is_success() {
            return Err(ClientError::Refused { status, message });
        }
        Ok(answer.into_body())
    }

    /// The ids of all containers that run, paused and restarting ones among them.
    ///
    /// # Errors
    /// When the daemon does not answer with a list.
    pub async fn list(&self) -> Result<Vec<String>, ClientError> {
        let (_, body) = self.get("/containers/json", MAX_ANSWER).await?;
        ids(&body).map_err(|e| ClientError::Answer(e.into()))
    }

    /// # Errors
    /// When the daemon does not answer; a container that is gone is not an error.
    pub async fn inspect(&self, id: &str) -> Result<Inspected, ClientError> {
        match self.get(&format!("/containers/{id}/json"), MAX_ANSWER).await {
            Ok((_, body)) => Ok(inspect::read(id, &body)),
            Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) => {
                Ok(Inspected::NotRunning)
            }
            Err(error) => Err(error),
        }
    }

    /// A failure in words for a person, with what to do where that is known.
    pub fn explain(&self, error: &ClientError) -> String {
        match error {
            ClientError::Connect(error) => self.endpoint.explain(error),
            other => format!("{}: {other}", self.endpoint),
        }
    }

    async fn get(&self, path: &str, limit: usize) -> Result<(HeaderMap, Bytes), ClientError> {
        let answer = timeout(ANSWER_TIMEOUT, self.answer(get_request(path)?, limit)).await;
        let (head, body) = answer.map_err(|_| ClientError::Timeout)??;
        if head.status.is_success() {
            Ok((head.headers, body))
        } else {
            Err(ClientError::Refused { status: head.status, message: message(&body) })
        }
    }

    async fn answer(
        &self,
        request: Request<Empty<Bytes>>,
        limit: usize,
    ) -> Result<(response::Parts, Bytes), ClientError> {
        let (head, body) = send(&self.endpoint, request).await?.into_parts();
        let body = Limited::new(body, limit).collect().await.map_err(ClientError::Answer)?;
        Ok((head, body.to_bytes()))
    }
}

/// As it goes to an origin server (RFC 9112 section 3.2.1).
fn get_request(path: &str) -> Result<Request<Empty<Bytes>>, ClientError> {
    Request::get(path)
        .header(HOST, HeaderValue::from_static(HOST_NAME))
        .body(Empty::new())
        .map_err(|e| ClientError::Answer(e.into()))
}

/// Sends one request on a connection of its own, which ends with the response.
async fn send(
    endpoint: &Endpoint,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Incoming>, ClientError> {
    let stream = endpoint.connect().await.map_err(ClientError::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

/// The events of a body, one in each line.
fn events_in<B>(body: B) -> impl Stream<Item = Result<EventMessage, ClientError>> + use<B>
where
    B: Body<Data = Bytes> + Unpin,
    ClientError: From<B::Error>,
{
    let lines = Lines { body, read: BytesMut::new() };
    stream::try_unfold(lines, async |mut lines| {
        let Some(line) = lines.next().await? else { return Ok(None) };
        let event = serde_json::from_slice(&line).map_err(|e| ClientError::Answer(e.into()))?;
        Ok(Some((event, lines)))
    })
}

struct Lines<B> {
    body: B,
    /// Not looked at yet, or no whole line.
    read: BytesMut,
}

impl<B> Lines<B>
where
    B: Body<Data = Bytes> + Unpin,
    ClientError: From<B::Error>,
{
    /// The next one that is not empty.
    async fn next(&mut self) -> Result<Option<BytesMut>, ClientError> {
        let mut seen = 0;
        loop {
            if let Some(at) = self.read[seen..].iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(seen + at + 1);
                seen = 0;
                if !line.trim_ascii().is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            seen = self.read.len();
            if seen > MAX_EVENT {
                return Err(ClientError::EventTooLong);
            }
            let Some(frame) = Pin::new(&mut self.body).frame().await else { return Ok(None) };
            if let Ok(data) = frame?.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }
}

/// `/version`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Version {
    components: Vec<Component>,
    version: String,
    api_version: String,
}

#[derive(Deserialize)]
struct Component {
    #[serde(rename = "Name")]
    name: String,
}

impl Default for Version {
    fn default() -> Self {
        let unknown = || "unknown".to_owned();
        Version { components: Vec::new(), version: unknown(), api_version: unknown() }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.components.first().map_or("daemon", |first| &first.name);
        write!(f, "{name} {}, API {}", self.version, self.api_version)
    }
}

fn ids(list: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    let entries: Vec<serde_json::Value> = serde_json::from_slice(list)?;
    Ok(entries.iter().filter_map(|entry| Some(entry.get("Id")?.as_str()?.to_owned())).collect())
}

fn date(headers: &HeaderMap) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(headers.get(DATE)?.to_str().ok()?, &Rfc2822).ok()
}

/// The daemon's own words for an error.
fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Message {
        message: String,
    }
    match serde_json::from_slice::<Message>(body) {
        Ok(Message { message }) => message,
        Err(_) => String::from_utf8_lossy(body).chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    #[test]
    fn the_daemons_clock_is_in_its_answers() {
        let mut headers = HeaderMap::new();
        assert_eq!(date(&headers), None);
        headers.insert(DATE, HeaderValue::from_static("Fri, 02 Jan 2026 03:04:05 GMT"));
        assert_eq!(date(&headers).map(OffsetDateTime::unix_timestamp), Some(1_767_323_045));
    }

    #[tokio::test]
    async fn events_are_lines_however_they_come_and_one_without_end_is_an_error() {
        let body = |pieces: Vec<Bytes>| {
            let frames = pieces.into_iter().map(|piece| Ok::<_, ClientError>(Frame::data(piece)));
            StreamBody::new(stream::iter(frames))
        };
        let pieces = ["{\"Action\":", "\"start\"}\n\r\n{\"Action\": \"die\"}", "\n{\"Act"];
        let pieces = pieces.map(|piece| Bytes::from_static(piece.as_bytes())).to_vec();
        let events: Vec<_> = events_in(body(pieces))
            .map_ok(|event| event.action)
            .try_collect()
            .await
            .expect("events");
        assert_eq!(events, [Some("start".to_owned()), Some("die".to_owned())]);

        let endless = vec![Bytes::from(vec![b'a'; MAX_EVENT / 2]); 4];
        let first = events_in(body(endless)).try_collect::<Vec<_>>().await;
        assert!(matches!(first, Err(ClientError::EventTooLong)), "{first:?}");
    }

    #[test]
    fn a_version_may_lack_what_it_likes() {
        let text = |json| serde_json::from_str::<Version>(json).expect("JSON").to_string();
        let full = r#"{"Components": [{"Name": "Engine"}], "Version": "29", "ApiVersion": "1.52"}"#;
        assert_eq!(text(full), "Engine 29, API 1.52");
        assert_eq!(text("{}"), "daemon unknown, API unknown");
    }

    #[test]
    fn a_list_needs_ids_alone() {
        let json =
            r#"[{"Id": "a", "State": "hibernating", "New": 1}, {"Id": 7}, null, {"Id": "b"}]"#;
        assert_eq!(ids(json.as_bytes()).expect("list"), ["a", "b"]);
        assert!(ids(b"{}").is_err());
    }

    #[test]
    fn an_error_has_the_daemons_words() {
        assert_eq!(message(br#"{"message": "no"}"#), "no");
        assert_eq!(message(b"plain"), "plain");
    }
}
