//! A tunnel: two ends and two buffers. Once up it knows nothing of HTTP.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::drain::{DrainWatch, Phase};
use super::http2::body::{Receiving, Sending};
use super::leaving::Leaving;
use super::message::{Part, Upgrade};
use super::transport::{Transport, poll_read_some};
use super::websocket::{Frames, close_to_client, close_to_server};

/// Bytes read at once, and held for an end that does not take them.
const CHUNK: usize = 16 * 1024;
/// For a close frame on its way.
const GOODBYE: Duration = Duration::from_secs(5);

/// One end of a tunnel.
#[derive(Debug)]
pub enum End {
    /// A connection that the tunnel has to itself, and what was read of it before.
    Stream { transport: Transport, before: BytesMut, unflushed: bool },
    /// A stream of an HTTP/2 connection (extended CONNECT).
    Http2 { sending: Sending, receiving: Receiving },
}

/// What goes through a tunnel, as far as it matters for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    WebSocket,
    /// Bytes in which nobody but the ends can say anything.
    Unknown,
}

impl Inside {
    pub fn of(upgrade: Option<&Upgrade>) -> Self {
        if upgrade.is_some_and(Upgrade::is_websocket) { Inside::WebSocket } else { Inside::Unknown }
    }
}

#[derive(Debug)]
pub struct Tunnel {
    client: End,
    upstream: End,
    to_upstream: Direction,
    to_client: Direction,
}

/// One way through a tunnel.
#[derive(Debug, Default)]
struct Direction {
    buffer: BytesMut,
    moved: u64,
    state: Flow,
    /// None where nobody knows where a message ends.
    frames: Option<Frames>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Flow {
    #[default]
    Open,
    /// The reading end is done; the writing end has to learn it.
    Ending,
    Done,
}

/// Bytes that went through a tunnel.
#[derive(Debug, Clone, Copy)]
pub struct Moved {
    pub to_client: u64,
}

impl Tunnel {
    pub fn new(client: End, upstream: End, inside: Inside) -> Self {
        Tunnel {
            client,
            upstream,
            to_upstream: Direction::of(inside),
            to_client: Direction::of(inside),
        }
    }

    /// Moves bytes until both ends are done, one of them fails, nothing moved for `idle`, or the
    /// drain says that tunnels end, or the time of an upstream that has left is over. A WebSocket ends
    /// with a close frame to both ends then.
    pub async fn run(
        mut self,
        idle: Duration,
        drain: &DrainWatch,
        leaving: Option<Box<Leaving>>,
    ) -> Moved {
        let has_left = match leaving {
            None => {
                self.run_until_drained(idle, drain).await;
                false
            }
            Some(mut leaving) => tokio::select! {
                biased;
                () = self.run_until_drained(idle, drain) => false,
                () = leaving.over() => true,
            },
        };
        if has_left || drain.is_at(Phase::CloseTunnels) {
            // In a drain CloseAll is the limit.
            let limit = if has_left { GOODBYE } else { Duration::MAX };
            let _told = timeout(
                limit,
                poll_fn(|cx| match self.poll_goodbye(cx) {
                    Poll::Ready(_) => Poll::Ready(()),
                    Poll::Pending => drain.poll(cx, Phase::CloseAll),
                }),
            )
            .await;
        }
        Moved { to_client: self.to_client.moved }
    }

    async fn run_until_drained(&mut self, idle: Duration, drain: &DrainWatch) {
        let mut timer = pin!(sleep(idle));
        poll_fn(|cx| {
            let before = self.moved();
            let ended = self.poll_move(cx);
            if self.moved() != before {
                timer.as_mut().reset(Instant::now() + idle);
            }
            if ended.is_ready() || is_over(timer.as_mut(), cx) {
                return Poll::Ready(());
            }
            drain.poll(cx, Phase::CloseTunnels)
        })
        .await;
    }

    /// Ready when both ends were told and the client has hung up: to close a socket with bytes that
    /// nobody has read resets it, and the goodbye would be lost.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (client, upstream) = (&mut self.client, &mut self.upstream);
        let up = self.to_upstream.poll_goodbye(client, upstream, close_to_server, cx)?;
        let down = self.to_client.poll_goodbye(upstream, client, close_to_client, cx)?;
        if up.is_pending() || down.is_pending() {
            return Poll::Pending;
        }
        let mut unwanted = BytesMut::new();
        while ready!(self.client.poll_read(cx, &mut unwanted))? > 0 {
            unwanted.clear();
        }
        Poll::Ready(Ok(()))
    }

