//! One request to one upstream and its response, whatever protocol the upstream speaks.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use super::http1::Http1Exchange;
use super::http2::Http2Exchange;
use super::{Member, Upstream};
use crate::protocol::settings::Timeouts;
use crate::protocol::snapshot::UpstreamProtocol;
use crate::worker::descriptors;
use crate::worker::fields::Client;
use crate::worker::local::Local;
use crate::worker::message::{Part, RequestHead, ResponseHead};
use crate::worker::table::normal_host;
use crate::worker::tunnel::End;

/// Why an upstream did not answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("connect: {0}")]
    Connect(io::Error),
    /// Before there was a connection to it.
    #[error("it left the rotation")]
    Left,
    /// Before the first byte of a response.
    #[error("connection closed before a response")]
    Closed,
    /// The upstream says that it did not begin with the request.
    #[error("request refused before it was processed")]
    Unprocessed,
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    #[error("response: {0}")]
    Protocol(String),
    /// What the client asks for has no form in the protocol that the upstream speaks.
    #[error("request cannot be sent over HTTP/2: {0}")]
    Unsendable(#[from] http::Error),
    /// The client asked for a WebSocket where there is none.
    #[error("a WebSocket was answered without 101")]
    NoTunnel,
    #[error("http/2: {0}")]
    Http2(#[from] h2::Error),
    #[error("no answer in time")]
    TimedOut,
}

#[derive(Debug)]
pub enum Exchange {
    Http1(Box<Http1Exchange>),
    Http2(Box<Http2Exchange>),
}

impl UpstreamError {
    /// Whether it counts against the upstream. Neither what a client asks for nor what this process
    /// lacks may take an upstream out of rotation, and it from everybody.
    pub fn is_the_upstreams(&self) -> bool {
        !matches!(self, UpstreamError::Unsendable(_) | UpstreamError::NoTunnel) && !self.is_lack()
    }

    /// This process has no descriptor left for a connection.
    pub fn is_lack(&self) -> bool {
        matches!(self, UpstreamError::Connect(error) if descriptors::are_used_up(error))
    }
}

impl Exchange {
    /// Finds or opens a connection and queues the request's head on it. `fresh` passes over
    /// connections that were used before.
    ///
    /// # Errors
    /// When no connection is to be had. Nothing of the request was sent then.
    pub async fn open(
        local: &Rc<Local>,
        member: &Member,
        request: &Request<'_>,
        fresh: bool,
    ) -> Result<Self, UpstreamError> {
        let upstream = member.upstream.clone();
        match upstream.protocol {
            UpstreamProtocol::Http | UpstreamProtocol::Https => {
                Http1Exchange::open(local, upstream, request, fresh)
                    .await
                    .map(|exchange| Exchange::Http1(Box::new(exchange)))
            }
            UpstreamProtocol::Grpc | UpstreamProtocol::Grpcs => {
                Http2Exchange::open(local, upstream, request, fresh)
                    .await
                    .map(|exchange| Exchange::Http2(Box::new(exchange)))
            }
        }
    }

    /// The connection was used before: its end may say nothing about the upstream.
    pub fn is_reused(&self) -> bool {
        match self {
            Exchange::Http1(exchange) => exchange.is_reused(),
            Exchange::Http2(exchange) => exchange.is_reused(),
        }
    }

    /// Ready when another part of the request body can be taken.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        match self {
            Exchange::Http1(exchange) => exchange.poll_ready(cx),
            Exchange::Http2(exchange) => exchange.poll_ready(cx),
        }
    }

    pub fn send_data(&mut self, data: Bytes) {
        match self {
            Exchange::Http1(exchange) => exchange.send_data(data),
            Exchange::Http2(exchange) => exchange.send_data(data),
        }
    }

    /// The request body has ended.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) {
        match self {
            Exchange::Http1(exchange) => exchange.finish(trailers.as_ref()),
            Exchange::Http2(exchange) => exchange.finish(trailers),
        }
    }

    /// Ready when all that was taken has left.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        match self {
            Exchange::Http1(exchange) => exchange.poll_flush(cx),
            Exchange::Http2(exchange) => exchange.poll_flush(cx),
        }
    }

    /// The next response head; informational ones come first.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, UpstreamError>> {
        match self {
            Exchange::Http1(exchange) => exchange.poll_head(cx),
            Exchange::Http2(exchange) => exchange.poll_head(cx),
        }
    }

    /// The next part of the response body, after the head; `None` at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Part>, UpstreamError>> {
        match self {
            Exchange::Http1(exchange) => exchange.poll_body(cx),
            Exchange::Http2(exchange) => exchange.poll_body(cx),
        }
    }

    /// The part that came last was the last one.
    pub fn is_body_done(&self) -> bool {
        match self {
            Exchange::Http1(exchange) => exchange.is_body_done(),
            Exchange::Http2(exchange) => exchange.is_body_done(),
        }
    }

    /// Request and response are complete: the connection may serve another request.
    pub fn release(self, local: &Local) {
        match self {
            Exchange::Http1(exchange) => exchange.release(local),
            // An HTTP/2 connection was never taken away from the others.
            Exchange::Http2(_) => {}
        }
    }

    /// The upstream has switched protocols: its end of the tunnel.
    pub fn into_tunnel(self) -> Option<End> {
        match self {
            Exchange::Http1(exchange) => Some(exchange.into_tunnel()),
            Exchange::Http2(_) => None,
        }
    }
}

/// What is sent upstream: the client's head with what the route changes.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub head: &'a RequestHead,
    pub client: &'a Client<'a>,
    /// Replaces the target of the head.
    pub target: &'a [u8],
    /// Host and port that the upstream is asked for.
    pub authority: &'a [u8],
    /// Fields beside those of the head.
    pub more: &'a [(&'a str, &'a [u8])],
    pub timeouts: &'a Timeouts,
    /// Stands in front of the connection, which then is for this request alone.
    pub preamble: Option<&'a [u8]>,
    /// How long it may last once its upstream has left; `None`: as long as it takes.
    pub drain: Option<Duration>,
}

impl Request<'_> {
    /// The name for an upstream's TLS handshake.
    pub fn server_name(&self) -> String {
        String::from_utf8(normal_host(self.authority)).unwrap_or_default()
    }
}

/// Counts a request of an upstream as in progress until it goes.
#[derive(Debug)]
pub struct Active(Rc<Upstream>);

impl Active {
    pub fn enter(upstream: Rc<Upstream>) -> Self {
        upstream.active.set(upstream.active.get() + 1);
        Active(upstream)
    }

    pub fn upstream(&self) -> &Upstream {
        &self.0
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

/// For pools of connections: an idle one is good until then.
pub fn keep_for(limit: Duration, promised: Option<u64>) -> Duration {
    // A second less than the upstream promised, for what is on the wire by then.
    let promised =
        promised.map(|seconds| Duration::from_secs(seconds).saturating_sub(Duration::from_secs(1)));
    promised.map_or(limit, |promised| promised.min(limit))
}
