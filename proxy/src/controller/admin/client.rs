//! Asks the admin socket, for the command line.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::answers::{Begun, Handoff, Refused, Status, Step, UpgradeOrder};
use super::logs;
use crate::controller::unix_http::{self, RequestError};

/// Longer than the server's own limits.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at a handoff that is under way.
const FOLLOW_PAUSE: Duration = Duration::from_millis(20);
/// For a handoff, beside the time of its canary; the controller's own limits end it earlier.
const FOLLOW_LIMIT: Duration = Duration::from_secs(120);
/// From the outcome until the old generation has closed its listeners, which is told too.
const CLOSE_LIMIT: Duration = Duration::from_secs(20);

/// For another program to answer, where the one that we followed is gone.
const RETURN_LIMIT: Duration = Duration::from_secs(30);
/// Between two tries to reach it.
const RETURN_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("not running: nobody listens on {}: start it with `baton run`, or name its socket with \
        --socket", .0.display())]
    NotRunning(PathBuf),
    #[error("{}: permission denied: ask as root, or as the user that baton runs as", .0.display())]
    Denied(PathBuf),
    #[error("{path}: {source}", path = path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("no answer within {} s: see the log of `baton run`", ANSWER_LIMIT.as_secs())]
    TimedOut,
    #[error("no answer: {0}")]
    Request(#[from] RequestError),
    #[error("{}", refusal(.0))]
    Refused(Refused),
    #[error("{0}")]
    Failed(String),
    #[error("the controller has forgotten this handoff: see the log of `baton run`")]
    Lost,
    #[error("the answer is of another version: {0}: ask with --json")]
    Unreadable(String),
    #[error("stdout: {0}")]
    Told(#[source] io::Error),
    #[error("runtime: {0}")]
    Runtime(#[source] io::Error),
}

/// The body of the answer to one request.
///
/// # Errors
/// [`AskError`], in one line that says what to do; a refusal of the controller has its reasons on
/// lines of their own.
pub fn ask(socket: &Path, method: Method, path: &str) -> Result<Bytes, AskError> {
    runtime()?.block_on(async {
        let exchange = exchange(socket, method, path);
        timeout(ANSWER_LIMIT, exchange).await.unwrap_or(Err(AskError::TimedOut))
    })
}

/// The same for an order that says what it is for.
///
/// # Errors
/// As [`ask`].
pub fn order(socket: &Path, path: &str, order: &impl Serialize) -> Result<Bytes, AskError> {
    let body = serde_json::to_vec(order).expect("orders have string keys alone");
    runtime()?.block_on(async {
        let exchange = exchange_with(socket, Method::POST, path, body.into());
        timeout(ANSWER_LIMIT, exchange).await.unwrap_or(Err(AskError::TimedOut))
    })
}

fn runtime() -> Result<Runtime, AskError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AskError::Runtime)
}

/// An answer as what it means.
///
/// # Errors
/// When the controller is of a version whose answers this one does not know.
pub fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<T, AskError> {
    serde_json::from_slice(answer).map_err(|e| AskError::Unreadable(e.to_string()))
}

/// Orders an upgrade or a rollback, and tells its steps as they come: see [`watch`].
///
/// # Errors
/// As [`ask`], and [`AskError::Failed`] with the reason when the old program goes on.
pub fn follow(
    socket: &Path,
    path: &str,
    order: &UpgradeOrder,
    tell: impl FnMut(&Step),
) -> Result<Handoff, AskError> {
    let body = serde_json::to_vec(order).expect("orders have string keys alone");
    let trial = order.launch.canary.map(|plan| plan.time()).unwrap_or_default();
    runtime()?.block_on(async {
        let begun = exchange_with(socket, Method::POST, path, body.into()).await?;
        let Begun { handoff } = parse(&begun)?;
        watching(socket, handoff, FOLLOW_LIMIT + trial, tell).await
    })
}

/// Tells the steps of a handoff until its outcome is known and the old generation has closed its
/// listeners. The controller may become another program meanwhile, so that an answer may be lost
/// with it: the journal crosses, and is asked instead.
///
/// # Errors
/// As [`follow`].
pub fn watch(socket: &Path, handoff: u64, tell: impl FnMut(&Step)) -> Result<Handoff, AskError> {
    runtime()?.block_on(watching(socket, handoff, FOLLOW_LIMIT, tell))
}

/// Tells what the access log says of a host from now on, across handoffs, upgrades and restarts.
/// `tell` gets bytes as they come; what it cannot take ends it.
///
/// # Errors
/// As [`ask`], at once or where nobody comes back within [`RETURN_LIMIT`].
pub fn follow_log(
    socket: &Path,
    host: &str,
    mut tell: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), AskError> {
    runtime()?.block_on(async {
        let mut lines = log_lines(socket, host).await?;
        loop {
            let mut bytes = [0; 16 * 1024];
            match lines.read(&mut bytes).await {
                Ok(0) | Err(_) => lines = returned(socket, host).await?,
                Ok(count) => tell(&bytes[..count]).map_err(AskError::Told)?,
            }
        }
    })
}

