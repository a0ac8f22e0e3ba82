//! The relay: a request body going up and a response coming down, both at once, each only as fast
//! as the slower side takes it. One poll function; it holds no body and starts no task.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::http1::body::BodyError;
use super::message::{BodyLength, Part, ResponseHead, Upgrade};
use super::upstream::exchange::{Exchange, UpstreamError};
use crate::protocol::options::priority::Priority;
use crate::protocol::settings::{Limits, Timeouts};

/// The client's side of one request, whatever protocol the client speaks.
pub trait Downstream {
    /// The next part of the request body; `None` at its end.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Part>, ClientError>>;
    /// A 1xx on the way to the response.
    fn send_informational(&mut self, head: &ResponseHead) -> Result<(), ClientError>;
    /// The head of the response; `end` when no body follows.
    fn send_head(&mut self, head: &ResponseHead, end: bool) -> Result<(), ClientError>;
    /// Ready when another part of the response body can be taken.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>>;
    fn send_data(&mut self, data: Bytes, last: bool);
    fn finish(&mut self, trailers: Option<HeaderMap>);
    /// Ready when all that was taken is on its way.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>>;
    /// For the head of the response, where there is one to keep. Only routes with options have any.
    fn keep_cookie(&mut self, _cookie: Option<HeaderValue>) {}
    /// How urgent the route says that the response is. Only routes with options say anything.
    fn set_priority(&mut self, _priority: Priority) {}
    /// When the client last took something else, where what is sent here waits behind that.
    fn others_moved(&self) -> Option<Instant> {
        None
    }
    /// Ready when the client has gone before its answer came.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Why the client's side ended a request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("client closed the connection")]
    Gone,
    #[error("request body: {0}")]
    Body(#[from] BodyError),
    #[error("request body is larger than the limit")]
    TooLarge,
    #[error("request body did not arrive in time")]
    BodyTimedOut,
    #[error("client did not take the response in time")]
    SendTimedOut,
}

/// How a relay ended.
#[derive(Debug)]
pub enum Finished {
    /// The whole response went down.
    Complete,
    /// 101: both sides now speak another protocol.
    Switched(ResponseHead),
}

/// Why a relay failed, and what was lost by then.
#[derive(Debug)]
pub struct Failure {
    pub cause: Cause,
    /// The client has a head, so that no other answer can be given.
    pub response_started: bool,
    /// A part of the request body went up, so that it cannot be sent again.
    pub body_taken: bool,
}

#[derive(Debug)]
pub enum Cause {
    Client(ClientError),
    Upstream(UpstreamError),
}

/// What is remembered of a response, for the log and the counters.
#[derive(Debug, Default)]
pub struct Progress {
    pub status: Option<StatusCode>,
    pub bytes: u64,
    pub head_after: Option<Duration>,
}

/// Limits of one relay.
#[derive(Debug, Clone, Copy)]
pub struct Bounds<'a> {
    pub timeouts: &'a Timeouts,
    pub limits: &'a Limits,
    /// The client asked to switch protocols.
    pub upgrade: Option<&'a Upgrade>,
    /// Strict-Transport-Security of the response.
    pub hsts: Option<&'a Bytes>,
}

pub async fn relay<D: Downstream>(
    client: &mut D,
    upstream: &mut Exchange,
    request_body: BodyLength,
    bounds: Bounds<'_>,
    progress: &mut Progress,
) -> Result<Finished, Failure> {
    let start = Instant::now();
    let mut relay = Relay {
        client,
        upstream,
        bounds,
        progress,
        start,
        up: Up::Body,
        down: Down::Head,
        body_bytes: 0,
        last_move: start,
        waiting: Waiting::Response,
        steps: 0,
        informational: 0,
    };
    if request_body == BodyLength::Empty {
        relay.upstream.finish(None);
        relay.up = Up::Done;
    }
    let mut timer = pin!(sleep_until(start + bounds.timeouts.response_head));
    let ended = poll_fn(|cx| relay.poll(cx, timer.as_mut())).await;
    ended.map_err(|cause| Failure {
        cause,
        response_started: relay.progress.status.is_some(),
        body_taken: relay.body_bytes > 0,
    })
}

