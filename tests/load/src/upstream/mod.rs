//! A small real server for baton to stand in front of: every endpoint is something that a client
//! can check.
//!
//! It answers by the last segment of the path, so that it can be routed under any prefix; whatever
//! is not an endpoint is answered as `/`.
//!
//! | endpoint | answer |
//! | --- | --- |
//! | `/` | `NAME NONCE`; fields `X-Upstream` and `X-Nonce`, as every other answer too |
//! | `/echo` | the request's body, as it comes |
//! | `/bytes?n=` | so many bytes of the [`pattern`](crate::pattern) |
//! | `/sink` | `{"length": N, "pattern": whether the body was the pattern}` |
//! | `/headers` | the request's head as it came, as JSON |
//! | `/slow?ms=` | as `/`, later |
//! | `/sse?n=&ms=` | so many server-sent events, so far apart |
//! | `/ws` | a WebSocket that echoes |
//! | `/trailers` | a body and then the trailer field `X-Checked: yes` |
//! | `/status?code=` | that status, the request's body unread |
//! | `/early-hints` | 103 with a Link, then 200 |
//! | `/reset` | the end of the connection (RST_STREAM over HTTP/2) in place of an answer |
//! | `/cut?n=` | announces twice as many bytes as it sends, then ends the connection |
//! | `/health` | 200 or 503; `?set=up` and `?set=down` change which |
//! | anything with `content-type: application/grpc` | its messages back, then `grpc-status: 0` |

mod endpoints;
mod exchange;
mod http1;
mod http2;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::wire::Wire;

const BACKLOG: i32 = 1024;
/// How long requests in progress may take once it stops.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// An accept that fails for want of descriptors would otherwise be repeated in a tight loop.
const AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(10);
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

#[derive(Debug, Clone, Default)]
pub struct UpstreamOptions {
    pub name: String,
    /// Default: a free port of 127.0.0.1.
    pub listen: Option<SocketAddr>,
    /// TLS with a certificate of its own, which nobody trusts.
    pub tls: bool,
    /// `/health` says no as long as this file is there.
    pub unhealthy_file: Option<PathBuf>,
    /// `/health` says no for so long.
    pub healthy_after: Duration,
    /// Between the wish to stop and the closing of the listener it serves on.
    pub stop_delay: Duration,
}

/// A running upstream. Dropping it tears its connections; [`Upstream::stop`] does not.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What every connection of an upstream knows.
#[derive(Debug)]
struct Shared {
    name: String,
    requests: AtomicU64,
    health: Health,
}

#[derive(Debug)]
struct Health {
    up: AtomicBool,
    unhealthy_file: Option<PathBuf>,
    up_from: Instant,
}

impl Health {
    fn is_up(&self) -> bool {
        self.up.load(Relaxed)
            && Instant::now() >= self.up_from
            && !self.unhealthy_file.as_deref().is_some_and(|file| file.exists())
    }
}

impl Upstream {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When there is no such port.
    pub async fn start(name: &str) -> io::Result<Self> {
        Self::start_with(UpstreamOptions { name: name.to_owned(), ..Default::default() }).await
    }

    /// # Errors
    /// When the address cannot be bound.
    pub async fn start_with(options: UpstreamOptions) -> io::Result<Self> {
        let wanted = options.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = listen(wanted)?;
        let address = listener.local_addr()?;
        let acceptor = if options.tls { Some(tls::acceptor(&options.name)?) } else { None };
        let shared = Arc::new(Shared {
            name: options.name,
            requests: AtomicU64::new(0),
            health: Health {
                up: AtomicBool::new(true),
                unhealthy_file: options.unhealthy_file,
                up_from: Instant::now() + options.healthy_after,
            },
        });
        let (stop, stopped) = watch::channel(false);
        let server = Server { listener, acceptor, shared: shared.clone() };
        let task = tokio::spawn(server.run(stopped, options.stop_delay));
        Ok(Upstream { address, shared, stop, task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that came so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Relaxed)
    }

    /// What `/health` says from now on.
    pub fn set_health(&self, up: bool) {
        self.shared.health.up.store(up, Relaxed);
    }

    /// Serves on for the stop delay, closes the listener, finishes what is in progress, and ends.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        // It can only have been aborted, by nobody else, or have panicked, which was printed.
        drop((&mut self.task).await);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

struct Server {
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    shared: Arc<Shared>,
}

impl Server {
    async fn run(self, mut stopped: watch::Receiver<bool>, stop_delay: Duration) {
        let (drain, draining) = watch::channel(false);
        let mut connections = JoinSet::new();
        tokio::select! {
            () = self.accept(&mut connections, &draining) => {}
            () = async {
                begun(&mut stopped).await;
                tokio::time::sleep(stop_delay).await;
            } => {}
        }
        drop(self.listener);
        drain.send_replace(true);
        let finished = async { while connections.join_next().await.is_some() {} };
        drop(tokio::time::timeout(STOP_LIMIT, finished).await);
    }

    async fn accept(&self, connections: &mut JoinSet<()>, draining: &watch::Receiver<bool>) {
        loop {
            while connections.try_join_next().is_some() {}
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(AFTER_ACCEPT_ERROR).await;
                continue;
            };
            let (acceptor, shared) = (self.acceptor.clone(), self.shared.clone());
            let draining = draining.clone();
            connections.spawn(async move {
                // What went wrong with a connection is for its client to tell.
                drop(connection(stream, acceptor, shared, draining).await);
            });
        }
    }
}

/// Waits until the drain has begun. A sender that is gone means the same.
async fn begun(draining: &mut watch::Receiver<bool>) {
    drop(draining.wait_for(|draining| *draining).await);
}

async fn connection(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    draining: watch::Receiver<bool>,
) -> Result<(), exchange::Gone> {
    stream.set_nodelay(true)?;
    if let Some(acceptor) = acceptor {
        let stream = acceptor.accept(stream).await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        return if http2 {
            http2::serve(stream, shared, draining).await
        } else {
            http1::serve(Wire::new(Box::new(stream)), shared, draining).await
        };
    }
    let mut wire = Wire::new(stream);
    while wire.buffer.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&wire.buffer) {
        if wire.fill().await? == 0 {
            return Ok(());
        }
    }
    if wire.buffer.starts_with(HTTP2_PREFACE) {
        let (read, write) = tokio::io::split(wire.stream);
        let read = tokio::io::AsyncReadExt::chain(io::Cursor::new(wire.buffer), read);
        http2::serve(tokio::io::join(read, write), shared, draining).await
    } else {
        let wire = Wire { stream: Box::new(wire.stream) as crate::Stream, buffer: wire.buffer };
        http1::serve(wire, shared, draining).await
    }
}
