//! An HTTP/1.1 connection with the public.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, Version};
use tokio::time::timeout;

use super::body::{Chunk, Decoder, put_chunk_size, put_last_chunk};
use super::head::{HeadError, HeadLimits, ParsedRequest, take_request};
use super::io::Io;
use crate::worker::drain::{DrainWatch, Phase};
use crate::worker::fields::{FieldSink, put_response};
use crate::worker::linger;
use crate::worker::local::{Local, Peer};
use crate::worker::message::{BodyLength, Part, RequestHead, ResponseHead};
use crate::worker::page::Page;
use crate::worker::record;
use crate::worker::relay::{ClientError, Downstream};
use crate::worker::request::{self, Outcome, Switch};
use crate::worker::transport::Transport;
use crate::worker::tunnel::{End, Tunnel};

/// A connection and all that it is doing.
pub struct Connection {
    local: Rc<Local>,
    peer: Peer,
    io: Io,
}

/// What follows a request on its connection.
enum Next {
    Request,
    Close,
    /// Without a goodbye: the response was cut short.
    Abort,
    Tunnel(Box<Switch>),
}

impl Connection {
    /// `input` is what was read of the connection before.
    pub fn new(local: Rc<Local>, peer: Peer, transport: Transport, input: BytesMut) -> Self {
        Connection { local, peer, io: Io::new(transport, input) }
    }

    /// Serves requests until either side ends the connection.
    pub async fn serve(mut self) {
        let local = self.local.clone();
        let open = local.stats.connections_http1.enter();
        let drain = local.drain.watch();
        loop {
            let Some(request) = self.next_request(&drain).await else { return };
            let next = tokio::select! {
                biased;
                next = self.serve_request(request) => next,
                () = drain.reached(Phase::CloseRequests) => return,
            };
            match next {
                Next::Request => {}
                Next::Close => return self.close().await,
                Next::Abort => return,
                Next::Tunnel(switch) => {
                    drop(open);
                    return self.tunnel(*switch, &drain).await;
                }
            }
        }
    }

    async fn tunnel(self, switch: Switch, drain: &DrainWatch) {
        let _tunnels = self.local.stats.tunnels.enter();
        let client = End::stream(self.io.transport, self.io.input);
        let tunnel = Tunnel::new(client, switch.upstream, switch.inside);
        Box::pin(tunnel.run(switch.idle, drain, switch.leaving)).await;
    }

    /// Waits for the next request head. `None` when the connection is over.
    async fn next_request(&mut self, drain: &DrainWatch) -> Option<ParsedRequest> {
        let settings = self.local.settings.clone();
        if self.io.input.is_empty() && !self.wait_idle(settings.timeouts.keep_alive, drain).await {
            return None;
        }
        let limits = HeadLimits {
            bytes: settings.limits.header_bytes,
            fields: settings.limits.header_count,
        };
        let head = poll_fn(|cx| self.poll_head(cx, limits));
        match timeout(settings.timeouts.header_read, head).await {
            Ok(Ok(request)) => request,
            Ok(Err(error)) => {
                self.refuse(&page_for(error)).await;
                None
            }
            Err(_) => {
                self.refuse(&Page::REQUEST_TIMEOUT).await;
                None
            }
        }
    }

    /// Waits for the first byte of a request. `false` when the connection shall close.
    async fn wait_idle(&mut self, limit: Duration, drain: &DrainWatch) -> bool {
        let waiting = poll_fn(|cx| {
            if let Poll::Ready(read) = self.io.poll_fill(cx, false) {
                return Poll::Ready(matches!(read, Ok(1..)));
            }
            self.io.shrink();
            // A drain alone does not close it: a request may be on the wire.
            drain.poll(cx, Phase::CloseIdle).map(|()| false)
        });
        timeout(limit, waiting).await.unwrap_or(false)
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        limits: HeadLimits,
    ) -> Poll<Result<Option<ParsedRequest>, HeadError>> {
        loop {
            if let Some(request) = take_request(&mut self.io.input, limits)? {
                return Poll::Ready(Ok(Some(request)));
            }
            if !matches!(ready!(self.io.poll_fill(cx, false)), Ok(1..)) {
                return Poll::Ready(Ok(None));
            }
        }
    }

