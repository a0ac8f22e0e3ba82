//! The client's side of a request to a route with options: what passes it is as the route says, and
//! those without options never come here.

use std::borrow::Cow;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::RouteOptions;
use super::encoder::Encoder;
use super::encoding::{Encoding, encoded, is_compressible};
use super::fields::FieldChanges;
use crate::worker::local::Local;
use crate::worker::message::{Part, RequestHead, ResponseHead};
use crate::worker::relay::{ClientError, Downstream};

pub struct OptionClient<'a, D> {
    client: &'a mut D,
    options: &'a RouteOptions,
    local: &'a Local,
    request: &'a RequestHead,
    /// Of the request body, so far.
    body_bytes: u64,
    /// While the body of the response is compressed.
    encoder: Option<Encoder<'a>>,
    /// For the response.
    cookie: Option<HeaderValue>,
}

impl<'a, D: Downstream> OptionClient<'a, D> {
    pub fn new(
        client: &'a mut D,
        options: &'a RouteOptions,
        local: &'a Local,
        request: &'a RequestHead,
    ) -> Self {
        OptionClient { client, options, local, request, body_bytes: 0, encoder: None, cookie: None }
    }

    /// The head of what is compressed from now on, or could have been.
    fn compress(&mut self, head: &ResponseHead) -> Option<ResponseHead> {
        if !self.options.compress || !is_compressible(head) {
            return None;
        }
        let encoding = Encoding::accepted(&self.request.fields);
        self.encoder = encoding.and_then(|encoding| Encoder::new(encoding, &self.local.encoders));
        Some(encoded(head, encoding.filter(|_| self.encoder.is_some())))
    }

    /// What there is of a body that is compressed and has paused.
    fn flush(&mut self) -> Result<(), ClientError> {
        let Some(encoder) = &mut self.encoder else { return Ok(()) };
        let data = encoder.flush().map_err(|_| ClientError::Gone)?;
        if !data.is_empty() {
            self.client.send_data(data, false);
        }
        Ok(())
    }
}

impl<D: Downstream> Downstream for OptionClient<'_, D> {
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Part>, ClientError>> {
        let part = ready!(self.client.poll_body(cx));
        if let Ok(Some(Part::Data(data))) = &part {
            self.body_bytes += data.len() as u64;
            if self.options.is_too_large(self.body_bytes) {
                return Poll::Ready(Err(ClientError::TooLarge));
            }
        }
        Poll::Ready(part)
    }

    fn send_informational(&mut self, head: &ResponseHead) -> Result<(), ClientError> {
        self.client.send_informational(head)
    }

    fn send_head(&mut self, head: &ResponseHead, end: bool) -> Result<(), ClientError> {
        if let Some(priority) = self.options.priority {
            self.client.set_priority(priority);
        }
        let mut head = self.options.response_head(head, self.request);
        if let Some(cookie) = self.cookie.take() {
            let fields = FieldChanges::adding(SET_COOKIE, cookie).apply(&head.fields);
            head = Cow::Owned(ResponseHead { fields, ..head.into_owned() });
        }
        // A response to HEAD has none of its body.
        let compressed = if end { None } else { self.compress(&head) };
        self.client.send_head(compressed.as_ref().unwrap_or(&head), end)
    }

    fn others_moved(&self) -> Option<Instant> {
        self.client.others_moved()
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        self.client.poll_ready(cx)
    }

    fn send_data(&mut self, data: Bytes, last: bool) {
        let Some(mut encoder) = self.encoder.take() else {
            return self.client.send_data(data, last);
        };
        // Writing to memory cannot fail. What comes out is one part: the client takes no second one
        // before it was asked.
        if last {
            return self.client.send_data(encoder.finish(&data).unwrap_or_default(), true);
        }
        let made = encoder.take(&data).unwrap_or_default();
        if !made.is_empty() {
            self.client.send_data(made, false);
        }
        self.encoder = Some(encoder);
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) {
        if let Some(encoder) = self.encoder.take() {
            self.client.send_data(encoder.finish(&[]).unwrap_or_default(), false);
        }
        self.client.finish(trailers);
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        self.flush()?;
        self.client.poll_flush(cx)
    }

    fn keep_cookie(&mut self, cookie: Option<HeaderValue>) {
        self.cookie = cookie;
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.client.poll_gone(cx)
    }
}