struct Relay<'a, D> {
    client: &'a mut D,
    upstream: &'a mut Exchange,
    bounds: Bounds<'a>,
    progress: &'a mut Progress,
    start: Instant,
    up: Up,
    down: Down,
    body_bytes: u64,
    last_move: Instant,
    waiting: Waiting,
    /// Grows with each thing that was done: a poll that did nothing has to wait.
    steps: u64,
    /// 1xx so far.
    informational: usize,
}

/// Most 1xx responses of one exchange: each is kept until the client takes it.
const MAX_INFORMATIONAL: usize = 16;

#[derive(PartialEq, Eq)]
enum Up {
    Body,
    Done,
    /// The upstream takes no more; its answer may still come.
    Refused,
}

#[derive(PartialEq, Eq)]
enum Down {
    Head,
    Body,
    Flush,
}

/// Whom the relay waits for: decides which limit holds.
#[derive(Clone, Copy)]
enum Waiting {
    RequestBody,
    Response,
    ResponseBody,
    Client,
}

impl<D: Downstream> Relay<'_, D> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        timer: Pin<&mut Sleep>,
    ) -> Poll<Result<Finished, Cause>> {
        loop {
            let before = self.steps;
            self.poll_up(cx)?;
            if let Some(finished) = self.poll_down(cx)? {
                return Poll::Ready(Ok(finished));
            }
            if self.steps == before {
                return self.poll_timer(cx, timer);
            }
            self.last_move = Instant::now();
        }
    }

    /// Request body: client to upstream.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<(), Cause> {
        while self.up == Up::Body {
            self.waiting = Waiting::Response;
            match self.upstream.poll_ready(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(_)) => self.up = Up::Refused,
                Poll::Ready(Ok(())) => {
                    self.waiting = Waiting::RequestBody;
                    match self.client.poll_body(cx) {
                        Poll::Pending => break,
                        Poll::Ready(part) => self.take_part(part.map_err(Cause::Client)?)?,
                    }
                }
            }
        }
        if self.up != Up::Refused
            && let Poll::Ready(Err(_)) = self.upstream.poll_flush(cx)
        {
            // An upstream may answer early and close: what it said counts, not what it did not
            // take.
            self.up = Up::Refused;
        }
        Ok(())
    }

    fn take_part(&mut self, part: Option<Part>) -> Result<(), Cause> {
        self.steps += 1;
        match part {
            Some(Part::Data(data)) => {
                self.body_bytes += data.len() as u64;
                let limit = self.bounds.limits.body_bytes;
                if limit > 0 && self.body_bytes > limit {
                    return Err(Cause::Client(ClientError::TooLarge));
                }
                self.upstream.send_data(data);
            }
            Some(Part::Trailers(trailers)) => {
                self.upstream.finish(Some(trailers));
                self.up = Up::Done;
            }
            None => {
                self.upstream.finish(None);
                self.up = Up::Done;
            }
        }
        Ok(())
    }

    /// Response: upstream to client.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<Option<Finished>, Cause> {
        loop {
            match self.down {
                Down::Head => {
                    let Poll::Ready(head) = self.upstream.poll_head(cx) else {
                        if self.up != Up::Body {
                            self.waiting = Waiting::Response;
                            if self.client.poll_gone(cx).is_ready() {
                                return Err(Cause::Client(ClientError::Gone));
                            }
                        }
                        let _ = self.client.poll_flush(cx).map_err(Cause::Client)?;
                        return Ok(None);
                    };
                    self.steps += 1;
                    if let Some(finished) = self.take_head(head.map_err(Cause::Upstream)?)? {
                        return Ok(Some(finished));
                    }
                }
                Down::Body => {
                    self.waiting = Waiting::Client;
                    let Poll::Ready(room) = self.client.poll_ready(cx) else { return Ok(None) };
                    room.map_err(Cause::Client)?;
                    self.waiting = Waiting::ResponseBody;
                    let Poll::Ready(part) = self.upstream.poll_body(cx) else {
                        if self.up != Up::Body && self.client.poll_gone(cx).is_ready() {
                            return Err(Cause::Client(ClientError::Gone));
                        }
                        let _ = self.client.poll_flush(cx).map_err(Cause::Client)?;
                        return Ok(None);
                    };
                    self.steps += 1;
                    self.give_part(part.map_err(Cause::Upstream)?);
                }
                Down::Flush => {
                    self.waiting = Waiting::Client;
                    let Poll::Ready(flushed) = self.client.poll_flush(cx) else { return Ok(None) };
                    flushed.map_err(Cause::Client)?;
                    return Ok(Some(Finished::Complete));
                }
            }
        }
    }

    fn take_head(&mut self, head: ResponseHead) -> Result<Option<Finished>, Cause> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            if self.bounds.upgrade.is_none() {
                let text = "101 to a request that did not ask for it".to_owned();
                return Err(Cause::Upstream(UpstreamError::Protocol(text)));
            }
            self.progress.status = Some(head.status);
            self.progress.head_after = Some(self.start.elapsed());
            return Ok(Some(Finished::Switched(head)));
        }
        if matches!(self.bounds.upgrade, Some(Upgrade::Connect(_))) && head.status.is_success() {
            // To the client a 2xx would say that the tunnel is open (RFC 8441 section 5).
            return Err(Cause::Upstream(UpstreamError::NoTunnel));
        }
        if head.status.is_informational() {
            self.informational += 1;
            if self.informational > MAX_INFORMATIONAL {
                let text = "too many informational responses".to_owned();
                return Err(Cause::Upstream(UpstreamError::Protocol(text)));
            }
            self.client.send_informational(&head).map_err(Cause::Client)?;
            return Ok(None);
        }
        self.progress.status = Some(head.status);
        self.progress.head_after = Some(self.start.elapsed());
        let end = head.body == BodyLength::Empty;
        let head = ResponseHead { hsts: self.bounds.hsts.cloned(), ..head };
        self.client.send_head(&head, end).map_err(Cause::Client)?;
        self.down = if end { Down::Flush } else { Down::Body };
        Ok(None)
    }

    fn give_part(&mut self, part: Option<Part>) {
        match part {
            Some(Part::Data(data)) => {
                self.progress.bytes += data.len() as u64;
                let last = self.upstream.is_body_done();
                self.client.send_data(data, last);
                if last {
                    self.down = Down::Flush;
                }
            }
            Some(Part::Trailers(trailers)) => {
                self.client.finish(Some(trailers));
                self.down = Down::Flush;
            }
            None => {
                self.client.finish(None);
                self.down = Down::Flush;
            }
        }
    }

    fn poll_timer(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
    ) -> Poll<Result<Finished, Cause>> {
        let timeouts = self.bounds.timeouts;
        let limit = match self.waiting {
            Waiting::RequestBody => timeouts.body_idle,
            Waiting::Response => timeouts.response_head,
            Waiting::ResponseBody => timeouts.response_idle,
            Waiting::Client => timeouts.send_idle,
        };
        let deadline = self.last_move + limit;
        // The timer is moved only when it would fire late, or has fired too early: progress costs
        // one look at the clock.
        if deadline < timer.deadline() {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            let deadline = self.put_off(deadline, limit);
            if Instant::now() >= deadline {
                return Poll::Ready(Err(match self.waiting {
                    Waiting::RequestBody => Cause::Client(ClientError::BodyTimedOut),
                    Waiting::Response | Waiting::ResponseBody => {
                        Cause::Upstream(UpstreamError::TimedOut)
                    }
                    Waiting::Client => Cause::Client(ClientError::SendTimedOut),
                }));
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// A client that takes other responses first is not one that takes nothing.
    fn put_off(&self, deadline: Instant, limit: Duration) -> Instant {
        match self.waiting {
            Waiting::Client => {
                self.client.others_moved().map_or(deadline, |at| deadline.max(at + limit))
            }
            _ => deadline,
        }
    }
}

/// Waits until the client has taken what `poll` asks for; an error when it takes nothing for `limit`.
pub async fn taken<D: Downstream>(
    client: &mut D,
    limit: Duration,
    poll: impl Fn(&mut D, &mut Context<'_>) -> Poll<Result<(), ClientError>>,
) -> Result<(), ClientError> {
    let mut deadline = Instant::now() + limit;
    loop {
        if let Ok(taken) = timeout_at(deadline, poll_fn(|cx| poll(client, cx))).await {
            return taken;
        }
        match client.others_moved() {
            Some(at) if at + limit > deadline => deadline = at + limit,
            _ => return Err(ClientError::SendTimedOut),
        }
    }
}
