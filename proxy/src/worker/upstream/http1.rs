//! An exchange with an upstream over HTTP/1.1.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use tokio::time::Instant;

use super::Upstream;
use super::connect::connect;
use super::exchange::{Active, Request, UpstreamError, keep_for};
use crate::worker::fields::{FieldSink, put_request, put_upgrade};
use crate::worker::http1::body::{Chunk, Decoder, put_chunk_size, put_last_chunk};
use crate::worker::http1::head::{HeadError, HeadLimits, ParsedResponse, take_response};
use crate::worker::http1::io::Io;
use crate::worker::local::Local;
use crate::worker::message::{BodyLength, Part, ResponseHead, Upgrade};
use crate::worker::tunnel::End;

/// Bounds on a response head. Upstreams are trusted with more than clients are.
const HEAD_LIMITS: HeadLimits = HeadLimits { bytes: 128 * 1024, fields: 256 };

#[derive(Debug)]
pub struct Http1Exchange {
    io: Io,
    active: Active,
    method: Method,
    reused: bool,
    /// The connection is for this request alone.
    own: bool,
    /// A byte of a response has come.
    answered: bool,
    /// The request body goes out chunked.
    chunked: bool,
    request_done: bool,
    keep_alive: bool,
    keep_alive_timeout: Option<u64>,
    body: Decoder,
    /// The client asked by extended CONNECT; the upstream's 101 is its 200.
    connect: bool,
}

impl Http1Exchange {
    pub async fn open(
        local: &Rc<Local>,
        upstream: Rc<Upstream>,
        request: &Request<'_>,
        fresh: bool,
    ) -> Result<Self, UpstreamError> {
        let repeatable = request.head.is_idempotent() && request.head.body == BodyLength::Empty;
        let own = request.preamble.is_some();
        let idle = (!fresh && !own)
            .then(|| upstream.idle.borrow_mut().take(Instant::now(), repeatable))
            .flatten();
        let reused = idle.is_some();
        let mut io = match idle {
            Some(io) => io,
            None => {
                let transport = connect(local, &upstream, request).await?;
                Io::new(transport, BytesMut::new())
            }
        };
        put_head(io.whole_head_buffer(request.head.body).bytes(), request);
        Ok(Http1Exchange {
            io,
            active: Active::enter(upstream),
            method: match request.head.upgrade {
                // RFC 8441 section 5: CONNECT becomes the GET of RFC 6455.
                Some(Upgrade::Connect(_)) => Method::GET,
                _ => request.head.method.clone(),
            },
            reused,
            own,
            answered: false,
            chunked: request.head.body == BodyLength::Unknown,
            request_done: false,
            keep_alive: false,
            keep_alive_timeout: None,
            body: Decoder::Done,
            connect: matches!(request.head.upgrade, Some(Upgrade::Connect(_))),
        })
    }