/// The lines of the next program.
async fn returned(socket: &Path, host: &str) -> Result<LogLines, AskError> {
    let end = tokio::time::Instant::now() + RETURN_LIMIT;
    loop {
        match log_lines(socket, host).await {
            Err(AskError::NotRunning(_) | AskError::Request(_))
                if tokio::time::Instant::now() < end =>
            {
                tokio::time::sleep(RETURN_PAUSE).await;
            }
            other => return other,
        }
    }
}

type LogLines = TokioIo<hyper::upgrade::Upgraded>;

async fn log_lines(socket: &Path, host: &str) -> Result<LogLines, AskError> {
    let request = Request::get(format!("/logs?host={host}"))
        .header(header::HOST, "baton")
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, logs::PROTOCOL)
        .body(Full::<Bytes>::default())
        .map_err(|_| AskError::Failed(format!("{host}: not a name: `baton routes` shows hosts")))?;
    let stream = UnixStream::connect(socket).await.map_err(|e| explain(socket, e))?;
    let http = |error| AskError::Request(RequestError::Http(error));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(request).await.map_err(http)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return hyper::upgrade::on(response).await.map(TokioIo::new).map_err(http);
    }
    let body = response.into_body().collect().await.map_err(http)?.to_bytes();
    Err(AskError::Refused(parse(&body)?))
}

async fn watching(
    socket: &Path,
    id: u64,
    limit: Duration,
    mut tell: impl FnMut(&Step),
) -> Result<Handoff, AskError> {
    let mut told = 0;
    let mut started = None;
    let mut look = async || {
        let handoffs = journal(socket).await?;
        let is_last = handoffs.first().is_some_and(|newest| newest.id == id);
        let found = handoffs.into_iter().find(|handoff| handoff.id == id);
        let found = found.ok_or(AskError::Lost)?;
        // A controller that comes after a dead one counts anew.
        if *started.get_or_insert_with(|| found.started.clone()) != found.started {
            return Err(AskError::Lost);
        }
        found.steps[told..].iter().for_each(&mut tell);
        told = found.steps.len();
        Ok::<_, AskError>((found, is_last))
    };
    let outcome = async {
        loop {
            let (found, _) = look().await?;
            match found.outcome.as_str() {
                Handoff::UNDER_WAY => tokio::time::sleep(FOLLOW_PAUSE).await,
                Handoff::DONE => return Ok(found),
                _ => return Err(AskError::Failed(found.error.unwrap_or_default())),
            }
        }
    };
    let done = timeout(limit, outcome).await.unwrap_or(Err(AskError::TimedOut))?;
    let closed = async {
        loop {
            match look().await {
                // The next handoff may have come before: nobody notes the close then.
                Ok((found, is_last)) if found.ms_to_close.is_some() || !is_last => return found,
                Ok(_) => tokio::time::sleep(FOLLOW_PAUSE).await,
                Err(AskError::Lost) => return done.clone(),
                Err(_) => tokio::time::sleep(FOLLOW_PAUSE).await,
            }
        }
    };
    Ok(timeout(CLOSE_LIMIT, closed).await.unwrap_or(done))
}

/// The last handoffs. A connection that the old program took with it is made anew.
async fn journal(socket: &Path) -> Result<Vec<Handoff>, AskError> {
    loop {
        match exchange(socket, Method::GET, "/status").await {
            Ok(answer) => return Ok(parse::<Status>(&answer)?.last_handoffs),
            Err(AskError::Request(_)) => tokio::time::sleep(FOLLOW_PAUSE).await,
            Err(error) => return Err(error),
        }
    }
}

pub(super) async fn exchange(socket: &Path, method: Method, path: &str) -> Result<Bytes, AskError> {
    exchange_with(socket, method, path, Bytes::new()).await
}

async fn exchange_with(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Bytes, AskError> {
    let stream = UnixStream::connect(socket).await.map_err(|e| explain(socket, e))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "baton")
        .body(Full::new(body))
        .expect("paths are constants");
    let (status, body) = unix_http::ask(stream, request).await?;
    if status == StatusCode::OK {
        return Ok(body);
    }
    match serde_json::from_slice(&body) {
        Ok(refused) => Err(AskError::Refused(refused)),
        Err(_) => Err(AskError::Unreadable(status.to_string())),
    }
}

fn explain(socket: &Path, error: io::Error) -> AskError {
    let path = socket.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NotRunning(path),
        io::ErrorKind::PermissionDenied => AskError::Denied(path),
        _ => AskError::Connect { path, source: error },
    }
}

fn refusal(refused: &Refused) -> String {
    let mut text = refused.error.clone();
    for reason in &refused.reasons {
        text.push_str("\n  ");
        text.push_str(reason);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_there_is_one_clear_line() {
        let error = ask(Path::new("/nonexistent/c.sock"), Method::GET, "/status");
        assert_eq!(
            error.expect_err("nobody listens").to_string(),
            "not running: nobody listens on /nonexistent/c.sock: start it with `baton run`, or name \
             its socket with --socket"
        );
    }
}
