//! One request, from its head to its line in the access log: find the route, choose an upstream,
//! relay, try another one where that is safe.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version};
use tokio::time::timeout;

use super::access_log::Entry;
use super::fields::Client;
use super::hold::{Lack, Patience, Waited};
use super::local::{Local, Peer, Routing};
use super::message::{BodyLength, RequestHead, ResponseHead, Upgrade};
use super::page::Page;
use super::relay::{Bounds, Cause, ClientError, Downstream, Failure, Finished, Progress, relay};
use super::route_options::{Admission, OptionClient, Refusal, RouteOptions};
use super::stats::HostCounts;
use super::table::{Host, Replace, Route, normal_host, normal_path};
use super::tunnel::{End, Inside};
use super::upstream::balance::Tried;
use super::upstream::exchange::{Exchange, Request, UpstreamError};
use super::upstream::{Member, Pool, Pools};
use crate::protocol::READY_PATH;
use crate::protocol::default_root::{DefaultRoot, filled};
use crate::protocol::settings::{Limits, WorkerSettings};
use crate::protocol::snapshot::{HttpsMethod, Intervention};
use crate::protocol::stats::RequestKind;

/// Most upstreams that one request is tried on.
const ATTEMPTS: usize = 3;

/// The port that a URL with `https` need not name.
const HTTPS_PORT: u16 = 443;

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
    let mut record = Record::new();
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
        let found = host.and_then(|host| find_route(&routing, host, peer, head, &local.settings));
        let Found { host, route, target } = match found {
            Ok(found) => found,
            Err(page) => {
                break (answer(local, client, head, &page, hsts, &mut record).await, counts);
            }
        };
        let pool = routing.pools.pool(route.pool);
        let client_side = client_side(local, peer);
        let request = Request {
            head,
            client: &client_side,
            target: &target,
            authority: &head.authority,
            more: &[],
            timeouts: &local.settings.timeouts,
        };
        let forwarded = match (host.pause(), &route.options) {
            (Some(rest), _) => Forwarded::Nowhere(Lack::Paused(rest), Page::PAUSED),
            (None, None) => forward(local, pool, &request, hsts, client, &mut record).await,
            (None, Some(options)) => {
                let visit = Visit { local, pools: &routing.pools, pool, request, hsts };
                serve_with(options, visit, &mut admission, client, &mut record).await
            }
        };
        let (lack, page) = match forwarded {
            Forwarded::Ended(outcome) => break (outcome, counts),
            Forwarded::Nowhere(lack, page) => (lack, page),
        };
        match patience.wait(local, (&routing, route), lack, client).await {
            Waited::News => routing = local.routing(),
            Waited::Over => {
                break (answer(local, client, head, &page, hsts, &mut record).await, counts);
            }
            Waited::Gone => break (Outcome::Broken, counts),
        }
    };
    record.write(local, peer, head, counts);
    outcome
}

fn client_side<'a>(local: &'a Local, peer: &Peer) -> Client<'a> {
    Client {
        address: peer.address.ip(),
        local_port: peer.local_port,
        tls: peer.tls.is_some(),
        trusted_proxies: &local.settings.trusted_proxies,
    }
}

/// A request that has found its route.
struct Visit<'a> {
    local: &'a Rc<Local>,
    pools: &'a Pools,
    pool: &'a Pool,
    request: Request<'a>,
    hsts: Option<&'a Bytes>,
}

/// As [`forward`], for a route that does more than that.
async fn serve_with<D: Downstream>(
    options: &RouteOptions,
    visit: Visit<'_>,
    admission: &mut Option<Admission>,
    client: &mut D,
    record: &mut Record,
) -> Forwarded {
    let Visit { local, pools, pool, request, hsts } = visit;
    let mut client = OptionClient::new(client, options, local, request.head);
    let admission = match admission {
        Some(admission) if options.holds(admission) => admission,
        _ => match options.admit(local, pools, request.client, request.head).await {
            Ok(admitted) => admission.insert(admitted),
            Err(refusal) => {
                let answer = match refusal {
                    Refusal::Page(page) => page.render(Some(request.head)),
                    Refusal::Answer(answer) => *answer,
                };
                let outcome = give(local, &mut client, request.head, answer, hsts, record).await;
                return Forwarded::Ended(outcome);
            }
        },
    };
    let head = options.request_head(admission, request.head);
    let timeouts = options.timeouts(request.timeouts);
    let timeouts = timeouts.as_ref().unwrap_or(request.timeouts);
    let request = Request { head: &head, timeouts, ..request };
    forward(local, pool, &request, hsts, &mut client, record).await
}