    pub fn is_reused(&self) -> bool {
        self.reused
    }

    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        self.io.poll_room(cx).map_err(UpstreamError::Io)
    }

    pub fn send_data(&mut self, data: Bytes) {
        if data.is_empty() {
            // An empty chunk would end the body.
            return;
        }
        if self.chunked {
            put_chunk_size(self.io.head_buffer().bytes(), data.len());
            self.io.put(data);
            self.io.head_buffer().bytes().put_slice(b"\r\n");
        } else {
            self.io.put(data);
        }
    }

    pub fn finish(&mut self, trailers: Option<&HeaderMap>) {
        self.request_done = true;
        if self.chunked {
            put_last_chunk(self.io.head_buffer().bytes(), trailers);
        }
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        self.io.poll_flush(cx).map_err(UpstreamError::Io)
    }

    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, UpstreamError>> {
        loop {
            if !self.io.input.is_empty() {
                self.answered = true;
                let parsed = take_response(&mut self.io.input, HEAD_LIMITS, &self.method)
                    .map_err(|error: HeadError| UpstreamError::Protocol(error.to_string()))?;
                if let Some(response) = parsed {
                    return Poll::Ready(Ok(self.accept(response)));
                }
            }
            match ready!(self.io.poll_fill(cx, true)) {
                Ok(0) if self.answered => {
                    let text = "connection ended within the head".to_owned();
                    return Poll::Ready(Err(UpstreamError::Protocol(text)));
                }
                Ok(0) => return Poll::Ready(Err(UpstreamError::Closed)),
                Ok(_) => {}
                Err(_) if !self.answered => return Poll::Ready(Err(UpstreamError::Closed)),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn accept(&mut self, response: ParsedResponse) -> ResponseHead {
        let mut head = response.head;
        if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
            return head;
        }
        self.keep_alive = response.keep_alive;
        self.keep_alive_timeout = response.keep_alive_timeout;
        self.body = match head.body {
            BodyLength::Empty => Decoder::Done,
            BodyLength::Known(length) => Decoder::Length(length),
            BodyLength::Unknown if response.chunked => Decoder::Chunked(Chunk::Size),
            BodyLength::Unknown => Decoder::UntilEnd,
        };
        if self.connect && head.status == StatusCode::SWITCHING_PROTOCOLS {
            head.body = BodyLength::Unknown;
        }
        head
    }

    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Part>, UpstreamError>> {
        loop {
            let part = self
                .body
                .decode(&mut self.io.input)
                .map_err(|error| UpstreamError::Protocol(error.to_string()))?;
            if part.is_some() || self.body.is_done() {
                return Poll::Ready(Ok(part));
            }
            if ready!(self.io.poll_fill(cx, true))? == 0 {
                let ended = self.body.end();
                return Poll::Ready(match ended {
                    Ok(()) => Ok(None),
                    Err(error) => Err(UpstreamError::Protocol(error.to_string())),
                });
            }
        }
    }

    pub fn is_body_done(&self) -> bool {
        self.body.is_done()
    }

    pub fn release(mut self, local: &Local) {
        let clean = self.keep_alive
            && !self.own
            && self.request_done
            && self.body.is_done()
            && self.io.pending() == 0
            // Bytes after a response answer nothing: the next request must not get them.
            && self.io.input.is_empty()
            && !self.io.ended;
        if clean {
            self.io.shrink();
            let limit = local.settings.limits.upstream_idle;
            let time =
                keep_for(local.settings.timeouts.upstream_keep_alive, self.keep_alive_timeout);
            let mut idle = self.active.upstream().idle.borrow_mut();
            idle.put(self.io, Instant::now(), time, limit);
        }
    }

    pub fn into_tunnel(self) -> End {
        End::stream(self.io.transport, self.io.input)
    }
}

fn put_head(out: &mut BytesMut, request: &Request<'_>) {
    let head = request.head;
    let connect = matches!(head.upgrade, Some(Upgrade::Connect(_)));
    let method = if connect { "GET" } else { head.method.as_str() };
    out.put_slice(method.as_bytes());
    out.put_u8(b' ');
    out.put_slice(request.target);
    out.put_slice(b" HTTP/1.1\r\n");
    out.put_field(b"Host", request.authority);
    put_request(head, request.client, out);
    for (name, value) in request.more {
        out.put_field(name.as_bytes(), value);
    }
    match head.body {
        _ if connect => put_websocket_key(out),
        BodyLength::Empty if may_be_taken_to_have_a_body(&head.method) => {
            out.put_field(b"Content-Length", b"0");
        }
        BodyLength::Empty => {}
        BodyLength::Known(length) => {
            out.put_field(b"Content-Length", itoa::Buffer::new().format(length).as_bytes());
        }
        BodyLength::Unknown => out.put_field(b"Transfer-Encoding", b"chunked"),
    }
    if let Some(upgrade) = &head.upgrade {
        put_upgrade(upgrade, out);
    }
    out.put_slice(b"\r\n");
}

/// RFC 9110 section 8.6: a request whose method anticipates a body says that it has none.
fn may_be_taken_to_have_a_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// RFC 8441 section 5: HTTP/2 has no Sec-WebSocket-Key; RFC 6455 wants one of each request.
fn put_websocket_key(out: &mut BytesMut) {
    let mut nonce = [0; 16];
    // Only uniqueness is asked for: the key is no secret and proves nothing here.
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    if random.fill(&mut nonce).is_ok() {
        out.put_field(b"Sec-WebSocket-Key", BASE64_STANDARD.encode(nonce).as_bytes());
    }
}
