//! An HTTP/1.1 connection's socket with its two buffers, for either side.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::worker::message::BodyLength;
use crate::worker::transport::{Transport, poll_read_some};

/// First read of a message.
const SMALL_READ: usize = 4 * 1024;
/// Reads within a large body.
const LARGE_READ: usize = 64 * 1024;
/// Data up to this size is copied behind the head: it costs less than to write two buffers. A whole DATA
/// frame of HTTP/2 is above it.
const COPY_LIMIT: usize = 4 * 1024;
/// For a head, beside such data.
const USUAL_HEAD: usize = 1024;
/// More is not taken before some of it has left.
pub const WRITE_LIMIT: usize = 64 * 1024;
/// Buffers handed to one vectored write.
const MAX_SLICES: usize = 16;

#[derive(Debug)]
pub struct Io {
    pub transport: Transport,
    /// Received and not yet consumed.
    pub input: BytesMut,
    /// The peer has sent its last byte.
    pub ended: bool,
    output: Output,
    /// Bytes may still sit in the TLS layer.
    unflushed: bool,
}

/// Bytes to be sent: small ones gathered, large ones by reference.
#[derive(Debug, Default)]
struct Output {
    /// Sent before anything in `queue`.
    front: BytesMut,
    queue: VecDeque<Bytes>,
    queued: usize,
}

impl Io {
    pub fn new(transport: Transport, input: BytesMut) -> Self {
        Io { transport, input, ended: false, output: Output::default(), unflushed: false }
    }

    /// Reads once, behind what is already in `input`. `body` asks for large reads. `Ready(0)` is
    /// the end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, body: bool) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        let room = if body { LARGE_READ } else { SMALL_READ };
        // A good part of it will do, if it is there already.
        let spare = self.input.capacity() - self.input.len();
        let room = if spare < room / 4 { room } else { spare };
        let read = ready!(poll_read_some(&mut self.transport, cx, &mut self.input, room))?;
        self.ended = read == 0;
        Poll::Ready(Ok(read))
    }

    /// Whether nothing comes at this moment, not even the end. What comes is lost.
    pub fn is_silent(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut byte = [0];
        let read = Pin::new(&mut self.transport).poll_read(&mut cx, &mut ReadBuf::new(&mut byte));
        !self.ended && read.is_pending()
    }

    /// Gives the read buffer back while nothing is going on.
    pub fn shrink(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        self.output.front = BytesMut::new();
    }

    /// Where heads and chunk sizes are written.
    pub fn head_buffer(&mut self) -> HeadBuffer<'_> {
        HeadBuffer { output: &mut self.output, scratch: BytesMut::new() }
    }

    /// As [`Io::head_buffer`], with room for a head, and for what of its body is copied behind it.
    pub fn whole_head_buffer(&mut self, body: BodyLength) -> HeadBuffer<'_> {
        let body = match body {
            BodyLength::Known(length) => usize::try_from(length).unwrap_or(COPY_LIMIT),
            BodyLength::Empty | BodyLength::Unknown => 0,
        };
        let mut buffer = self.head_buffer();
        buffer.bytes().reserve(USUAL_HEAD + body.min(COPY_LIMIT));
        buffer
    }

    /// Sends data after everything before it.
    pub fn put(&mut self, data: Bytes) {
        self.output.put(data);
    }

    pub fn pending(&self) -> usize {
        self.output.front.len() + self.output.queued
    }

    /// Ready when more can be taken.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pending() < WRITE_LIMIT {
            return Poll::Ready(Ok(()));
        }
        self.poll_write(cx, WRITE_LIMIT / 2)
    }

    /// Ready when everything has left this process.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write(cx, 0))?;
        if self.unflushed {
            // tokio-rustls may have taken the data and still hold its ciphertext.
            ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes until at most `rest` bytes are left.
    fn poll_write(&mut self, cx: &mut Context<'_>, rest: usize) -> Poll<io::Result<()>> {
        while self.pending() > rest {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = self.output.slices(&mut slices);
            let transport = Pin::new(&mut self.transport);
            let written = ready!(transport.poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.output.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl Output {
    fn put(&mut self, data: Bytes) {
        if self.queue.is_empty() && data.len() <= COPY_LIMIT {
            self.front.extend_from_slice(&data);
        } else if !data.is_empty() {
            self.queued += data.len();
            self.queue.push_back(data);
        }
    }

    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let front = (!self.front.is_empty()).then_some(&self.front[..]);
        let all = front.into_iter().chain(self.queue.iter().map(|data| &data[..]));
        let mut count = 0;
        for (slot, data) in slices.iter_mut().zip(all) {
            *slot = IoSlice::new(data);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut written: usize) {
        let front = written.min(self.front.len());
        if front == self.front.len() {
            self.front.clear();
        } else {
            self.front.advance(front);
        }
        written -= front;
        self.queued -= written;
        while written > 0 {
            let Some(first) = self.queue.front_mut() else { return };
            let part = written.min(first.len());
            first.advance(part);
            written -= part;
            if first.is_empty() {
                self.queue.pop_front();
            }
        }
    }
}

/// A place to format into: straight into the gathered bytes, or, when large data is queued before
/// it, a buffer of its own that is queued behind.
#[derive(Debug)]
pub struct HeadBuffer<'a> {
    output: &'a mut Output,
    scratch: BytesMut,
}

impl HeadBuffer<'_> {
    pub fn bytes(&mut self) -> &mut BytesMut {
        if self.output.queue.is_empty() { &mut self.output.front } else { &mut self.scratch }
    }
}

impl Drop for HeadBuffer<'_> {
    fn drop(&mut self) {
        if !self.scratch.is_empty() {
            self.output.put(self.scratch.split().freeze());
        }
    }
}
