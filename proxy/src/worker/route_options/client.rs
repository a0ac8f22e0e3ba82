//! The client's side of a request to a route with options: what passes it is as the route says, and
//! those without options never come here.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;

use super::RouteOptions;
use crate::worker::message::{Part, ResponseHead};
use crate::worker::relay::{ClientError, Downstream};

pub struct OptionClient<'a, D> {
    client: &'a mut D,
    options: &'a RouteOptions,
    /// Of the request body, so far.
    body_bytes: u64,
}

impl<'a, D: Downstream> OptionClient<'a, D> {
    pub fn new(client: &'a mut D, options: &'a RouteOptions) -> Self {
        OptionClient { client, options, body_bytes: 0 }
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
        self.client.send_head(&self.options.response_head(head), end)
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        self.client.poll_ready(cx)
    }

    fn send_data(&mut self, data: Bytes, last: bool) {
        self.client.send_data(data, last);
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) {
        self.client.finish(trailers);
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        self.client.poll_flush(cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.client.poll_gone(cx)
    }
}
