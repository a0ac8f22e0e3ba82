//! One request, from its head to its line in the access log: find the route, choose an upstream,
//! relay, try another one where that is safe.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;

use super::error_pages::ErrorPages;
use super::files;
use super::find::{Found, find_host, find_route};
use super::hold::{Lack, Patience, Waited};
use super::leaving::Leaving;
use super::local::{Local, Peer};
use super::message::{RequestHead, ResponseHead};
use super::page::Page;
use super::record::Record;
use super::relay::{Bounds, Cause, ClientError, Downstream, Failure, Finished, relay, taken};
use super::route_options::{Admission, OptionClient, Refusal, RouteOptions};
use super::tunnel::{End, Inside};
use super::upstream::balance::{Asker, Tried};
use super::upstream::exchange::{Exchange, Request, UpstreamError};
use super::upstream::gate::{Gate, Pass, Queue};
use super::upstream::{Member, Pool, Pools};

/// Most upstreams that one request is tried on.
pub const ATTEMPTS: usize = 3;

/// What the connection does next.
#[derive(Debug)]
pub enum Outcome {
    /// The response is complete.
    Done,
    /// The response was cut short: the client must not take it for whole.
    Broken,
    /// The upstream switched protocols.
    Switched(Box<Switch>),
}

/// What is left to do when both sides agreed on another protocol.
#[derive(Debug)]
pub struct Switch {
    pub upstream: End,
    /// The upstream's 101.
    pub head: ResponseHead,
    pub inside: Inside,
    /// How long nothing may move in it.
    pub idle: Duration,
    /// Whether the upstream has left.
    pub leaving: Option<Box<Leaving>>,
    /// A tunnel is a request in progress, where these are counted.
    pub pass: Option<Pass>,
}

impl Outcome {
    fn holding(mut self, pass: Option<Pass>) -> Self {
        if let Outcome::Switched(switch) = &mut self {
            switch.pass = pass;
        }
        self
    }
}

/// Serves one request. Everything that goes wrong ends in an answer or in a cut response, and in
/// the log.
pub async fn serve<D: Downstream>(
    local: &Rc<Local>,
    peer: &Peer,
    head: &RequestHead,
    client: &mut D,
) -> Outcome {
    let _active = local.stats.requests_active.enter();
    let mut record = Record::begin();
    let mut patience = Patience::default();
    // Who was let in once waits for the next upstream without asking anew, unless it is asked for
    // something else by then.
    let mut admission = None;
    let unknown = &local.stats.unknown;
    // One snapshot for the whole attempt.
    let mut routing = local.routing();
    let (outcome, counts) = loop {
        let host = find_host(&routing, peer, head, &local.settings);
        let counts = host.as_ref().map_or(unknown, |host| host.counts(local.stats.number));
        let hsts = host.as_ref().ok().filter(|_| peer.tls.is_some()).and_then(|h| h.hsts.as_ref());
        let sets = &routing.table.error_pages;
        let manner = Manner { hsts, pages: sets.named(None) };
        let found = host.and_then(|host| find_route(&routing, host, peer, head, &local.settings));
        let Found { host, route, target } = match found {
            Ok(found) => found,
            Err(page) => {
                break (answer(local, client, head, &page, manner, &mut record).await, counts);
            }
        };
        let named = route.options.as_ref().and_then(|options| options.error_pages.as_deref());
        let manner = Manner { hsts, pages: sets.named(named) };
        if local.is_short_of_memory() && !peer.is_controller {
            let page = Page::SHORT_OF_MEMORY;
            break (answer(local, client, head, &page, manner, &mut record).await, counts);
        }
        let pool = routing.pools.pool(route.pool);
        let client_side = peer.client(local);
        let request = Request {
            head,
            client: &client_side,
            target: &target,
            authority: &head.authority,
            more: &[],
            timeouts: &local.settings.timeouts,
            preamble: None,
            drain: None,
        };
        let forwarded = match (host.pause(), &route.options) {
            (Some(rest), _) => Forwarded::Nowhere(Lack::Paused(rest), Page::PAUSED),
            (None, None) => forward(local, pool, &request, manner, client, &mut record).await,
            (None, Some(options)) => {
                let visit = Visit { local, peer, pools: &routing.pools, pool, request, manner };
                // Only routes with options pay for the box, and others not for the room of their futures.
                Box::pin(serve_with(options, visit, &mut admission, client, &mut record)).await
            }
        };
        let (lack, page) = match forwarded {
            Forwarded::Ended(outcome) => break (outcome, counts),
            Forwarded::Nowhere(lack, page) => (lack, page),
        };
        let gone = poll_fn(|cx| client.poll_gone(cx));
        match Box::pin(patience.wait(local, (&routing, route), lack, gone)).await {
            Waited::News => routing = local.routing(),
            Waited::Over => {
                break (answer(local, client, head, &page, manner, &mut record).await, counts);
            }
            Waited::Gone => break (Outcome::Broken, counts),
        }
    };
    record.write(local, peer, head, counts);
    outcome
}