    async fn serve_request(&mut self, request: ParsedRequest) -> Next {
        let ParsedRequest { head, keep_alive, chunked } = request;
        let mut client = Http1Client::new(&mut self.io, &head, &self.local, keep_alive, chunked);
        match request::serve(&self.local, &self.peer, &head, &mut client).await {
            Outcome::Broken => Next::Abort,
            Outcome::Done if client.stays_open() => Next::Request,
            Outcome::Done => Next::Close,
            Outcome::Switched(switch) => {
                let limit = self.local.settings.timeouts.send_idle;
                match timeout(limit, client.send_switch(&switch.head)).await {
                    Ok(Ok(())) => Next::Tunnel(switch),
                    Ok(Err(_)) | Err(_) => Next::Abort,
                }
            }
        }
    }

    /// Answers what is not a request.
    async fn refuse(&mut self, page: &Page) {
        let routing = self.local.routing();
        let (head, body) = page.render(None, routing.table.error_pages.named(None));
        put_head(self.io.whole_head_buffer(head.body).bytes(), &head, Framing::Length, "close");
        self.io.put(body);
        record::refused(&self.local, &self.peer, head.status);
        self.close().await;
    }

    /// Closes so that the last response arrives.
    async fn close(&mut self) {
        let limit = self.local.settings.timeouts.send_idle;
        let flushed = timeout(limit, poll_fn(|cx| self.io.poll_flush(cx))).await;
        if matches!(flushed, Ok(Ok(()))) {
            linger::close(&mut self.io.transport).await;
        }
    }
}

fn page_for(error: HeadError) -> Page {
    match error {
        HeadError::TooLarge | HeadError::TooManyFields => Page::HEADERS_TOO_LARGE,
        HeadError::Malformed(_) => Page::BAD_REQUEST,
        HeadError::Version => Page::VERSION,
        HeadError::TransferCoding => Page::NOT_IMPLEMENTED,
    }
}

/// One request of the connection, as the relay sees it.
struct Http1Client<'a> {
    io: &'a mut Io,
    local: &'a Local,
    method: Method,
    version: Version,
    /// Of the request.
    body: Decoder,
    /// Of the response.
    framing: Framing,
    keep_alive: bool,
}

/// How the end of a response body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// There is none, and none could be.
    None,
    /// There is none; the length that it would have may be declared (RFC 9110 section 8.6).
    Declared,
    Length,
    Chunked,
    /// By the end of the connection.
    Close,
}

impl<'a> Http1Client<'a> {
    fn new(
        io: &'a mut Io,
        head: &RequestHead,
        local: &'a Local,
        keep_alive: bool,
        chunked: bool,
    ) -> Self {
        let body = match head.body {
            BodyLength::Known(length) => Decoder::Length(length),
            BodyLength::Unknown if chunked => Decoder::Chunked(Chunk::Size),
            BodyLength::Unknown | BodyLength::Empty => Decoder::Done,
        };
        Http1Client {
            io,
            local,
            method: head.method.clone(),
            version: head.version,
            body,
            framing: Framing::None,
            keep_alive,
        }
    }

    /// The client knows that it may send another request.
    fn stays_open(&self) -> bool {
        self.keep_alive && self.body.is_done() && self.framing != Framing::Close
    }

    async fn send_switch(&mut self, head: &ResponseHead) -> std::io::Result<()> {
        let mut out = self.io.head_buffer();
        let bytes = out.bytes();
        put_status(bytes, head.status);
        put_response(head, bytes);
        bytes.put_field(b"Connection", b"upgrade");
        for token in head.fields.all("upgrade") {
            bytes.put_field(b"Upgrade", token);
        }
        bytes.put_slice(b"\r\n");
        drop(out);
        poll_fn(|cx| self.io.poll_flush(cx)).await
    }
}

