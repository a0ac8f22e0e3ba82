//! Asks the admin socket, for the command line.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Empty;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::answers::Refused;
use crate::controller::unix_http::{self, RequestError};

/// Longer than the server's own limits.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

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
    #[error("the answer is of another version: {0}: ask with --json")]
    Unreadable(String),
    #[error("runtime: {0}")]
    Runtime(#[source] io::Error),
}

/// The body of the answer to one request.
///
/// # Errors
/// [`AskError`], in one line that says what to do; a refusal of the controller has its reasons on
/// lines of their own.
pub fn ask(socket: &Path, method: Method, path: &str) -> Result<Bytes, AskError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(AskError::Runtime)?;
    runtime.block_on(async {
        let exchange = exchange(socket, method, path);
        timeout(ANSWER_LIMIT, exchange).await.unwrap_or(Err(AskError::TimedOut))
    })
}

/// An answer as what it means.
///
/// # Errors
/// When the controller is of a version whose answers this one does not know.
pub fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<T, AskError> {
    serde_json::from_slice(answer).map_err(|e| AskError::Unreadable(e.to_string()))
}

pub(super) async fn exchange(socket: &Path, method: Method, path: &str) -> Result<Bytes, AskError> {
    let stream = UnixStream::connect(socket).await.map_err(|e| explain(socket, e))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "baton")
        .body(Empty::<Bytes>::new())
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