/// What the answers of a route have, whoever gives them.
#[derive(Clone, Copy)]
struct Manner<'a> {
    /// Strict-Transport-Security.
    hsts: Option<&'a Bytes>,
    /// In place of our own.
    pages: &'a ErrorPages,
}

/// A request that has found its route.
struct Visit<'a> {
    local: &'a Rc<Local>,
    peer: &'a Peer,
    pools: &'a Pools,
    pool: &'a Pool,
    request: Request<'a>,
    manner: Manner<'a>,
}

/// As [`forward`], for a route that does more than that.
async fn serve_with<D: Downstream>(
    options: &RouteOptions,
    visit: Visit<'_>,
    admission: &mut Option<Admission>,
    client: &mut D,
    record: &mut Record,
) -> Forwarded {
    let Visit { local, peer, pools, pool, request, manner } = visit;
    let mut client = OptionClient::new(client, options, local, request.head);
    let admission = match admission {
        Some(admission) if options.holds(admission) => admission,
        _ => match options.admit(local, pools, request.client, request.head).await {
            Ok(admitted) => admission.insert(admitted),
            Err(refusal) => {
                let answer = match refusal {
                    Refusal::Page(page) => page.render(Some(request.head), manner.pages),
                    Refusal::Answer(answer) => *answer,
                };
                let outcome = give(local, &mut client, request.head, answer, manner, record).await;
                return Forwarded::Ended(outcome);
            }
        },
    };
    if let Some(root) = &options.root {
        let asked = (request.head, request.target);
        return match files::serve(local, root, asked, manner.hsts, &mut client, record).await {
            Ok(outcome) => Forwarded::Ended(outcome),
            Err(page) => {
                let answer = page.render(Some(request.head), manner.pages);
                let outcome = give(local, &mut client, request.head, answer, manner, record).await;
                Forwarded::Ended(outcome)
            }
        };
    }
    let head = options.request_head(admission, request.head);
    let timeouts = options.timeouts(request.timeouts);
    let timeouts = timeouts.as_ref().unwrap_or(request.timeouts);
    let preamble = options.preamble(peer, request.client, &head);
    let request = Request { head: &head, timeouts, preamble: preamble.as_deref(), ..request };
    let request = Request { drain: options.drain(), ..request };
    forward(local, pool, &request, manner, &mut client, record).await
}

/// Answers by a page of our own.
async fn answer<D: Downstream>(
    local: &Local,
    client: &mut D,
    head: &RequestHead,
    page: &Page,
    manner: Manner<'_>,
    record: &mut Record,
) -> Outcome {
    give(local, client, head, page.render(Some(head), manner.pages), manner, record).await
}

/// Answers by what is there as a whole.
async fn give<D: Downstream>(
    local: &Local,
    client: &mut D,
    head: &RequestHead,
    (response, body): (ResponseHead, Bytes),
    manner: Manner<'_>,
    record: &mut Record,
) -> Outcome {
    let response = ResponseHead { hsts: manner.hsts.cloned(), ..response };
    record.progress.status = Some(response.status);
    let empty = head.method == Method::HEAD;
    if client.send_head(&response, empty).is_err() {
        return Outcome::Broken;
    }
    if !empty {
        record.progress.bytes = body.len() as u64;
        client.send_data(body, true);
    }
    match taken(client, local.settings.timeouts.send_idle, D::poll_flush).await {
        Ok(()) => Outcome::Done,
        Err(_) => Outcome::Broken,
    }
}

/// How a request went that had a pool.
enum Forwarded {
    Ended(Outcome),
    /// No upstream took it: nothing of it is lost.
    Nowhere(Lack, Page),
}

