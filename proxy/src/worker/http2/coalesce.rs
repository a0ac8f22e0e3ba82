//! What stands between h2 and the transport: writes gather here, and leave when the connection's
//! task says so, once for each turn of its loop.
//!
//! h2 flushes once for each DATA frame; passed on, each flush is a TLS record and a system call of
//! its own. So `poll_flush` does nothing here, and the task calls [`Coalesce::poll_send`].

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::budget::Budget;
use crate::worker::transport::Transport;

/// Gathered bytes at which writes go out although the turn is not over.
const LIMIT: usize = 64 * 1024;
/// Bytes that the kernel holds unsent where there is something to choose. From half of it on it asks
/// for more, which is one round of `turns`. Not for all connections: where a client is as fast as its
/// worker, 1 MiB costs a third more time of the CPU so.
const UNSENT: u32 = 128 * 1024;
/// Most buffers that a thread keeps for connections that have something to send.
const POOLED: usize = 64;

/// The connection's side; shared with the [`Half`] that h2 owns.
#[derive(Debug, Clone)]
pub struct Coalesce(Rc<RefCell<State>>);

/// h2's side.
#[derive(Debug)]
pub struct Half(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    transport: Transport,
    /// Read before it was known that this is HTTP/2.
    prefix: BytesMut,
    gathered: Option<Buffer>,
    /// Bytes may still sit in the TLS layer.
    unflushed: bool,
    /// For what the client sends.
    budget: Budget,
    /// It is used up: nothing more is read.
    flooded: bool,
}

#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    sent: usize,
}

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

pub fn coalesce(transport: Transport, prefix: BytesMut) -> (Coalesce, Half) {
    let budget = Budget::new(Instant::now());
    let state =
        State { transport, prefix, gathered: None, unflushed: false, budget, flooded: false };
    let state = Rc::new(RefCell::new(state));
    (Coalesce(state.clone()), Half(state))
}

/// GOAWAY (RFC 9113 section 6.8) with the highest stream id and NO_ERROR.
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];

impl Coalesce {
    /// Tells the peer to open no more streams here. To be called between two turns, when what h2
    /// has written ends with a frame: every write takes all that h2 offers, and h2 offers frames.
    pub fn put_goaway(&self) {
        self.0.borrow_mut().gathered().extend_from_slice(&GOAWAY);
    }

    /// A stream was accepted, which pays for frames that carry nothing.
    pub fn earn_stream(&self) {
        self.0.borrow_mut().budget.earn_stream();
    }

    /// The client has sent more frames that carry nothing than it may.
    pub fn is_flooded(&self) -> bool {
        self.0.borrow().flooded
    }

    /// What leaves next is to be chosen late.
    pub fn send_late(&self) {
        self.0.borrow().transport.send_late(UNSENT);
    }

    /// Back again, once h2 has given up its half.
    pub fn into_transport(self) -> Option<Transport> {
        Rc::into_inner(self.0).map(|state| state.into_inner().transport)
    }

    /// Sends what was gathered. Ready when all of it has left this process.
    pub fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_send(cx)
    }
}

impl State {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.transport).poll_read(cx, buf);
        }
        let length = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..length]);
        self.prefix.advance(length);
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(buffer) = &mut self.gathered else {
            return Poll::Ready(Ok(()));
        };
        while buffer.sent < buffer.bytes.len() {
            let rest = &buffer.bytes[buffer.sent..];
            let written = ready!(Pin::new(&mut self.transport).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            buffer.sent += written;
        }
        if let Some(buffer) = self.gathered.take() {
            give_back(buffer.bytes);
        }
        Poll::Ready(Ok(()))
    }

    fn gathered(&mut self) -> &mut Vec<u8> {
        &mut self.gathered.get_or_insert_with(|| Buffer { bytes: take(), sent: 0 }).bytes
    }

    fn is_full(&self) -> bool {
        self.gathered.as_ref().is_some_and(|buffer| buffer.bytes.len() >= LIMIT)
    }
}

fn take() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_default()
}

fn give_back(mut bytes: Vec<u8>) {
    bytes.clear();
    POOL.with_borrow_mut(|pool| {
        // One large burst does not stay for ever.
        if pool.len() < POOLED && bytes.capacity() <= 2 * LIMIT {
            pool.push(bytes);
        }
    });
}

impl AsyncRead for Half {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        if state.flooded {
            // The connection's task looks for it, and says goodbye.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(state.poll_read(cx, buf))?;
        state.flooded = !state.budget.take(&buf.filled()[before..], Instant::now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Half {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.borrow_mut();
        if state.is_full() {
            ready!(state.poll_write_out(cx))?;
        }
        let gathered = state.gathered();
        let before = gathered.len();
        data.iter().for_each(|slice| gathered.extend_from_slice(slice));
        let written = gathered.len() - before;
        state.budget.earn_bytes(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        ready!(state.poll_send(cx))?;
        Pin::new(&mut state.transport).poll_shutdown(cx)
    }
}