/// The host that a request is for, or the answer that needs none.
fn find_host<'a>(
    routing: &'a Routing,
    peer: &Peer,
    head: &RequestHead,
    settings: &WorkerSettings,
) -> Result<&'a Host, Page> {
    if peer.is_controller && head.path() == READY_PATH.as_bytes() {
        return Err(Page::Ready);
    }
    // A forward proxy would be an open door; TRACE reflects what cookies a script may not see.
    let extended = matches!(head.upgrade, Some(Upgrade::Connect(_)));
    let plain_connect = head.method == Method::CONNECT && !extended;
    if plain_connect || head.method == Method::TRACE {
        return Err(Page::METHOD_NOT_ALLOWED);
    }
    if let Some(answer) = challenge_answer(routing, peer, head) {
        return Err(Page::Challenge(answer));
    }
    if matches!(head.body, BodyLength::Known(length)
        if is_too_large(length, &settings.limits))
    {
        return Err(Page::TOO_LARGE);
    }
    let name = normal_host(&head.authority);
    if is_misdirected(routing, peer, &name) {
        return Err(Page::MISDIRECTED);
    }
    let host = routing.table.host(&name).ok_or(Page::UnknownHost)?;
    if !is_verified(host, peer) {
        return Err(Page::MISDIRECTED);
    }
    match &host.intervention {
        Some(Intervention::Maintenance(maintenance)) => {
            Err(Page::Maintenance(maintenance.page.clone()))
        }
        Some(Intervention::Pause { .. }) | None => Ok(host),
    }
}

/// Where a request goes.
struct Found<'a> {
    host: &'a Host,
    route: &'a Route,
    /// What goes upstream.
    target: Bytes,
}

/// Where a request goes, or an answer.
fn find_route<'a>(
    routing: &Routing,
    host: &'a Host,
    peer: &Peer,
    head: &RequestHead,
    settings: &WorkerSettings,
) -> Result<Found<'a>, Page> {
    let redirect = check_scheme(host, peer, head, settings.https_port)?;
    let found = route_of(host, peer, head);
    let is_down =
        |route: &Route| !route.hold && routing.table.pools[route.pool].upstreams.is_empty();
    if found.as_ref().is_ok_and(|(route, _)| is_down(route)) {
        // A redirect would lead to the same answer.
        return Err(Page::NOBODY_UP);
    }
    if let Some(redirect) = redirect {
        return Err(redirect);
    }
    let (route, normal) = found?;
    let target = target(route, head, &normal);
    Ok(Found { host, route, target })
}

/// With the path as it was matched.
fn route_of<'a, 'r>(
    host: &'a Host,
    peer: &Peer,
    head: &'r RequestHead,
) -> Result<(&'a Route, Cow<'r, [u8]>), Page> {
    let path = if head.target.as_ref() == b"*" { b"/" } else { head.path() };
    let normal = normal_path(path).ok_or(Page::BAD_REQUEST)?;
    match host.route(&normal) {
        Some(route) => Ok((route, normal)),
        None => Err(default_page(host, peer, head)),
    }
}

/// For a path that nobody claims.
fn default_page(host: &Host, peer: &Peer, head: &RequestHead) -> Page {
    let (status, location) = match &host.default_root {
        DefaultRoot::Status(status) => (*status, None),
        DefaultRoot::Redirect(fixed) => (fixed.status, Some(&fixed.location)),
    };
    let Ok(status) = StatusCode::from_u16(status) else { return Page::NOT_FOUND };
    let Some(location) = location else { return Page::unrouted(status) };
    let scheme = if peer.tls.is_some() { "https" } else { "http" };
    let [name, target] = [&head.authority, &head.target].map(|text| String::from_utf8_lossy(text));
    let name = name.rsplit_once(':').map_or(&*name, |(name, _)| name);
    match HeaderValue::from_str(&filled(location, scheme, name, &target)) {
        Ok(location) => Page::Elsewhere(status, location),
        Err(_) => Page::BAD_REQUEST,
    }
}

