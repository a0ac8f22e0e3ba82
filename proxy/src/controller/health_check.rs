//! One active health check: a request over a connection of its own, and what the answer says.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::HealthCheck;
use crate::protocol::upstream_tls::{ALPN_HTTP1, client_config};

/// Why a check is not passed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("connect: {0}")]
    Connect(#[from] io::Error),
    #[error("answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("request: {0}")]
    Request(#[from] http::Error),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("no answer in time")]
    TimedOut,
}

/// Asks once.
///
/// # Errors
/// When the answer is not 2xx or 3xx, or none comes in time.
pub async fn pass(address: SocketAddr, check: &HealthCheck) -> Result<(), Fault> {
    let status = timeout(check.timeout, ask(address, check));
    match status.await.map_err(|_| Fault::TimedOut)?? {
        status if status.is_success() || status.is_redirection() => Ok(()),
        status => Err(Fault::Status(status)),
    }
}

async fn ask(address: SocketAddr, check: &HealthCheck) -> Result<StatusCode, Fault> {
    let mut stream = TcpStream::connect(address).await?;
    if let Some(version) = check.proxy_protocol {
        stream.write_all(&version.of_our_own()).await?;
    }
    if !check.tls {
        return talk(stream, address, check).await;
    }
    let host = check.host.clone().and_then(|host| ServerName::try_from(host).ok());
    let name = host.unwrap_or_else(|| ServerName::IpAddress(address.ip().into()));
    let connector = TlsConnector::from(client_config(ALPN_HTTP1));
    talk(connector.connect(name, stream).await?, address, check).await
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    address: SocketAddr,
    check: &HealthCheck,
) -> Result<StatusCode, Fault> {
    let host = check.host.clone().unwrap_or_else(|| address.to_string());
    let request = Request::get(&check.path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("baton/", env!("CARGO_PKG_VERSION"), " health check"))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // The head says it all: the connection ends with it.
    tokio::select! {
        response = sender.send_request(request) => Ok(response?.status()),
        Err(error) = connection => Err(error.into()),
    }
}
