//! An HTTP/2 connection with the public: one task polls the streams, accepts new ones, polls again,
//! and then sends once.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, Stream};
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::body::{Receiving, Sending};
use super::coalesce::{Coalesce, Half, coalesce};
use super::turns::Turns;
use super::urgency;
use super::windows;
use crate::protocol::options::priority::{Priority, Said};
use crate::worker::drain::Phase;
use crate::worker::fields::put_response;
use crate::worker::http1::head::check_authority;
use crate::worker::linger;
use crate::worker::local::{Local, Peer};
use crate::worker::message::{BodyLength, Fields, Part, RequestHead, ResponseHead, Upgrade};
use crate::worker::relay::{ClientError, Downstream};
use crate::worker::request::{self, Outcome};
use crate::worker::transport::Transport;
use crate::worker::tunnel::{End, Tunnel};

/// Streams that a client may reset before they were accepted (CVE-2023-44487), and those that it may
/// make h2 reset (CVE-2025-8671), before the connection is ended. The `budget` bounds other resets.
const MAX_RESETS: usize = 100;

/// Between the two steps of a goodbye: more than a round trip and a client's turn.
const GOAWAY_GRACE: Duration = Duration::from_millis(500);

/// A connection and all that it is doing.
pub struct Connection {
    local: Rc<Local>,
    peer: Rc<Peer>,
    output: Coalesce,
    io: Half,
    /// Streams that became tunnels.
    tunnels: Rc<Cell<usize>>,
}

impl Connection {
    /// `input` is what was read of the connection before.
    pub fn new(local: Rc<Local>, peer: Peer, transport: Transport, input: BytesMut) -> Self {
        let (output, io) = coalesce(transport, input);
        Connection { local, peer: Rc::new(peer), output, io, tunnels: Rc::default() }
    }

    /// Serves streams until either side ends the connection.
    pub async fn serve(self) {
        let Connection { local, peer, output, io, tunnels } = self;
        let Some(connection) = handshake(&local, &output, io).await else { return };
        let _open = local.stats.connections_http2.enter();
        let turns = Turns::new();
        let stream = |request, respond| {
            let shared = Shared {
                local: local.clone(),
                peer: peer.clone(),
                tunnels: tunnels.clone(),
                turns: turns.clone(),
            };
            serve_stream(shared, request, respond)
        };
        let end = Driver {
            output: &output,
            connection,
            streams: FuturesUnordered::new(),
            drain: local.drain.watch(),
            leaving: Leaving::No,
            tunnels: &tunnels,
            turns: &turns,
            idle: Idle::new(local.settings.timeouts.keep_alive),
            send_idle: local.settings.timeouts.send_idle,
            ending: None,
        }
        .run(stream)
        .await;
        // Streams' last frames are on their way, and the client's may be.
        if end == Ended::Orderly
            && let Some(mut transport) = output.into_transport()
        {
            linger::close(&mut transport).await;
        }
    }
}

type Http2 = h2::server::Connection<Half, Bytes>;

async fn handshake(local: &Local, output: &Coalesce, io: Half) -> Option<Http2> {
    let limits = &local.settings.limits;
    let mut builder = Builder::new();
    builder
        .initial_window_size(windows::STREAM)
        .initial_connection_window_size(windows::CONNECTION)
        .max_send_buffer_size(windows::SEND_BUFFER)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.header_bytes.try_into().unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(Some(MAX_RESETS))
        .enable_connect_protocol();
    let mut handshake = std::pin::pin!(builder.handshake(io));
    let both = poll_fn(|cx| {
        let done = handshake.as_mut().poll(cx);
        match output.poll_send(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => done.map(Result::ok),
        }
    });
    tokio::time::timeout(local.settings.timeouts.header_read, both).await.ok().flatten()
}

/// Everything that one turn of the connection's loop touches.
struct Driver<'a, F> {
    output: &'a Coalesce,
    connection: Http2,
    /// Each in a box, which goes when it has ended: its place in the list stays as long as somebody holds a
    /// waker of it, as a connection to an upstream that waits for its next request does.
    streams: FuturesUnordered<Pin<Box<F>>>,
    drain: crate::worker::drain::DrainWatch,
    leaving: Leaving,
    tunnels: &'a Cell<usize>,
    turns: &'a Turns,
    idle: Idle,
    /// How long the last bytes may take.
    send_idle: Duration,
    ending: Option<Pin<Box<Sleep>>>,
}