    fn moved(&self) -> u64 {
        self.to_client.moved + self.to_upstream.moved
    }

    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let up = self.to_upstream.poll_move(&mut self.client, &mut self.upstream, cx)?;
        let down = self.to_client.poll_move(&mut self.upstream, &mut self.client, cx)?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

fn is_over(timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> bool {
    timer.poll(cx).is_ready()
}

impl Direction {
    fn of(inside: Inside) -> Self {
        let frames = (inside == Inside::WebSocket).then(Frames::default);
        Direction { frames, ..Direction::default() }
    }

    /// Moves the rest of the frame that is on its way, and puts `close` behind it. At once where
    /// there are no frames.
    fn poll_goodbye(
        &mut self,
        from: &mut End,
        to: &mut End,
        close: fn() -> Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.state == Flow::Open {
            ready!(self.poll_empty(to, cx))?;
            match &self.frames {
                None => return Poll::Ready(Ok(())),
                Some(frames) if frames.is_between() => {
                    self.buffer.extend_from_slice(&close());
                    self.state = Flow::Ending;
                }
                Some(_) => ready!(self.poll_fill(from, cx))?,
            }
        }
        self.poll_move(from, to, cx)
    }

    fn poll_empty(&mut self, to: &mut End, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            self.moved += ready!(to.poll_write(cx, &mut self.buffer))? as u64;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fill(&mut self, from: &mut End, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if ready!(from.poll_read(cx, &mut self.buffer))? == 0 {
            self.state = Flow::Ending;
        }
        if let Some(frames) = &mut self.frames {
            frames.pass(&self.buffer);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_move(
        &mut self,
        from: &mut End,
        to: &mut End,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_empty(to, cx))?;
            match self.state {
                Flow::Open => match self.poll_fill(from, cx)? {
                    Poll::Ready(()) => {}
                    Poll::Pending => {
                        // What went out before may still sit in the TLS layer.
                        let _ = to.poll_flush(cx)?;
                        return Poll::Pending;
                    }
                },
                Flow::Ending => {
                    ready!(to.poll_end(cx))?;
                    self.state = Flow::Done;
                }
                Flow::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl End {
    pub fn stream(transport: Transport, before: BytesMut) -> Self {
        End::Stream { transport, before, unflushed: false }
    }

    /// Reads some bytes into an empty buffer; 0 is the end.
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        match self {
            End::Stream { before, .. } if !before.is_empty() => {
                *into = before.split();
                Poll::Ready(Ok(into.len()))
            }
            End::Stream { transport, .. } => {
                match ready!(poll_read_some(transport, cx, into, CHUNK)) {
                    // An end of TLS without close_notify: what is inside the tunnel knows by itself
                    // whether it was complete.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        Poll::Ready(Ok(0))
                    }
                    read => Poll::Ready(read),
                }
            }
            End::Http2 { receiving, .. } => loop {
                match ready!(receiving.poll_part(cx)).map_err(io::Error::other)? {
                    Some(Part::Data(data)) if data.is_empty() => {}
                    Some(Part::Data(data)) => {
                        into.extend_from_slice(&data);
                        return Poll::Ready(Ok(data.len()));
                    }
                    Some(Part::Trailers(_)) | None => return Poll::Ready(Ok(0)),
                }
            },
        }
    }

    /// Takes bytes off the front of `data`.
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &mut BytesMut) -> Poll<io::Result<usize>> {
        match self {
            End::Stream { transport, unflushed, .. } => {
                let written = ready!(Pin::new(transport).poll_write(cx, data))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                *unflushed = true;
                data.advance(written);
                Poll::Ready(Ok(written))
            }
            End::Http2 { sending, .. } => {
                ready!(sending.poll_ready(cx)).map_err(io::Error::other)?;
                let length = data.len();
                sending.send_data(data.split().freeze(), false);
                Poll::Ready(Ok(length))
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            End::Stream { transport, unflushed, .. } => {
                if *unflushed {
                    ready!(Pin::new(transport).poll_flush(cx))?;
                    *unflushed = false;
                }
                Poll::Ready(Ok(()))
            }
            End::Http2 { sending, .. } => sending.poll_ready(cx).map_err(io::Error::other),
        }
    }

    /// Tells the peer that nothing more comes.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        match self {
            End::Stream { transport, .. } => Pin::new(transport).poll_shutdown(cx),
            End::Http2 { sending, .. } => {
                sending.finish(None);
                sending.poll_ready(cx).map_err(io::Error::other)
            }
        }
    }
}
