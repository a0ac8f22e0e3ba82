//! An exchange with an upstream over HTTP/2 (gRPC): one shared connection for each upstream and
//! thread, as long as it lasts.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, HeaderValue, Method, Version};

use super::exchange::{Active, Request, UpstreamError};
use super::{Upstream, connect};
use crate::worker::fields::{FieldSink, put_request};
use crate::worker::http2::body::{Receiving, Sending};
use crate::worker::http2::windows;
use crate::worker::local::Local;
use crate::worker::message::{BodyLength, Fields, Part, RequestHead, ResponseHead};

/// How long a connection may take to say that it has room for another stream.
const STREAM_WAIT: Duration = Duration::from_secs(10);

/// The connection that requests of a thread share.
#[derive(Debug, Default)]
pub struct Shared(RefCell<Option<SendRequest<Bytes>>>);

impl Shared {
    fn get(&self) -> Option<SendRequest<Bytes>> {
        self.0.borrow().clone()
    }

    fn set(&self, sender: SendRequest<Bytes>) {
        *self.0.borrow_mut() = Some(sender);
    }

    /// The next request opens another connection; those in progress keep this one.
    pub fn clear(&self) {
        *self.0.borrow_mut() = None;
    }
}

#[derive(Debug)]
pub struct Http2Exchange {
    #[expect(dead_code, reason = "held for its drop")]
    active: Active,
    reused: bool,
    method: Method,
    response: ResponseFuture,
    sending: Sending,
    receiving: Option<Receiving>,
    informational_done: bool,
}

impl Http2Exchange {
    pub async fn open(
        local: &Rc<Local>,
        upstream: Rc<Upstream>,
        request: &Request<'_>,
        fresh: bool,
    ) -> Result<Self, UpstreamError> {
        if fresh {
            upstream.http2.clear();
        }
        let shared = match request.preamble {
            Some(_) => None,
            None => ready_sender(&upstream).await,
        };
        let (mut sender, reused) = match shared {
            Some(sender) => (sender, true),
            None => (connect(local, &upstream, request).await?, false),
        };
        let end = request.head.body == BodyLength::Empty;
        let head = http_request(request)?;
        let (response, stream) = sender.send_request(head, end)?;
        Ok(Http2Exchange {
            active: Active::enter(upstream),
            reused,
            method: request.head.method.clone(),
            response,
            sending: Sending::new(stream, end),
            receiving: None,
            informational_done: false,
        })
    }

    pub fn is_reused(&self) -> bool {
        self.reused
    }

    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        self.sending.poll_ready(cx).map_err(UpstreamError::Http2)
    }

    pub fn send_data(&mut self, data: Bytes) {
        self.sending.send_data(data, false);
    }

    pub fn finish(&mut self, trailers: Option<HeaderMap>) {
        self.sending.finish(trailers);
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        self.sending.poll_ready(cx).map_err(UpstreamError::Http2)
    }

    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, UpstreamError>> {
        if !self.informational_done {
            match self.response.poll_informational(cx) {
                Poll::Ready(Some(Ok(response))) => {
                    return Poll::Ready(Ok(head(response.into_parts().0, BodyLength::Empty)));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(refused(error))),
                Poll::Ready(None) => self.informational_done = true,
                Poll::Pending => {}
            }
        }
        let response = ready!(Pin::new(&mut self.response).poll(cx)).map_err(refused)?;
        let (parts, stream) = response.into_parts();
        let empty =
            stream.is_end_stream() || ResponseHead::never_has_body(parts.status, &self.method);
        let body = if empty { BodyLength::Empty } else { content_length(&parts.headers) };
        self.receiving = Some(Receiving::new(stream));
        Poll::Ready(Ok(head(parts, body)))
    }

    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Part>, UpstreamError>> {
        match &mut self.receiving {
            Some(receiving) => receiving.poll_part(cx).map_err(UpstreamError::Http2),
            None => Poll::Ready(Ok(None)),
        }
    }

    pub fn is_body_done(&self) -> bool {
        self.receiving.as_ref().is_none_or(Receiving::is_done)
    }
}

/// A stream that the upstream refused, or that it had not begun when it said GOAWAY, was not
/// processed (RFC 9113 section 8.7): it may be sent again, whatever its method.
fn refused(error: h2::Error) -> UpstreamError {
    if error.reason() == Some(h2::Reason::REFUSED_STREAM)
        || (error.is_go_away() && error.is_remote())
    {
        UpstreamError::Unprocessed
    } else if error.is_io() {
        UpstreamError::Closed
    } else {
        UpstreamError::Http2(error)
    }
}

async fn ready_sender(upstream: &Upstream) -> Option<SendRequest<Bytes>> {
    let mut sender = upstream.http2.get()?;
    let ready = tokio::time::timeout(STREAM_WAIT, poll_fn(|cx| sender.poll_ready(cx))).await;
    match ready {
        Ok(Ok(())) => Some(sender),
        // Gone, or so full that another connection is better.
        Ok(Err(_)) | Err(_) => {
            upstream.http2.clear();
            None
        }
    }
}

async fn connect(
    local: &Rc<Local>,
    upstream: &Rc<Upstream>,
    request: &Request<'_>,
) -> Result<SendRequest<Bytes>, UpstreamError> {
    let transport = connect::connect(local, upstream, request).await?;
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(windows::STREAM)
        .initial_connection_window_size(windows::CONNECTION)
        .max_send_buffer_size(windows::SEND_BUFFER)
        .enable_push(false);
    let handshake = builder.handshake::<_, Bytes>(transport);
    let (sender, connection) =
        tokio::time::timeout(request.timeouts.connect, handshake)
            .await
            .map_err(|_| UpstreamError::Connect(std::io::ErrorKind::TimedOut.into()))??;
    // One task for a connection, not for a request; it ends when the last sender is gone or the
    // upstream closes.
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "upstream connection");
        }
    });
    let mut ready = sender.clone();
    poll_fn(|cx| ready.poll_ready(cx)).await?;
    // Of one that is for this request alone, the last sender goes with it.
    if request.preamble.is_none() {
        upstream.http2.set(sender);
    }
    Ok(ready)
}

fn http_request(request: &Request<'_>) -> Result<http::Request<()>, UpstreamError> {
    let uri = http::Uri::builder()
        .scheme("http")
        .authority(request.authority)
        .path_and_query(request.target)
        .build()?;
    let mut fields = HeaderMap::with_capacity(24);
    put_request(request.head, request.client, &mut fields);
    for (name, value) in request.more {
        fields.put_field(name.as_bytes(), value);
    }
    put_te(request.head, &mut fields);
    if let BodyLength::Known(length) = request.head.body {
        fields.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let mut message = http::Request::new(());
    *message.method_mut() = request.head.method.clone();
    *message.uri_mut() = uri;
    *message.version_mut() = Version::HTTP_2;
    *message.headers_mut() = fields;
    Ok(message)
}

/// gRPC servers refuse a request without `te: trailers`; it is the one value that HTTP/2 allows
/// (RFC 9113 section 8.2.2).
fn put_te(head: &RequestHead, fields: &mut HeaderMap) {
    if head.fields.has_token("te", "trailers") {
        fields.insert(http::header::TE, HeaderValue::from_static("trailers"));
    }
}

fn content_length(fields: &HeaderMap) -> BodyLength {
    let length = fields.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    length.and_then(|text| text.parse().ok()).map_or(BodyLength::Unknown, BodyLength::Known)
}

fn head(parts: http::response::Parts, body: BodyLength) -> ResponseHead {
    ResponseHead { status: parts.status, fields: Fields::Map(parts.headers), body, hsts: None }
}