/// How far the goodbye of a connection has come.
enum Leaving {
    No,
    /// The client knows that it shall open no more streams; those it has opened by then still
    /// arrive.
    Announced(Pin<Box<Sleep>>),
    /// Streams that are not there yet will not be served.
    Final,
    /// There is no stream, and none is waited for.
    Closing,
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// All was sent that there was to say.
    Orderly,
    /// By an error, or by a limit.
    CutOff,
}

impl<F: Future<Output = ()>> Driver<'_, F> {
    /// Not an `async fn`, whose future has room for what it is given twice.
    fn run(
        mut self,
        stream: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F,
    ) -> impl Future<Output = Ended> {
        poll_fn(move |cx| self.poll_turn(cx, &stream))
    }

    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        stream: &impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F,
    ) -> Poll<Ended> {
        self.poll_leave(cx);
        let over = loop {
            self.poll_streams(cx);
            match self.poll_accept(cx, stream) {
                Accept::Some => {}
                // What was sent before is served; h2 has a goodbye to write now.
                Accept::None if self.turns_away() || self.begins_to_close(cx) => {}
                Accept::None => break false,
                Accept::Over => break true,
            }
        };
        if self.turns.begins_to_choose() {
            self.output.send_late();
        }
        match self.output.poll_send(cx) {
            Poll::Ready(Err(_)) => return Poll::Ready(Ended::CutOff),
            Poll::Ready(Ok(())) if over => return Poll::Ready(Ended::Orderly),
            Poll::Ready(Ok(())) if self.turns.begin() => cx.waker().wake_by_ref(),
            // What is still to be sent wakes this task when the socket takes it.
            _ => {}
        }
        if self.is_cut_off(cx) {
            return Poll::Ready(Ended::CutOff);
        }
        let is_last = match self.leaving {
            Leaving::No | Leaving::Announced(_) => false,
            Leaving::Final => self.streams.is_empty(),
            Leaving::Closing => true,
        };
        if over || is_last {
            // A client that answers no ping, or reads nothing, would stay for ever.
            let limit = self.send_idle;
            let ending = self.ending.get_or_insert_with(|| Box::pin(sleep(limit)));
            return ending.as_mut().poll(cx).map(|()| Ended::CutOff);
        }
        if matches!(self.leaving, Leaving::No) && self.idle.poll_over(cx, self.streams.is_empty()) {
            self.announce();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// GOAWAY with the highest stream id; after a grace time another one, a ping, and the final one
    /// with the last stream accepted. h2 closes the connection when the streams are done.
    ///
    /// The ping alone, as h2 has it, is not enough: clients built on h2 answer it ahead of requests
    /// that they have queued, and those would be refused.
    fn poll_leave(&mut self, cx: &mut Context<'_>) {
        if matches!(self.leaving, Leaving::No) && self.drain.poll(cx, Phase::Drain).is_ready() {
            self.announce();
        }
        if let Leaving::Announced(grace) = &mut self.leaving
            && grace.as_mut().poll(cx).is_ready()
        {
            self.leaving = Leaving::Final;
            self.connection.graceful_shutdown();
        }
    }

    /// Begins to end a connection whose client sends more than it has use for.
    fn turns_away(&mut self) -> bool {
        if !self.output.is_flooded() || matches!(self.leaving, Leaving::Closing) {
            return false;
        }
        tracing::debug!("HTTP/2 connection: too many frames that carry nothing");
        self.leaving = Leaving::Closing;
        self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        true
    }

    /// Begins to close a connection without a stream, once the drain closes such. The client has
    /// known for a while that it shall go; it is told how far it came, and what it may still be
    /// sending is read before the socket closes.
    fn begins_to_close(&mut self, cx: &mut Context<'_>) -> bool {
        if matches!(self.leaving, Leaving::Closing)
            || !self.streams.is_empty()
            || self.drain.poll(cx, Phase::CloseIdle).is_pending()
        {
            return false;
        }
        self.leaving = Leaving::Closing;
        self.connection.abrupt_shutdown(Reason::NO_ERROR);
        true
    }

    fn announce(&mut self) {
        self.output.put_goaway();
        self.leaving = Leaving::Announced(Box::pin(sleep(GOAWAY_GRACE)));
    }

    /// The drain limit has come. Tunnels have a limit of their own.
    fn is_cut_off(&self, cx: &mut Context<'_>) -> bool {
        let has_only_requests = !self.streams.is_empty() && self.tunnels.get() == 0;
        let phase = if has_only_requests { Phase::CloseRequests } else { Phase::CloseAll };
        self.drain.poll(cx, phase).is_ready()
    }

    fn poll_streams(&mut self, cx: &mut Context<'_>) {
        loop {
            while let Poll::Ready(Some(())) = Pin::new(&mut self.streams).poll_next(cx) {}
            // The next one that waited for its turn.
            let Some(waker) = self.turns.next() else { return };
            waker.wake();
        }
    }

    /// Takes all streams that have come, and lets h2 write what streams had to say.
    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        stream: &impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F,
    ) -> Accept {
        let mut accepted = Accept::None;
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.streams.push(Box::pin(stream(request, respond)));
                    self.output.earn_stream();
                    accepted = Accept::Some;
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "HTTP/2 connection");
                    return Accept::Over;
                }
                Poll::Ready(None) => return Accept::Over,
                Poll::Pending => return accepted,
            }
        }
    }
}