impl Downstream for Http1Client<'_> {
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Part>, ClientError>> {
        loop {
            let part = self.body.decode(&mut self.io.input)?;
            if part.is_some() || self.body.is_done() {
                return Poll::Ready(Ok(part));
            }
            match ready!(self.io.poll_fill(cx, true)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Err(ClientError::Gone)),
            }
        }
    }

    fn send_informational(&mut self, head: &ResponseHead) -> Result<(), ClientError> {
        // RFC 9110 section 15.2: HTTP/1.0 knows no 1xx.
        if self.version != Version::HTTP_10 {
            let mut out = self.io.head_buffer();
            put_status(out.bytes(), head.status);
            put_response(head, out.bytes());
            out.bytes().put_slice(b"\r\n");
        }
        Ok(())
    }

    fn send_head(&mut self, head: &ResponseHead, _: bool) -> Result<(), ClientError> {
        self.framing = framing(head, &self.method, self.version);
        self.keep_alive &= !self.local.drain.is_draining()
            && self.framing != Framing::Close
            // The rest of a body that nobody reads cannot be told from the next request.
            && self.body.is_done();
        let connection = match (self.keep_alive, self.version) {
            (false, _) => "close",
            (true, Version::HTTP_10) => "keep-alive",
            (true, _) => "",
        };
        put_head(self.io.whole_head_buffer(head.body).bytes(), head, self.framing, connection);
        Ok(())
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        self.io.poll_room(cx).map_err(|_| ClientError::Gone)
    }

    fn send_data(&mut self, data: Bytes, last: bool) {
        if matches!(self.framing, Framing::None | Framing::Declared) {
            // Bytes behind such a head would be read as the next response.
            return;
        }
        if self.framing == Framing::Chunked {
            if !data.is_empty() {
                put_chunk_size(self.io.head_buffer().bytes(), data.len());
                self.io.put(data);
                self.io.head_buffer().bytes().put_slice(b"\r\n");
            }
            if last {
                put_last_chunk(self.io.head_buffer().bytes(), None);
            }
        } else {
            self.io.put(data);
        }
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) {
        if self.framing == Framing::Chunked {
            put_last_chunk(self.io.head_buffer().bytes(), trailers.as_ref());
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        self.io.poll_flush(cx).map_err(|_| ClientError::Gone)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The next request may come early; it waits in the buffer. An end of the stream is not the
        // end of the client: it may have closed its sending side alone.
        if self.io.ended || !self.io.input.is_empty() {
            return Poll::Pending;
        }
        match self.io.poll_fill(cx, false) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

fn framing(head: &ResponseHead, method: &Method, version: Version) -> Framing {
    if *method == Method::HEAD || head.status == StatusCode::NOT_MODIFIED {
        return Framing::Declared;
    }
    match head.body {
        _ if ResponseHead::never_has_body(head.status, method) => Framing::None,
        BodyLength::Empty | BodyLength::Known(_) => Framing::Length,
        BodyLength::Unknown if version == Version::HTTP_10 => Framing::Close,
        BodyLength::Unknown => Framing::Chunked,
    }
}

fn put_head(out: &mut BytesMut, head: &ResponseHead, framing: Framing, connection: &str) {
    put_status(out, head.status);
    put_response(head, out);
    match (framing, head.body) {
        (Framing::Length | Framing::Declared, BodyLength::Known(length)) => {
            out.put_field(b"Content-Length", itoa::Buffer::new().format(length).as_bytes());
        }
        (Framing::Length, _) => out.put_field(b"Content-Length", b"0"),
        (Framing::Declared, _) => {
            if let Some(length) = head.fields.get("content-length") {
                out.put_field(b"Content-Length", length);
            }
        }
        (Framing::Chunked, _) => out.put_field(b"Transfer-Encoding", b"chunked"),
        (Framing::None | Framing::Close, _) => {}
    }
    if !connection.is_empty() {
        out.put_field(b"Connection", connection.as_bytes());
    }
    out.put_slice(b"\r\n");
}

fn put_status(out: &mut BytesMut, status: StatusCode) {
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
}
