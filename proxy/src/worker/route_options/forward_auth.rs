//! Another server says of each request whether it may pass: a request of its own goes there, with the
//! fields of the client and without its body. 2xx lets the request pass; any other answer is the
//! client's. A server that does not answer lets nobody in.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Method;
use tokio::time::timeout;

use super::Refusal;
use super::fields::FieldChanges;
use crate::protocol::options;
use crate::protocol::options::fields::{Change, FieldChange};
use crate::worker::fields::Client;
use crate::worker::local::Local;
use crate::worker::message::{BodyLength, Part, RequestHead, ResponseHead};
use crate::worker::page::Page;
use crate::worker::upstream::Member;
use crate::worker::upstream::exchange::{Exchange, Request, UpstreamError};

/// For the whole answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest body of an answer that is passed on, in bytes: a page with a form.
const MAX_BODY: usize = 256 * 1024;

/// Fields of the client that are about the resource, which is not what is asked for here.
const NOT_ASKED: [&str; 13] = [
    "Accept-Encoding",
    "Content-Encoding",
    "Content-Length",
    "Content-Type",
    "Expect",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "If-Unmodified-Since",
    "Range",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Extensions",
];

#[derive(Debug)]
pub struct ForwardAuth {
    target: Bytes,
    authority: Bytes,
    copied: Vec<String>,
    not_asked: Option<FieldChanges>,
    /// Of those asked by one snapshot; `None`: nobody knows where it is.
    pub index: Option<usize>,
}

impl ForwardAuth {
    pub fn compile(
        auth: &options::forward_auth::ForwardAuth,
        copied: Vec<String>,
        index: Option<usize>,
    ) -> Self {
        let gone = |name: &str| FieldChange { name: name.to_owned(), change: Change::Remove };
        ForwardAuth {
            target: auth.target.clone().into(),
            authority: auth.authority().into(),
            copied,
            not_asked: FieldChanges::compile(NOT_ASKED.into_iter().map(gone).collect()),
            index,
        }
    }

    /// What is to be changed in the request, when it may pass.
    ///
    /// # Errors
    /// What the client is answered.
    pub async fn ask(
        &self,
        local: &Rc<Local>,
        member: Option<&Member>,
        client: &Client<'_>,
        head: &RequestHead,
    ) -> Result<Option<FieldChanges>, Refusal> {
        let member = member.ok_or(Page::BAD_GATEWAY)?;
        let answer = timeout(LIMIT, self.exchange(local, member, client, head)).await;
        match answer {
            Ok(Ok((head, _))) if head.status.is_success() => {
                Ok(FieldChanges::copied(&self.copied, &head.fields))
            }
            Ok(Ok((head, body))) if !head.status.is_server_error() => {
                Err(Refusal::Answer(Box::new((head, body))))
            }
            Ok(Ok((head, _))) => {
                tracing::warn!(server = %member.upstream.address, status = %head.status, "forward auth");
                Err(Page::BAD_GATEWAY.into())
            }
            Ok(Err(error)) => {
                tracing::warn!(server = %member.upstream.address, %error, "forward auth");
                Err(Page::BAD_GATEWAY.into())
            }
            Err(_) => {
                tracing::warn!(server = %member.upstream.address, "forward auth: no answer in time");
                Err(Page::BAD_GATEWAY.into())
            }
        }
    }

    async fn exchange(
        &self,
        local: &Rc<Local>,
        member: &Member,
        client: &Client<'_>,
        head: &RequestHead,
    ) -> Result<(ResponseHead, Bytes), UpstreamError> {
        let fields = self.not_asked.as_ref().map(|changes| changes.apply(&head.fields));
        let asked = RequestHead {
            method: Method::GET,
            target: self.target.clone(),
            fields: fields.unwrap_or_else(|| head.fields.clone()),
            body: BodyLength::Empty,
            upgrade: None,
            ..head.clone()
        };
        let more: [(&str, &[u8]); 2] = [
            ("X-Forwarded-Method", head.method.as_str().as_bytes()),
            ("X-Forwarded-Uri", &head.target),
        ];
        let request = Request {
            head: &asked,
            client,
            target: &self.target,
            authority: &self.authority,
            more: &more,
            timeouts: &local.settings.timeouts,
            preamble: None,
            drain: None,
        };
        let mut fresh = false;
        loop {
            let mut exchange = Exchange::open(local, member, &request, fresh).await?;
            match answer(&mut exchange).await {
                // It had been idle, and was closed, as it may be.
                Err(UpstreamError::Closed) if exchange.is_reused() => fresh = true,
                Err(error) => return Err(error),
                Ok(answer) => {
                    exchange.release(local);
                    return Ok(answer);
                }
            }
        }
    }
}

/// Head and body, whole.
async fn answer(exchange: &mut Exchange) -> Result<(ResponseHead, Bytes), UpstreamError> {
    exchange.finish(None);
    let head = loop {
        let head = poll_fn(|cx| {
            // What it says counts, not what it does not take.
            let _ = exchange.poll_flush(cx);
            exchange.poll_head(cx)
        })
        .await?;
        if !head.status.is_informational() {
            break head;
        }
    };
    let mut body = BytesMut::new();
    // Of a head without a body, the end comes at once.
    loop {
        match poll_fn(|cx| exchange.poll_body(cx)).await? {
            None | Some(Part::Trailers(_)) => break,
            Some(Part::Data(data)) => body.extend_from_slice(&data),
        }
        if body.len() > MAX_BODY {
            return Err(UpstreamError::Protocol(format!("longer than {MAX_BODY} bytes")));
        }
    }
    let length = BodyLength::Known(body.len() as u64);
    Ok((ResponseHead { body: length, ..head }, body.freeze()))
}