/// Over TLS a host takes connections that were verified as it asks. One that was opened for another
/// name, for none, or before the host asked, was not.
fn is_verified(host: &Host, peer: &Peer) -> bool {
    let (Some(auth), Some(tls)) = (&host.client_auth, &peer.tls) else { return true };
    tls.client_auth.as_ref().is_some_and(|shown| shown.asked == auth.asked)
}

/// HTTP-01 is asked over plain HTTP (RFC 8555 section 8.3), whatever the host's routes say of it.
fn challenge_answer(routing: &Routing, peer: &Peer, head: &RequestHead) -> Option<Bytes> {
    let asks = peer.tls.is_none() && matches!(head.method, Method::GET | Method::HEAD);
    asks.then(|| routing.table.challenges.http01(head.path())).flatten()
}

/// RFC 9110 section 7.4: a request for a host that this connection's certificate does not speak
/// for. Browsers put requests for several hosts on one HTTP/2 connection.
fn is_misdirected(routing: &Routing, peer: &Peer, name: &[u8]) -> bool {
    let Some(server_name) = peer.tls.as_ref().and_then(|tls| tls.server_name.as_deref()) else {
        return false;
    };
    if server_name.as_bytes() == name {
        return false;
    }
    let certificates = &routing.table.certificates;
    let asked = std::str::from_utf8(name).map_or(0, |name| certificates.find(name));
    asked != certificates.find(server_name)
}

fn is_too_large(length: u64, limits: &Limits) -> bool {
    limits.body_bytes > 0 && length > limits.body_bytes
}

/// The table of nginx-proxy's HTTPS_METHOD: the redirect, if there is to be one.
fn check_scheme(
    host: &Host,
    peer: &Peer,
    head: &RequestHead,
    https_port: Option<u16>,
) -> Result<Option<Page>, Page> {
    match (host.https, peer.tls.is_some()) {
        (HttpsMethod::NoHttps, true) => Err(Page::HTTP_ALONE),
        (_, true) if !host.trusted => Err(Page::NO_CERTIFICATE),
        (_, true) => Ok(None),
        (HttpsMethod::NoHttp, false) => Err(Page::HTTPS_ALONE),
        (HttpsMethod::Redirect, false) if host.trusted && https_port.is_some() => {
            Ok(https_port.map(|port| to_https(host, head, port)))
        }
        // Nobody can show a certificate here.
        (_, false) if host.requires_certificate() => Err(Page::HTTPS_ALONE),
        (HttpsMethod::NoHttps, false) => Ok(None),
        (_, false) if host.needs_certificate && !host.trusted => Err(Page::NO_CERTIFICATE),
        (_, false) => Ok(None),
    }
}

fn to_https(host: &Host, head: &RequestHead, port: u16) -> Page {
    let status = match head.method {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => host.non_get_redirect,
    };
    let name = normal_host(&head.authority);
    let mut location = b"https://".to_vec();
    if name.contains(&b':') {
        location.extend_from_slice(&[b"[", name.as_slice(), b"]"].concat());
    } else {
        location.extend_from_slice(&name);
    }
    if port != HTTPS_PORT {
        location.extend_from_slice(format!(":{port}").as_bytes());
    }
    let target = if head.target.as_ref() == b"*" { b"/" } else { head.target.as_ref() };
    location.extend_from_slice(target);
    let location = HeaderValue::from_bytes(&location);
    location.map_or(Page::BAD_REQUEST, |location| Page::ToHttps(status, location))
}

