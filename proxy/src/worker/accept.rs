//! From a listener to a connection that speaks a known protocol.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use rustls::server::{Accepted, Acceptor};
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::StartHandshake;

use super::challenges::is_tls_alpn_challenge;
use super::client_auth::ClientAuth;
use super::descriptors;
use super::drain::Phase;
use super::local::{Local, Peer, Slot, Tls};
use super::passthrough::{self, Alert, refuse};
use super::proxy_protocol;
use super::stats::ThreadStats;
use super::transport::{Socket, Transport, poll_read_some};
use super::{http1, http2};
use crate::protocol::settings::ListenerKind;
use crate::protocol::upstream_tls::ALPN_HTTP2;

/// How long accepting pauses when the process has no descriptor left.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);
/// Longest time that a listener goes on after the drain began. By then only the slowest handshakes
/// are left, and those migrate.
const QUIESCE_LIMIT: Duration = Duration::from_secs(10);
/// What an HTTP/2 client with prior knowledge sends first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FIRST_READ: usize = 4 * 1024;

/// What a thread needs to turn accepted sockets into connections.
#[derive(Clone)]
pub struct Accept {
    pub local: Rc<Local>,
    pub tls: Arc<ServerConfig>,
    /// For a CA that looks whether its challenge was met.
    pub challenges: Arc<ServerConfig>,
}

impl Accept {
    /// Accepts from one listener until the drain begins and nobody comes any more.
    pub async fn run(self, listener: TcpListener, kind: ListenerKind) {
        let drain = self.local.drain.watch();
        let mut sweeps = self.local.sweeps.subscribe();
        loop {
            let next = async {
                loop {
                    // Not a place that is kept: the other listeners of the thread need it meanwhile.
                    self.local.room().await;
                    tokio::select! {
                        biased;
                        () = self.local.shortage() => {}
                        accepted = listener.accept() => return accepted,
                    }
                }
            };
            let accepted = tokio::select! {
                biased;
                () = drain.reached(Phase::Drain) => break,
                Ok(()) = sweeps.changed() => {
                    self.sweep(&listener, kind).await;
                    continue;
                }
                next = next => next,
            };
            match accepted {
                Ok((socket, address)) => {
                    self.begin(socket, address, kind, self.local.slot_now());
                }
                Err(error) => self.pause(&error).await,
            }
        }
        self.quiesce(&listener, kind).await;
    }

    /// Goes on until nobody has come for the quiet time: those who were in the middle of a handshake
    /// with this listener still arrive here.
    async fn quiesce(&self, listener: &TcpListener, kind: ListenerKind) {
        let quiet = self.local.drain.quiet();
        let limit = Instant::now() + QUIESCE_LIMIT;
        while let Ok(accepted) = timeout(quiet, listener.accept()).await {
            match accepted {
                Ok((socket, address)) => {
                    self.begin(socket, address, kind, self.local.slot_now());
                }
                Err(error) => self.pause(&error).await,
            }
            if Instant::now() >= limit {
                break;
            }
        }
        self.sweep(listener, kind).await;
    }