enum Accept {
    Some,
    None,
    Over,
}

/// Ends a connection that had no stream for a while.
struct Idle {
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    since: Option<Instant>,
}

impl Idle {
    fn new(limit: Duration) -> Self {
        let now = Instant::now();
        Idle { limit, timer: Box::pin(sleep_until(now + limit)), since: Some(now) }
    }

    fn poll_over(&mut self, cx: &mut Context<'_>, is_idle: bool) -> bool {
        if !is_idle {
            self.since = None;
            return false;
        }
        let deadline = *self.since.get_or_insert_with(Instant::now) + self.limit;
        // Moved only when it fires: a busy connection does not touch the timer.
        while self.timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return true;
            }
            self.timer.as_mut().reset(deadline);
        }
        false
    }
}

/// What a connection's streams have in common.
struct Shared {
    local: Rc<Local>,
    peer: Rc<Peer>,
    tunnels: Rc<Cell<usize>>,
    turns: Turns,
}

/// One stream, from its head to its end.
async fn serve_stream(
    shared: Shared,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let Shared { local, peer, tunnels, turns } = shared;
    let (parts, stream) = request.into_parts();
    let asked = urgency::asked(&parts.headers);
    let Some(head) = request_head(parts, &stream) else {
        respond.send_reset(Reason::PROTOCOL_ERROR);
        return;
    };
    let receiving = Receiving::new(stream);
    let mut client =
        Http2Client { respond, sending: None, receiving, turns, asked, priority: None };
    match request::serve(&local, &peer, &head, &mut client).await {
        // A request body that is still coming is not wanted any more: dropped with the stream, h2
        // says NO_ERROR once the response is out (RFC 9113 section 8.1). A short one may end first.
        Outcome::Done => client.receiving.discard().await,
        Outcome::Broken => client.reset(),
        Outcome::Switched(switch) => {
            let Some(end) = client.into_tunnel(&switch.head) else { return };
            let _tunnel = local.stats.tunnels.enter();
            let _held = Held::enter(&tunnels);
            let drain = local.drain.watch();
            let tunnel = Tunnel::new(end, switch.upstream, switch.inside);
            Box::pin(tunnel.run(switch.idle, &drain, switch.leaving)).await;
        }
    }
}

struct Held<'a>(&'a Cell<usize>);