/// The target that goes upstream: as received, or with the route's prefix replaced.
fn target(route: &Route, head: &RequestHead, normal: &[u8]) -> Bytes {
    let Some(Replace { prefix, by }) = &route.replace else {
        return head.target.clone();
    };
    let (path, query) = head.target.split_at(head.path().len());
    // A path that only matched once it was decoded and its dots resolved goes up that way: as it was
    // received, its dots could lead out of the replacement.
    let encoded;
    let rest = if path == normal {
        path.strip_prefix(prefix.as_ref()).unwrap_or_default()
    } else {
        encoded = encode(normal.strip_prefix(prefix.as_ref()).unwrap_or_default());
        encoded.as_slice()
    };
    let slash = by.ends_with(b"/");
    let rest = if slash { rest.strip_prefix(b"/").unwrap_or(rest) } else { rest };
    let mut target = [by.as_ref(), rest].concat();
    if !target.starts_with(b"/") {
        target.insert(0, b'/');
    }
    target.extend_from_slice(query);
    target.into()
}

/// RFC 3986 section 3.3: what a path segment may hold stands, all else is percent-encoded.
fn encode(path: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(path.len());
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte) {
            encoded.push(byte);
        } else {
            encoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    encoded
}

/// Answers by a page of our own.
async fn answer<D: Downstream>(
    local: &Local,
    client: &mut D,
    head: &RequestHead,
    page: &Page,
    hsts: Option<&Bytes>,
    record: &mut Record,
) -> Outcome {
    give(local, client, head, page.render(Some(head)), hsts, record).await
}

