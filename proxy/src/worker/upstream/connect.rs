//! New connections to upstreams.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::protocol::settings::WorkerSettings;
use crate::protocol::snapshot::UpstreamProtocol;
use crate::protocol::upstream_tls::{ALPN_HTTP1, ALPN_HTTP2, client_config};
use crate::worker::transport::{Socket, Transport};

/// Opens connections as the settings say.
#[derive(Debug)]
pub struct Connector {
    timeout: Duration,
    tls_http1: Arc<ClientConfig>,
    tls_http2: Arc<ClientConfig>,
}

impl Connector {
    pub fn new(settings: &WorkerSettings) -> Self {
        Connector {
            timeout: settings.timeouts.connect,
            tls_http1: client_config(ALPN_HTTP1),
            tls_http2: client_config(ALPN_HTTP2),
        }
    }

    /// `name` is the host that the client asked for; it becomes the server name where TLS is
    /// spoken, as nginx-proxy does.
    ///
    /// # Errors
    /// What the connect or the handshake says; [`io::ErrorKind::TimedOut`] when both together took
    /// longer than the connect timeout.
    pub async fn connect(
        &self,
        address: SocketAddr,
        protocol: UpstreamProtocol,
        name: &str,
    ) -> io::Result<Transport> {
        let connecting = async {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            let config = match protocol {
                UpstreamProtocol::Http | UpstreamProtocol::Grpc => {
                    return Ok(Transport::Plain(Socket::Tcp(socket)));
                }
                UpstreamProtocol::Https => &self.tls_http1,
                UpstreamProtocol::Grpcs => &self.tls_http2,
            };
            let name = ServerName::try_from(name.to_owned())
                .unwrap_or_else(|_| ServerName::IpAddress(address.ip().into()));
            let connector = TlsConnector::from(config.clone());
            let stream = connector.connect(name, Socket::Tcp(socket)).await?;
            Ok(Transport::ClientTls(Box::new(stream)))
        };
        timeout(self.timeout, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