/// Tries upstreams until one answers, or trying again would not be safe.
async fn forward<D: Downstream>(
    local: &Rc<Local>,
    pool: &Pool,
    request: &Request<'_>,
    manner: Manner<'_>,
    client: &mut D,
    record: &mut Record,
) -> Forwarded {
    let lack = if pool.members.is_empty() { Lack::Vacant } else { Lack::Refused };
    let mut tried = Tried::default();
    let mut page = Page::NOBODY_UP;
    // Set when the same upstream is asked once more, over a new connection.
    let mut same = None;
    let mut pass = None;
    loop {
        let fresh = same.is_some();
        let Some(index) = same.take().or_else(|| next(local, pool, request, &tried)) else {
            return Forwarded::Nowhere(lack, page);
        };
        let member = &pool.members[index];
        if let (Some(gate), Some(queue), false) = (&member.gate, pool.queue, fresh) {
            // That of the member before goes first. Only routes with a cap pay for the box.
            drop(pass.take());
            match Box::pin(enter(gate, queue, client)).await {
                Entered::Pass(entered) => pass = Some(entered),
                Entered::Full => {
                    let page = Page::BUSY;
                    let outcome = answer(local, client, request.head, &page, manner, record).await;
                    return Forwarded::Ended(outcome);
                }
                Entered::Gone => return Forwarded::Ended(Outcome::Broken),
            }
        }
        client.keep_cookie(pool.cookie(index, request));
        let asked = Asked { request, hsts: manner.hsts, fresh };
        match attempt(local, member, asked, client, record).await {
            Attempt::Ended(outcome) => return Forwarded::Ended(outcome.holding(pass)),
            Attempt::Answer(page) => {
                client.keep_cookie(None);
                let outcome = answer(local, client, request.head, &page, manner, record).await;
                return Forwarded::Ended(outcome);
            }
            Attempt::Again(Again::SameUpstream) => same = Some(index),
            Attempt::Again(Again::AnotherUpstream(why)) => {
                page = why;
                tried.add(index);
            }
        }
        local.stats.retries.add(1);
    }
}

/// How a wait before a gate ended.
enum Entered {
    Pass(Pass),
    Full,
    /// The client has given up.
    Gone,
}

async fn enter<D: Downstream>(gate: &Gate, queue: Queue, client: &mut D) -> Entered {
    tokio::select! {
        biased;
        entered = gate.enter(queue) => entered.map_or(Entered::Full, Entered::Pass),
        () = poll_fn(|cx| client.poll_gone(cx)) => Entered::Gone,
    }
}

fn next(local: &Local, pool: &Pool, request: &Request<'_>, tried: &Tried) -> Option<usize> {
    let open = tried.count() < ATTEMPTS;
    let now = tokio::time::Instant::now();
    open.then(|| pool.pick(local.settings.balance, tried, now, &Asker::Request(request))).flatten()
}

/// How one attempt went.
enum Attempt {
    Ended(Outcome),
    Answer(Page),
    Again(Again),
}

/// Nothing was lost: the request may go out once more.
#[derive(Debug, PartialEq, Eq)]
enum Again {
    SameUpstream,
    /// With the page to show when there is no other.
    AnotherUpstream(Page),
}

/// What one attempt is to do.
#[derive(Clone, Copy)]
struct Asked<'a> {
    request: &'a Request<'a>,
    hsts: Option<&'a Bytes>,
    /// Over a new connection.
    fresh: bool,
}

async fn attempt<D: Downstream>(
    local: &Rc<Local>,
    member: &Member,
    asked: Asked<'_>,
    client: &mut D,
    record: &mut Record,
) -> Attempt {
    let Asked { request, hsts, fresh } = asked;
    record.attempt(&member.name, member.upstream.address);
    let mut exchange = match Exchange::open(local, member, request, fresh).await {
        Ok(exchange) => exchange,
        Err(error) => {
            failed(local, member, &error);
            let page = page_for(&error);
            return match error.is_the_upstreams() {
                true => Attempt::Again(Again::AnotherUpstream(page)),
                // Another one would fare no better.
                false => Attempt::Answer(page),
            };
        }
    };
    let bounds = Bounds {
        timeouts: request.timeouts,
        limits: &local.settings.limits,
        upgrade: request.head.upgrade.as_ref(),
        hsts,
    };
    let body = request.head.body;
    let mut leaving =
        request.drain.map(|limit| Box::new(Leaving::watch(local, &member.upstream, limit)));
    let relayed = relay(client, &mut exchange, body, bounds, &mut record.progress);
    let Some(relayed) = unless_left(relayed, leaving.as_deref_mut()).await else {
        return match record.progress.status {
            Some(_) => Attempt::Ended(Outcome::Broken),
            None => Attempt::Answer(Page::GATEWAY_TIMEOUT),
        };
    };
    match relayed {
        Ok(Finished::Complete) => {
            member.upstream.succeeded();
            exchange.release(local);
            Attempt::Ended(Outcome::Done)
        }
        Ok(Finished::Switched(head)) => {
            member.upstream.succeeded();
            match exchange.into_tunnel() {
                Some(upstream) => {
                    let inside = Inside::of(request.head.upgrade.as_ref());
                    let idle = request.timeouts.tunnel_idle;
                    Attempt::Ended(Outcome::Switched(Box::new(Switch {
                        upstream,
                        head,
                        inside,
                        idle,
                        leaving,
                        pass: None,
                    })))
                }
                None => Attempt::Answer(Page::BAD_GATEWAY),
            }
        }
        Err(failure) => after(local, member, request.head, exchange.is_reused(), failure),
    }
}