    /// Takes what is in the queue, without waiting to be told that something is.
    async fn sweep(&self, listener: &TcpListener, kind: ListenerKind) {
        loop {
            match accept_now(listener) {
                Ok((socket, address)) => {
                    self.begin(socket, address, kind, self.local.slot_now());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Of one client, or for want of descriptors: the queue is there still.
                Err(error) if is_passing(&error) => self.pause(&error).await,
                Err(_) => return,
            }
        }
    }

    async fn pause(&self, error: &io::Error) {
        // ECONNABORTED and its like concern one client. A lack of descriptors comes again at once.
        if descriptors::are_used_up(error) {
            self.local.complaint.make(error);
            sleep(OUT_OF_DESCRIPTORS).await;
        }
    }

    fn begin(&self, socket: TcpStream, address: SocketAddr, kind: ListenerKind, slot: Slot) {
        self.local.stats.accepted.add(1);
        // Without it a small frame behind another one waits for the client's delayed ACK.
        let Ok(local) = socket.set_nodelay(true).and_then(|()| socket.local_addr()) else {
            return; // The client has gone.
        };
        let (local_ip, local_port) = (local.ip(), local.port());
        let peer = Peer { address, local_ip, local_port, tls: None, is_controller: false };
        self.connection(Socket::Tcp(socket), peer, kind, slot);
    }

    /// Serves a connected socket.
    pub fn connection(&self, socket: Socket, peer: Peer, kind: ListenerKind, slot: Slot) {
        let slot = slot.open();
        match socket {
            Socket::Tcp(socket) if self.local.settings.is_balancer(peer.address.ip()) => {
                spawn_local(self.clone().balanced(socket, peer, kind, slot));
            }
            socket => self.speak(socket, peer, kind, slot),
        }
    }

    /// A balancer says first for whom it has connected.
    async fn balanced(self, mut socket: TcpStream, mut peer: Peer, kind: ListenerKind, slot: Slot) {
        let limit = self.local.settings.timeouts.handshake;
        match timeout(limit, proxy_protocol::read(&mut socket)).await {
            Ok(Ok(client)) => {
                peer.address = client.unwrap_or(peer.address);
                self.speak(Socket::Tcp(socket), peer, kind, slot);
            }
            Ok(Err(error)) => tracing::debug!(balancer = %peer.address, %error, "closed"),
            Err(_) => tracing::debug!(balancer = %peer.address, "PROXY protocol header is late"),
        }
    }

    fn speak(&self, socket: Socket, peer: Peer, kind: ListenerKind, slot: Slot) {
        match kind {
            ListenerKind::Http => {
                spawn_local(plain(self.local.clone(), socket, peer, slot));
            }
            ListenerKind::Https => {
                spawn_local(handshake(self.clone(), socket, peer, slot));
            }
        }
    }
}

/// Asks the kernel, not the runtime: the queue may hold connections that woke nobody.
fn accept_now(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, address) = socket2::SockRef::from(listener).accept()?;
    socket.set_nonblocking(true)?;
    let address = address.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok((TcpStream::from_std(socket.into())?, address))
}

/// Another accept may go better.
fn is_passing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionAborted || descriptors::are_used_up(error)
}

/// Plain HTTP: the first bytes tell which version.
async fn plain(local: Rc<Local>, socket: Socket, peer: Peer, slot: Slot) {
    let mut transport = Transport::Plain(socket);
    let mut input = BytesMut::new();
    let drain = local.drain.watch();
    let first = poll_fn(|cx| {
        loop {
            if input.len() >= PREFACE.len() || !PREFACE.starts_with(&input) {
                return Poll::Ready(true);
            }
            match poll_read_some(&mut transport, cx, &mut input, FIRST_READ) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(!input.is_empty()),
                Poll::Pending => return drain.poll(cx, Phase::CloseIdle).map(|()| false),
            }
        }
    });
    let limit = local.settings.timeouts.keep_alive;
    if timeout(limit, first).await != Ok(true) {
        return;
    }
    drop(drain);
    if input.starts_with(PREFACE) {
        let connection = http2::server::Connection::new(local, peer, transport, input);
        connection.serve().await;
    } else {
        let connection = http1::server::Connection::new(local, peer, transport, input);
        connection.serve().await;
    }
    drop(slot);
}

/// TLS, then what ALPN says. The connection goes on as a task of its own: the state of a handshake
/// is several times that of a connection, and would stay in this one.
async fn handshake(accept: Accept, socket: Socket, peer: Peer, slot: Slot) {
    let limit = accept.local.settings.timeouts.handshake;
    match timeout(limit, tls(&accept, socket)).await {
        Ok(Ok(Opened::Ours(stream, client_auth))) => {
            start(accept.local, *stream, client_auth, peer, slot);
        }
        Ok(Ok(Opened::Theirs { name, socket, hello })) => {
            spawn_local(async move {
                let served = passthrough::serve(accept.local, peer, &name, socket, hello).await;
                served.unwrap_or_else(|error| tracing::debug!(%name, %error, "TLS passed through"));
                drop(slot);
            });
        }
        Ok(Ok(Opened::Done)) => {}
        Ok(Err(error)) => {
            accept.local.stats.handshake_failures.add(1);
            tracing::debug!(client = %peer.address, %error, "TLS handshake");
        }
        Err(_) => {
            accept.local.stats.handshake_failures.add(1);
            tracing::debug!(client = %peer.address, "TLS handshake took too long");
        }
    }
}

