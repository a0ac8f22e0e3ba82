//! New connections to upstreams.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Upstream;
use super::exchange::{Request, UpstreamError};
use crate::protocol::snapshot::UpstreamProtocol;
use crate::protocol::upstream_tls::{ALPN_HTTP1, ALPN_HTTP2, client_config};
use crate::worker::leaving::Leaving;
use crate::worker::local::Local;
use crate::worker::transport::{Socket, Transport};

/// Opens a connection for this request, unless its upstream leaves the rotation first: the address of
/// a container that is gone answers nothing, and somebody else could serve by then.
///
/// # Errors
/// As [`Connector::connect`], and [`UpstreamError::Left`].
pub async fn connect(
    local: &Rc<Local>,
    upstream: &Upstream,
    request: &Request<'_>,
) -> Result<Transport, UpstreamError> {
    local.stats.upstream_connects.add(1);
    // Apart: each request has room for what it may await, and few of them connect.
    let connecting =
        Box::pin(local.connector.connect(upstream.address, upstream.protocol, request));
    let mut leaving = Leaving::watch(local, upstream, Duration::ZERO);
    tokio::select! {
        biased;
        connected = connecting => connected.map_err(UpstreamError::Connect),
        () = leaving.over() => Err(UpstreamError::Left),
    }
}

/// Opens connections, as requests want them.
#[derive(Debug)]
pub struct Connector {
    tls_http1: Arc<ClientConfig>,
    tls_http2: Arc<ClientConfig>,
}

impl Default for Connector {
    fn default() -> Self {
        Connector { tls_http1: client_config(ALPN_HTTP1), tls_http2: client_config(ALPN_HTTP2) }
    }
}

impl Connector {
    /// The host that the client asked for becomes the server name where TLS is spoken, as nginx-proxy
    /// does.
    ///
    /// # Errors
    /// What the connect or the handshake says; [`io::ErrorKind::TimedOut`] when both together took
    /// longer than the connect timeout.
    async fn connect(
        &self,
        address: SocketAddr,
        protocol: UpstreamProtocol,
        request: &Request<'_>,
    ) -> io::Result<Transport> {
        let connecting = async {
            let socket = dial(address, request.preamble).await?;
            let config = match protocol {
                UpstreamProtocol::Http | UpstreamProtocol::Grpc => {
                    return Ok(Transport::Plain(Socket::Tcp(socket)));
                }
                UpstreamProtocol::Https => &self.tls_http1,
                UpstreamProtocol::Grpcs => &self.tls_http2,
            };
            let name = ServerName::try_from(request.server_name())
                .unwrap_or_else(|_| ServerName::IpAddress(address.ip().into()));
            let connector = TlsConnector::from(config.clone());
            let stream = connector.connect(name, Socket::Tcp(socket)).await?;
            Ok(Transport::ClientTls(Box::new(stream)))
        };
        timeout(request.timeouts.connect, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// A connection on which nothing is spoken but what the client says.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    pub async fn bare(
        &self,
        address: SocketAddr,
        limit: Duration,
        preamble: Option<&[u8]>,
    ) -> io::Result<Transport> {
        let dialled = timeout(limit, dial(address, preamble)).await;
        let socket = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        Ok(Transport::Plain(Socket::Tcp(socket)))
    }
}

async fn dial(address: SocketAddr, preamble: Option<&[u8]>) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    if let Some(preamble) = preamble {
        socket.write_all(preamble).await?;
    }
    Ok(socket)
}