/// `None` when the upstream has left, and its time is over.
async fn unless_left<T>(work: impl Future<Output = T>, leaving: Option<&mut Leaving>) -> Option<T> {
    match leaving {
        None => Some(work.await),
        Some(leaving) => tokio::select! {
            biased;
            done = work => Some(done),
            () = leaving.over() => None,
        },
    }
}

/// What a failed attempt leads to.
fn after(
    local: &Local,
    member: &Member,
    head: &RequestHead,
    reused: bool,
    failure: Failure,
) -> Attempt {
    let error = match failure.cause {
        Cause::Client(error) => {
            return match page_for_client(&error).filter(|_| !failure.response_started) {
                Some(page) => Attempt::Answer(page),
                None => Attempt::Ended(Outcome::Broken),
            };
        }
        Cause::Upstream(error) => error,
    };
    let again = again(head, &error, failure.body_taken, reused);
    if again != Some(Again::SameUpstream) {
        failed(local, member, &error);
    }
    match again {
        _ if failure.response_started => Attempt::Ended(Outcome::Broken),
        Some(again) => Attempt::Again(again),
        None => Attempt::Answer(page_for(&error)),
    }
}

/// Whether a request that was sent may be sent again (RFC 9110 section 9.2.2): only when no byte of
/// an answer came and no byte of its body went, and when it is idempotent or was not processed.
fn again(
    head: &RequestHead,
    error: &UpstreamError,
    body_taken: bool,
    reused: bool,
) -> Option<Again> {
    let possible = !body_taken
        && match error {
            UpstreamError::Closed => head.is_idempotent(),
            UpstreamError::Unprocessed => true,
            _ => false,
        };
    possible.then(|| {
        if reused {
            // It closed a connection that had been idle, as it may: that says nothing about it.
            Again::SameUpstream
        } else {
            Again::AnotherUpstream(page_for(error))
        }
    })
}

/// Notes that an attempt failed, and says so where the upstream is left out for it.
pub fn failed(local: &Local, member: &Member, error: &UpstreamError) {
    let (name, address) = (&member.name, member.upstream.address);
    if !error.is_the_upstreams() {
        if let (true, UpstreamError::Connect(error)) = (error.is_lack(), error) {
            local.complaint.make(error);
        }
        return tracing::debug!(upstream = %name, %address, %error, "not sent");
    }
    if matches!(error, UpstreamError::Left) {
        return tracing::debug!(upstream = %name, %address, %error, "not sent");
    }
    local.stats.upstream_failures.add(1);
    let unreachable = matches!(error, UpstreamError::Connect(_));
    if matches!(error, UpstreamError::TimedOut) {
        // The connection that all requests share may lead nowhere.
        member.upstream.http2.clear();
    }
    match member.upstream.failed(tokio::time::Instant::now(), unreachable) {
        Some(time) => {
            tracing::warn!(upstream = %name, %address, %error, "upstream left out for {time:?}");
        }
        None => tracing::debug!(upstream = %name, %address, %error, "upstream failed"),
    }
}

fn page_for(error: &UpstreamError) -> Page {
    match error {
        UpstreamError::TimedOut => Page::GATEWAY_TIMEOUT,
        UpstreamError::Connect(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            Page::GATEWAY_TIMEOUT
        }
        UpstreamError::Unsendable(_) => Page::BAD_REQUEST,
        error if error.is_lack() => Page::FULL,
        _ => Page::BAD_GATEWAY,
    }
}

fn page_for_client(error: &ClientError) -> Option<Page> {
    match error {
        ClientError::Body(_) => Some(Page::BAD_REQUEST),
        ClientError::TooLarge => Some(Page::TOO_LARGE),
        ClientError::BodyTimedOut => Some(Page::REQUEST_TIMEOUT),
        ClientError::Gone | ClientError::SendTimedOut => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_safe_is_sent_again() {
        let another = || Some(Again::AnotherUpstream(Page::BAD_GATEWAY));
        for (method, error, body_taken, reused, want) in [
            (Method::GET, UpstreamError::Closed, false, false, another()),
            (Method::GET, UpstreamError::Closed, false, true, Some(Again::SameUpstream)),
            (Method::PUT, UpstreamError::Closed, true, false, None),
            (Method::POST, UpstreamError::Closed, false, true, None),
            (Method::POST, UpstreamError::Unprocessed, false, false, another()),
            (Method::GET, UpstreamError::TimedOut, false, false, None),
            (Method::GET, UpstreamError::Protocol("x".into()), false, true, None),
        ] {
            let text = format!("{method} {error} {body_taken} {reused}");
            assert_eq!(
                again(&RequestHead::new(method, "/"), &error, body_taken, reused),
                want,
                "{text}"
            );
        }
    }
}