impl<'a> Held<'a> {
    fn enter(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Held(count)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The head of a stream as the router sees it. `None` for what RFC 9113 section 8.3 calls malformed
/// and h2 lets pass.
fn request_head(parts: http::request::Parts, stream: &RecvStream) -> Option<RequestHead> {
    let fields = parts.headers;
    let authority = match (parts.uri.authority(), fields.get(HOST)) {
        (Some(authority), None) => Bytes::copy_from_slice(authority.as_str().as_bytes()),
        // RFC 9113 section 8.3.1: a Host that differs makes the request malformed.
        (Some(authority), Some(host))
            if authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) =>
        {
            Bytes::copy_from_slice(authority.as_str().as_bytes())
        }
        (Some(_), Some(_)) => return None,
        (None, Some(host)) => Bytes::copy_from_slice(host.as_bytes()),
        (None, None) => return None,
    };
    check_authority(&authority).ok()?;
    if fields.get_all(HOST).iter().count() > 1 {
        return None;
    }
    let upgrade = match parts.extensions.get::<h2::ext::Protocol>() {
        None => None,
        // h2 takes any text for a protocol; what is not a known one has no place in a head.
        Some(protocol) if protocol.as_str() == "websocket" => {
            Some(Upgrade::Connect(Bytes::from_static(b"websocket")))
        }
        Some(_) => return None,
    };
    let target = match parts.uri.path_and_query() {
        Some(target) => Bytes::copy_from_slice(target.as_str().as_bytes()),
        None if parts.method == Method::CONNECT => Bytes::new(),
        None => return None,
    };
    let body = match &upgrade {
        // What follows is the tunnel's.
        Some(_) => BodyLength::Empty,
        None if stream.is_end_stream() => BodyLength::Empty,
        None => content_length(&fields)?,
    };
    Some(RequestHead {
        method: parts.method,
        target,
        authority,
        version: http::Version::HTTP_2,
        fields: Fields::Map(fields),
        body,
        upgrade,
    })
}

fn content_length(fields: &HeaderMap) -> Option<BodyLength> {
    let mut all = fields.get_all(CONTENT_LENGTH).iter();
    match (all.next(), all.next()) {
        (None, _) => Some(BodyLength::Unknown),
        (Some(value), None) if value.as_bytes().iter().all(u8::is_ascii_digit) => {
            Some(BodyLength::Known(value.to_str().ok()?.parse().ok()?))
        }
        (Some(_), _) => None,
    }
}

/// One stream, as the relay sees it.
struct Http2Client {
    respond: SendResponse<Bytes>,
    /// Once the head of the response is out.
    sending: Option<Sending>,
    receiving: Receiving,
    turns: Turns,
    /// What the client says of its urgency.
    asked: Option<Said>,
    /// What the route says of it.
    priority: Option<Priority>,
}

impl Http2Client {
    fn reset(&mut self) {
        self.respond.send_reset(Reason::INTERNAL_ERROR);
    }

    /// RFC 8441 section 5: the 101 of the upstream is a 200 here.
    fn into_tunnel(mut self, head: &ResponseHead) -> Option<End> {
        let mut response = http_response(head);
        *response.status_mut() = StatusCode::OK;
        response.headers_mut().remove("sec-websocket-accept");
        let stream = self.respond.send_response(response, false).ok()?;
        let sending = Sending::new(stream, false);
        Some(End::Http2 { sending, receiving: self.receiving })
    }

    fn sending(&mut self) -> Result<&mut Sending, ClientError> {
        self.sending.as_mut().ok_or(ClientError::Gone)
    }
}

fn http_response(head: &ResponseHead) -> Response<()> {
    let mut fields = HeaderMap::with_capacity(16);
    put_response(head, &mut fields);
    let length = match head.body {
        BodyLength::Known(length) => Some(length.into()),
        // Of a response to HEAD, or a 304.
        BodyLength::Empty => head
            .fields
            .get("content-length")
            .and_then(|value| http::HeaderValue::from_bytes(value).ok()),
        BodyLength::Unknown => None,
    };
    if let Some(length) = length {
        fields.insert(CONTENT_LENGTH, length);
    }
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.headers_mut() = fields;
    response
}

impl Downstream for Http2Client {
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Part>, ClientError>> {
        self.receiving.poll_part(cx).map_err(|_| ClientError::Gone)
    }

    fn send_informational(&mut self, head: &ResponseHead) -> Result<(), ClientError> {
        let response = http_response(head);
        self.respond.send_informational(response).map_err(|_| ClientError::Gone)
    }

    fn send_head(&mut self, head: &ResponseHead, end: bool) -> Result<(), ClientError> {
        let response = http_response(head);
        let stream = self.respond.send_response(response, end).map_err(|_| ClientError::Gone)?;
        let mut sending = Sending::new(stream, end);
        if !end {
            let priority =
                self.priority.unwrap_or_else(|| urgency::priority(self.asked, &head.fields));
            let id = self.respond.stream_id().as_u32();
            sending = sending.in_turn(self.turns.of(id, priority));
        }
        self.sending = Some(sending);
        Ok(())
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        self.sending()?.poll_ready(cx).map_err(|_| ClientError::Gone)
    }

    fn send_data(&mut self, data: Bytes, last: bool) {
        if let Some(sending) = &mut self.sending {
            sending.send_data(data, last);
        }
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) {
        if let Some(sending) = &mut self.sending {
            sending.finish(trailers);
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        match &mut self.sending {
            Some(sending) => sending.poll_ready(cx).map_err(|_| ClientError::Gone),
            None => Poll::Ready(Ok(())),
        }
    }

    fn set_priority(&mut self, priority: Priority) {
        self.priority = Some(priority);
    }

    fn others_moved(&self) -> Option<Instant> {
        self.sending.as_ref()?.others_moved()
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sending {
            Some(sending) => sending.poll_reset(cx),
            None => self.respond.poll_reset(cx).map(|_| ()),
        }
    }
}