type TlsStream = tokio_rustls::server::TlsStream<Socket>;

/// What a ClientHello has led to.
enum Opened {
    /// With how the client was verified.
    Ours(Box<TlsStream>, Option<Arc<ClientAuth>>),
    /// The upstream of this name ends TLS, from its first byte.
    Theirs { name: String, socket: Socket, hello: BytesMut },
    /// A CA has seen what it came for.
    Done,
}

async fn tls(accept: &Accept, mut socket: Socket) -> io::Result<Opened> {
    let (accepted, hello) = client_hello(&mut socket).await?;
    let settings = &accept.local.settings.tls;
    let name = accepted.client_hello().server_name().unwrap_or_default().to_ascii_lowercase();
    let routing = accept.local.routing();
    let host = routing.table.host(name.as_bytes());
    // A challenge of its own, too: whoever ends TLS orders the certificate.
    if host.is_some_and(|host| host.passthrough) {
        return Ok(Opened::Theirs { name, socket, hello });
    }
    drop(hello);
    if is_tls_alpn_challenge(&accepted.client_hello()) {
        let start = StartHandshake::from_parts(accepted, socket);
        start.into_stream(accept.challenges.clone()).await?.shutdown().await?;
        return Ok(Opened::Done);
    }
    if settings.strict_sni && host.is_none() {
        refuse(&mut socket, Alert::UnrecognizedName).await?;
        return Err(io::Error::other("server name is not routed"));
    }
    let client_auth = host.and_then(|host| host.client_auth.clone());
    drop(routing);
    let config = match &client_auth {
        None => accept.tls.clone(),
        Some(auth) => auth
            .config(&accept.tls, settings.profile)
            .ok_or_else(|| io::Error::other("there is no CA for the clients of this host"))?,
    };
    let stream = StartHandshake::from_parts(accepted, socket).into_stream(config).await?;
    Ok(Opened::Ours(Box::new(stream), client_auth))
}

/// Reads up to the end of the ClientHello, and keeps the bytes. rustls bounds how many there can be.
async fn client_hello(socket: &mut Socket) -> io::Result<(Accepted, BytesMut)> {
    let mut acceptor = Acceptor::default();
    let mut hello = BytesMut::new();
    loop {
        let known = hello.len();
        if poll_fn(|cx| poll_read_some(socket, cx, &mut hello, FIRST_READ)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut news = &hello[known..];
        while !news.is_empty() {
            acceptor.read_tls(&mut news)?;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok((accepted, hello)),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                alert.write_all(&mut bytes)?;
                socket.write_all(&bytes).await?;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
}

fn count(stats: &ThreadStats, session: &ServerConnection) {
    let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let is_tls12 = session.protocol_version() == Some(ProtocolVersion::TLSv1_2);
    let count = match (is_tls12, is_resumed) {
        (true, false) => &stats.tls12_full,
        (true, true) => &stats.tls12_resumed,
        (false, false) => &stats.tls13_full,
        (false, true) => &stats.tls13_resumed,
    };
    count.add(1);
}

fn start(
    local: Rc<Local>,
    stream: TlsStream,
    client_auth: Option<Arc<ClientAuth>>,
    mut peer: Peer,
    slot: Slot,
) {
    let (_, session) = stream.get_ref();
    count(&local.stats, session);
    let http2 = session.alpn_protocol() == Some(ALPN_HTTP2);
    let server_name = session.server_name().map(|name| name.to_ascii_lowercase().into());
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    };
    peer.tls = Some(Tls { server_name, client_auth, version });
    let transport = Transport::ServerTls(Box::new(stream));
    let input = BytesMut::new();
    // Two tasks, as one for both would have room for the larger one, which is HTTP/1.1's.
    if http2 {
        let connection = http2::server::Connection::new(local, peer, transport, input);
        spawn_local(async move {
            connection.serve().await;
            drop(slot);
        });
    } else {
        let connection = http1::server::Connection::new(local, peer, transport, input);
        spawn_local(async move {
            connection.serve().await;
            drop(slot);
        });
    }
}