/// Answers by what is there as a whole.
async fn give<D: Downstream>(
    local: &Local,
    client: &mut D,
    head: &RequestHead,
    (response, body): (ResponseHead, Bytes),
    hsts: Option<&Bytes>,
    record: &mut Record,
) -> Outcome {
    let response = ResponseHead { hsts: hsts.cloned(), ..response };
    record.progress.status = Some(response.status);
    let empty = head.method == Method::HEAD;
    if client.send_head(&response, empty).is_err() {
        return Outcome::Broken;
    }
    if !empty {
        record.progress.bytes = body.len() as u64;
        client.send_data(body, true);
    }
    let flush = std::future::poll_fn(|cx| client.poll_flush(cx));
    match timeout(local.settings.timeouts.send_idle, flush).await {
        Ok(Ok(())) => Outcome::Done,
        Ok(Err(_)) | Err(_) => Outcome::Broken,
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
    hsts: Option<&Bytes>,
    client: &mut D,
    record: &mut Record,
) -> Forwarded {
    let lack = if pool.members.is_empty() { Lack::Vacant } else { Lack::Refused };
    let mut tried = Tried::default();
    let mut page = Page::NOBODY_UP;
    // Set when the same upstream is asked once more, over a new connection.
    let mut same = None;
    loop {
        let fresh = same.is_some();
        let Some(index) = same.take().or_else(|| next(local, pool, request, &tried)) else {
            return Forwarded::Nowhere(lack, page);
        };
        let member = &pool.members[index];
        let asked = Asked { request, hsts, fresh };
        match attempt(local, member, asked, client, record).await {
            Attempt::Ended(outcome) => return Forwarded::Ended(outcome),
            Attempt::Answer(page) => {
                let outcome = answer(local, client, request.head, &page, hsts, record).await;
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

fn next(local: &Local, pool: &Pool, request: &Request<'_>, tried: &Tried) -> Option<usize> {
    let open = tried.count() < ATTEMPTS;
    let now = tokio::time::Instant::now();
    let client = || request.client.origin(request.head);
    open.then(|| pool.pick(local.settings.balance, tried, now, client)).flatten()
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
    record.attempt(&member.name);
    let mut exchange = match Exchange::open(local, member, request, fresh).await {
        Ok(exchange) => exchange,
        Err(error) => {
            failed(local, member, &error);
            return Attempt::Again(Again::AnotherUpstream(page_for(&error)));
        }
    };
    let bounds = Bounds {
        timeouts: request.timeouts,
        limits: &local.settings.limits,
        upgrade: request.head.upgrade.as_ref(),
        hsts,
    };
    let body = request.head.body;
    match relay(client, &mut exchange, body, bounds, &mut record.progress).await {
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
                    Attempt::Ended(Outcome::Switched(Box::new(Switch { upstream, head, inside })))
                }
                None => Attempt::Answer(Page::BAD_GATEWAY),
            }
        }
        Err(failure) => after(local, member, request.head, exchange.is_reused(), failure),
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

fn failed(local: &Local, member: &Member, error: &UpstreamError) {
    local.stats.upstream_failures.add(1);
    let unreachable = matches!(error, UpstreamError::Connect(_));
    let (name, address) = (&member.name, member.upstream.address);
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

/// Counts and logs an answer to what was not a request.
pub fn refused(local: &Local, peer: &Peer, status: StatusCode) {
    local.stats.responses[class(status)].add(1);
    local.stats.unknown.count(RequestKind::malformed(status));
    local.log.write(&Entry {
        client: peer.address.ip(),
        request: None,
        tls: peer.tls.is_some(),
        status: Some(status),
        bytes: 0,
        duration: Duration::ZERO,
        upstream: None,
        attempts: 0,
    });
}

/// Index of a status class in the counters.
fn class(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, 5) - 1
}

/// What the access log will say.
#[derive(Debug)]
struct Record {
    start: Instant,
    progress: Progress,
    upstream: Option<Rc<str>>,
    attempts: u32,
}

impl Record {
    fn new() -> Self {
        Record { start: Instant::now(), progress: Progress::default(), upstream: None, attempts: 0 }
    }

    fn attempt(&mut self, name: &Rc<str>) {
        self.upstream = Some(name.clone());
        self.attempts += 1;
    }

    fn write(&self, local: &Local, peer: &Peer, head: &RequestHead, counts: &HostCounts) {
        if peer.is_controller {
            return;
        }
        let http2 = head.version == Version::HTTP_2;
        let count = if http2 { &local.stats.requests_http2 } else { &local.stats.requests_http1 };
        count.add(1);
        if let Some(status) = self.progress.status {
            local.stats.responses[class(status)].add(1);
        }
        let duration = self.start.elapsed();
        let kind = RequestKind::new(http2, &head.method, self.progress.status);
        counts.answered(kind, duration, self.progress.head_after);
        let upstream_time = self.progress.head_after.unwrap_or_default();
        local.log.write(&Entry {
            client: client_side(local, peer).origin(head),
            request: Some(head),
            tls: peer.tls.is_some(),
            status: self.progress.status,
            bytes: self.progress.bytes,
            duration,
            upstream: self.upstream.as_deref().map(|name| (name, upstream_time)),
            attempts: self.attempts,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::hold::Waiting;
    use crate::worker::message::Fields;

    fn head(method: Method, target: &'static str) -> RequestHead {
        RequestHead {
            method,
            target: target.into(),
            authority: "a".into(),
            version: Version::HTTP_11,
            fields: Fields::Map(Default::default()),
            body: BodyLength::Empty,
            upgrade: None,
        }
    }

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
            assert_eq!(again(&head(method, "/"), &error, body_taken, reused), want, "{text}");
        }
    }

    #[test]
    fn prefixes_are_replaced() {
        for (prefix, replacement, received, want) in [
            ("/app/", "/", "/app/x?q=/app/", "/x?q=/app/"),
            ("/app", "/", "/app/x", "/x"),
            ("/app", "/", "/app", "/"),
            ("/app", "/v2", "/app/x", "/v2/x"),
            ("/app", "/", "/%61pp/x%20y", "/x%20y"),
            ("/app", "/", "//app//x", "/x"),
            ("/api/", "/v1/a/", "/api/../api/x", "/v1/a/x"),
        ] {
            let route = Route {
                pool: 0,
                hold: false,
                waiting: Waiting::default(),
                options: None,
                replace: Some(Replace {
                    prefix: prefix.as_bytes().into(),
                    by: replacement.as_bytes().into(),
                }),
            };
            let head = head(Method::GET, received);
            let normal = normal_path(head.path()).expect("inside the root").into_owned();
            assert_eq!(target(&route, &head, &normal), want, "{prefix} {replacement} {received}");
        }
    }
}
