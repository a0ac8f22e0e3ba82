//! One HTTP/1.1 request over a unix stream: how a worker is asked whether it is ready, and how the
//! command line asks the admin socket.

use std::io;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// Longest answer, in bytes. `baton routes` of 2,000 containers takes about 1 MiB.
const MAX_ANSWER: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("answer is longer than {MAX_ANSWER} bytes")]
    TooLong,
    #[error("answer: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
}

/// Asks once and reads the whole answer; the stream is closed after it.
///
/// # Errors
/// When the other end hangs up, or answers with anything but HTTP.
pub async fn ask(
    stream: UnixStream,
    mut request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), RequestError> {
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok((status, body.map_err(body_error)?.to_bytes()))
    };
    // The answer is what counts: what becomes of the connection after it does not matter.
    let (answer, _connection) = tokio::join!(answer, connection);
    answer
}

fn body_error(error: Box<dyn std::error::Error + Send + Sync>) -> RequestError {
    if error.is::<LengthLimitError>() { RequestError::TooLong } else { RequestError::Body(error) }
}
