//! Where a request goes: its host, its route and what goes upstream, or an answer that needs nobody.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};

use super::local::{Peer, Routing};
use super::message::{BodyLength, RequestHead, Upgrade};
use super::page::Page;
use super::table::{Host, Route, normal_host, normal_path};
use super::target::target;
use crate::protocol::READY_PATH;
use crate::protocol::default_root::{DefaultRoot, filled};
use crate::protocol::settings::{Limits, WorkerSettings};
use crate::protocol::snapshot::{HttpsMethod, Intervention};

/// The port that a URL with `https` need not name.
const HTTPS_PORT: u16 = 443;

/// The host that a request is for, or the answer that needs none.
pub fn find_host<'a>(
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
    // Of HTTP/1.1, the parser has counted.
    if head.fields.are_more_than(settings.limits.header_count) {
        return Err(Page::HEADERS_TOO_LARGE);
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
pub struct Found<'a> {
    pub host: &'a Host,
    pub route: &'a Route,
    /// What goes upstream.
    pub target: Bytes,
}

/// Where a request goes, or an answer.
pub fn find_route<'a>(
    routing: &Routing,
    host: &'a Host,
    peer: &Peer,
    head: &RequestHead,
    settings: &WorkerSettings,
) -> Result<Found<'a>, Page> {
    let redirect = check_scheme(host, peer, head, host.https_port.or(settings.https_port))?;
    let found = route_of(host, peer, head);
    let is_down =
        |route: &Route| !route.hold && routing.table.pools[route.pool].upstreams.is_empty();
    let is_down = |route: &Route| is_down(route) && !route.has_files();
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
    let name = without_port(&name);
    match HeaderValue::from_str(&filled(location, scheme, name, &target)) {
        Ok(location) => Page::Elsewhere(status, location),
        Err(_) => Page::BAD_REQUEST,
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => authority,
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
        // On a connection for another name.
        (_, true) if host.passthrough => Err(Page::MISDIRECTED),
        (HttpsMethod::NoHttps, true) => Err(Page::HTTP_ALONE),
        (_, true) if !host.trusted => Err(Page::NO_CERTIFICATE),
        (_, true) => Ok(None),
        (HttpsMethod::NoHttp, false) => Err(Page::HTTPS_ALONE),
        (HttpsMethod::Redirect, false)
            if (host.trusted || host.passthrough) && https_port.is_some() =>
        {
            Ok(https_port.map(|port| to_https(host, head, port)))
        }
        // Upstreams expect TLS.
        (_, false) if host.passthrough => Err(Page::HTTPS_ALONE),
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
