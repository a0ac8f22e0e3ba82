//! Bodies over HTTP/2, for either side: one part at a time, never more than flow control allows.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use tokio::time::{Instant, timeout};

use super::turns::Turn;
use crate::worker::message::Part;

/// The outgoing body of one stream.
#[derive(Debug)]
pub struct Sending {
    stream: SendStream<Bytes>,
    pending: Bytes,
    ending: Ending,
    /// `None`: it does not wait for other streams.
    turn: Option<Turn>,
}

/// What stands after the pending data.
#[derive(Debug)]
enum Ending {
    /// More data, or an end that is not known yet.
    Open,
    Data,
    Trailers(HeaderMap),
    Sent,
}

impl Sending {
    /// `ended`: the head said END_STREAM.
    pub fn new(stream: SendStream<Bytes>, ended: bool) -> Self {
        let ending = if ended { Ending::Sent } else { Ending::Open };
        Sending { stream, pending: Bytes::new(), ending, turn: None }
    }

    /// In turn with the other streams of its connection.
    pub fn in_turn(self, turn: Turn) -> Self {
        Sending { turn: Some(turn), ..self }
    }

    /// Takes a part. Only after [`Sending::poll_ready`] was ready.
    pub fn send_data(&mut self, data: Bytes, last: bool) {
        debug_assert!(self.pending.is_empty(), "the part before it has to leave first");
        self.pending = data;
        if last {
            self.ending = Ending::Data;
        }
    }

    pub fn finish(&mut self, trailers: Option<HeaderMap>) {
        if !matches!(self.ending, Ending::Sent | Ending::Data) {
            self.ending = trailers.map_or(Ending::Data, Ending::Trailers);
        }
    }

    /// Ready when the peer has taken all that there is, as far as flow control is concerned.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while !self.pending.is_empty() {
            if let Some(turn) = &self.turn
                && !turn.is_mine(cx.waker())
            {
                // That the peer has reset the stream is noticed meanwhile.
                return self.stream.poll_reset(cx).map(|reason| Err(reason?.into()));
            }
            self.stream.reserve_capacity(self.pending.len());
            let capacity = match self.stream.capacity() {
                0 => match ready!(self.stream.poll_capacity(cx)) {
                    Some(capacity) => capacity?,
                    None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
                },
                capacity => capacity,
            };
            if capacity == 0 {
                // Taken back by a smaller window before it could be used.
                continue;
            }
            let part = self.pending.split_to(capacity.min(self.pending.len()));
            if let Some(turn) = &self.turn {
                turn.took(part.len());
            }
            let last = self.pending.is_empty() && matches!(self.ending, Ending::Data);
            self.stream.send_data(part, last)?;
            if last {
                self.ending = Ending::Sent;
            }
        }
        match std::mem::replace(&mut self.ending, Ending::Open) {
            Ending::Open => return Poll::Ready(Ok(())),
            Ending::Data => self.stream.send_data(Bytes::new(), true)?,
            Ending::Trailers(trailers) => self.stream.send_trailers(trailers)?,
            Ending::Sent => {}
        }
        self.ending = Ending::Sent;
        Poll::Ready(Ok(()))
    }

    /// When others of its connection were last served, while it waits for its turn.
    pub fn others_moved(&self) -> Option<Instant> {
        self.turn.as_ref()?.others_moved()
    }

    /// Ready when the peer has reset the stream.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(|_| ())
    }
}

/// The incoming body of one stream.
#[derive(Debug)]
pub struct Receiving {
    stream: RecvStream,
    data_done: bool,
    done: bool,
}

/// Of a body that nobody wants any more: so many bytes are still taken, for so long.
const DISCARDED: usize = 256 * 1024;
const DISCARD_LIMIT: Duration = Duration::from_secs(1);

impl Receiving {
    pub fn new(stream: RecvStream) -> Self {
        let done = stream.is_end_stream();
        Receiving { stream, data_done: done, done }
    }

    pub fn is_done(&self) -> bool {
        self.done || self.stream.is_end_stream()
    }

    /// Takes the rest of a body whose request is answered, if it is short. Where it is reset instead,
    /// h2 soon forgets the stream, takes what is still on its way for an attack, and ends the
    /// connection of a client that uploads to who answers early, again and again.
    pub async fn discard(&mut self) {
        if self.is_done() {
            return;
        }
        let rest = async {
            let mut left = DISCARDED;
            while left > 0
                && let Ok(Some(part)) = poll_fn(|cx| self.poll_part(cx)).await
            {
                if let Part::Data(data) = part {
                    left = left.saturating_sub(data.len());
                }
            }
        };
        // Whether it has ended or not: nobody wants it.
        let _ = timeout(DISCARD_LIMIT, rest).await;
    }

    /// The next part; `None` at the end. What is handed out may be sent again by the peer at once:
    /// the side that it goes to has a bound of its own.
    pub fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Part>, h2::Error>> {
        if self.done {
            return Poll::Ready(Ok(None));
        }
        if !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(data) => {
                    let data = data?;
                    self.stream.flow_control().release_capacity(data.len())?;
                    return Poll::Ready(Ok(Some(Part::Data(data))));
                }
                None => self.data_done = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx))?;
        self.done = true;
        Poll::Ready(Ok(trailers.map(Part::Trailers)))
    }
}
