//! The bytes of a connection: a socket, or TLS over one.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    /// Handed over by the controller, to ask whether this worker is ready.
    Unix(UnixStream),
}

/// A socket with or without TLS, as either side of it.
#[derive(Debug)]
pub enum Transport {
    Plain(Socket),
    ServerTls(Box<tokio_rustls::server::TlsStream<Socket>>),
    ClientTls(Box<tokio_rustls::client::TlsStream<Socket>>),
}

impl Transport {
    /// From now on the kernel takes no more than so many bytes that it cannot send yet.
    pub fn send_late(&self, unsent: u32) {
        let socket = match self {
            Transport::Plain(socket) => socket,
            Transport::ServerTls(stream) => stream.get_ref().0,
            Transport::ClientTls(stream) => stream.get_ref().0,
        };
        if let Socket::Tcp(socket) = socket
            && let Err(error) = socket2::SockRef::from(socket).set_tcp_notsent_lowat(unsent)
        {
            tracing::debug!(%error, "TCP_NOTSENT_LOWAT");
        }
    }
}

macro_rules! on_each {
    ($self:expr, $($variant:path),+ => |$io:ident| $call:expr) => {
        match $self.get_mut() { $($variant($io) => { let $io = Pin::new($io); $call })+ }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_each!(self, Socket::Tcp, Socket::Unix => |io| io.poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_each!(self, Socket::Tcp, Socket::Unix => |io| io.poll_write(cx, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_each!(self, Socket::Tcp, Socket::Unix => |io| io.poll_write_vectored(cx, data))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_each!(self, Socket::Tcp, Socket::Unix => |io| io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_each!(self, Socket::Tcp, Socket::Unix => |io| io.poll_shutdown(cx))
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_each!(self, Transport::Plain, Transport::ServerTls, Transport::ClientTls
            => |io| io.poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_each!(self, Transport::Plain, Transport::ServerTls, Transport::ClientTls
            => |io| io.poll_write(cx, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_each!(self, Transport::Plain, Transport::ServerTls, Transport::ClientTls
            => |io| io.poll_write_vectored(cx, data))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_each!(self, Transport::Plain, Transport::ServerTls, Transport::ClientTls
            => |io| io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_each!(self, Transport::Plain, Transport::ServerTls, Transport::ClientTls
            => |io| io.poll_shutdown(cx))
    }
}

/// One read into the spare room of `buffer`, which is grown to `room` bytes; 0 is the end of the
/// stream.
pub fn poll_read_some<R: AsyncRead + Unpin>(
    io: &mut R,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    room: usize,
) -> Poll<io::Result<usize>> {
    buffer.reserve(room);
    // `read_buf` keeps nothing between polls, so the future can be made anew each time.
    pin!(io.read_buf(buffer)).poll(cx)
}
