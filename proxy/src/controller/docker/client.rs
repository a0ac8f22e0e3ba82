//! Talks to the daemon: bollard for version and events; list and inspect as raw JSON.
//!
//! bollard's types are closed: one container in a state that they do not know fails the whole
//! list, and bollard logs each answer, in which an inspect has the secrets of a container's
//! environment. So these two are asked for here, over the same connections as bollard's own.
//! All paths are without a version: a daemon then speaks the newest that it knows.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::EventMessage;
use bollard::query_parameters::{EventsOptions, EventsOptionsBuilder};
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http::header::{DATE, HOST};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, response};
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
/// Stands in for the host in requests over a unix socket.
const HOST_NAME: &str = "docker";

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon cannot be reached.
    #[error("connect: {0}")]
    Connect(io::Error),
    #[error("{0}")]
    Bollard(bollard::errors::Error),
    #[error("the connection broke: {0}")]
    Broken(io::Error),
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
}

impl From<bollard::errors::Error> for ClientError {
    fn from(error: bollard::errors::Error) -> Self {
        match error {
            // bollard wraps what breaks in the middle of a stream; a connect fails with its own kind.
            bollard::errors::Error::IOError { err } if err.kind() == io::ErrorKind::Other => {
                ClientError::Broken(err)
            }
            bollard::errors::Error::IOError { err } => ClientError::Connect(err),
            bollard::errors::Error::HyperResponseError { err } => ClientError::Http(err),
            bollard::errors::Error::RequestTimeoutError => ClientError::Timeout,
            other => ClientError::Bollard(other),
        }
    }
}

/// One daemon.
#[derive(Clone)]
pub struct Client {
    endpoint: Arc<Endpoint>,
    docker: Docker,
}

impl Client {
    /// Opens nothing yet.
    ///
    /// # Errors
    /// When bollard refuses the transport.
    pub fn new(endpoint: Endpoint) -> Result<Client, ClientError> {
        let endpoint = Arc::new(endpoint);
        let transport = {
            let endpoint = endpoint.clone();
            move |request: BollardRequest| {
                let endpoint = endpoint.clone();
                async move { send(&endpoint, request).await.map_err(into_bollard) }
            }
        };
        let docker = Docker::connect_with_custom_transport(
            transport,
            Some(format!("http://{HOST_NAME}")),
            ANSWER_TIMEOUT.as_secs(),
            API_DEFAULT_VERSION,
        )?;
        Ok(Client { endpoint, docker })
    }

    /// What answers there, for people: `Docker Engine 20.10.24, API 1.41`.
    ///
    /// # Errors
    /// When nothing answers.
    pub async fn version(&self) -> Result<String, ClientError> {
        let version = self.docker.version().await?;
        let name = version
            .components
            .and_then(|components| components.into_iter().next())
            .map_or_else(|| "daemon".to_owned(), |component| component.name);
        let text = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
        Ok(format!("{name} {}, API {}", text(version.version), text(version.api_version)))
    }

    /// The daemon's clock, in whole seconds of Unix time, rounded down.
    ///
    /// # Errors
    /// When nothing answers.
    pub async fn clock(&self) -> Result<i64, ClientError> {
        let (headers, _) = self.get("/_ping").await?;
        Ok(date(&headers).unwrap_or_else(OffsetDateTime::now_utc).unix_timestamp())
    }

    /// Events of containers and networks from `since` on, by the daemon's own clock. The types are
    /// named because bollard ends the stream at one that it does not know.
    pub fn events(
        &self,
        since: i64,
    ) -> impl Stream<Item = Result<EventMessage, ClientError>> + use<> {
        self.docker.events(Some(events_from(since))).map_err(ClientError::from)
    }

    /// The ids of all containers that run, paused and restarting ones among them.
    ///
    /// # Errors
    /// When the daemon does not answer with a list.
    pub async fn list(&self) -> Result<Vec<String>, ClientError> {
        let (_, body) = self.get("/containers/json").await?;
        ids(&body).map_err(|e| ClientError::Answer(e.into()))
    }

    /// # Errors
    /// When the daemon does not answer; a container that is gone is not an error.
    pub async fn inspect(&self, id: &str) -> Result<Inspected, ClientError> {
        match self.get(&format!("/containers/{id}/json")).await {
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

    async fn get(&self, path: &str) -> Result<(HeaderMap, Bytes), ClientError> {
        let request = Request::get(path)
            .body(Empty::<Bytes>::new())
            .map_err(|e| ClientError::Answer(e.into()))?;
        let answer = timeout(ANSWER_TIMEOUT, self.answer(request)).await;
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
    ) -> Result<(response::Parts, Bytes), ClientError> {
        let (head, body) = send(&self.endpoint, request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(ClientError::Answer)?;
        Ok((head, body.to_bytes()))
    }
}

/// Sends one request on a connection of its own, which ends with the response.
async fn send<B>(
    endpoint: &Endpoint,
    request: Request<B>,
) -> Result<Response<Incoming>, ClientError>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = endpoint.connect().await.map_err(ClientError::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(origin_form(request)).await?)
}

/// The request as it goes to an origin server (RFC 9112 section 3.2.1).
fn origin_form<B>(mut request: Request<B>) -> Request<B> {
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = Uri::from(path);
    }
    request.headers_mut().insert(HOST, HeaderValue::from_static(HOST_NAME));
    request
}

fn into_bollard(error: ClientError) -> bollard::errors::Error {
    match error {
        ClientError::Connect(err) => err.into(),
        ClientError::Http(err) => err.into(),
        other => io::Error::other(other).into(),
    }
}

fn events_from(since: i64) -> EventsOptions {
    let types = HashMap::from([("type", vec!["container", "network"])]);
    EventsOptionsBuilder::default().since(&since.to_string()).filters(&types).build()
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
    use super::*;

    #[test]
    fn the_daemons_clock_is_in_its_answers() {
        let mut headers = HeaderMap::new();
        assert_eq!(date(&headers), None);
        headers.insert(DATE, HeaderValue::from_static("Fri, 02 Jan 2026 03:04:05 GMT"));
        assert_eq!(date(&headers).map(OffsetDateTime::unix_timestamp), Some(1_767_323_045));
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
