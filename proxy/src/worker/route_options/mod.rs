//! What a route does beside forwarding, compiled. A route without any of it has none of these.

mod basic_auth;
mod client;
mod cors;
mod encoder;
mod encoding;
mod fields;
mod forward_auth;
mod limiter;
mod redirect;
mod verifier;

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use self::basic_auth::BasicAuth;
use self::fields::FieldChanges;
use self::forward_auth::ForwardAuth;
use self::redirect::redirect;
use self::verifier::Verdict;
use super::fields::Client;
use super::local::{Local, Peer};
use super::message::{BodyLength, Fields, RequestHead, ResponseHead};
use super::page::Page;
use super::upstream::Pools;
use crate::protocol::options::Options;
use crate::protocol::options::access::Access;
use crate::protocol::options::cors::Cors;
use crate::protocol::options::fields::{Change, FieldChange};
use crate::protocol::options::priority::Priority;
use crate::protocol::options::proxy_protocol::ProxyProtocol;
use crate::protocol::options::rate_limit::RateLimit;
use crate::protocol::options::redirect::Redirects;
use crate::protocol::options::timeouts::RouteTimeouts;
use crate::protocol::pattern::{HostPattern, PathPattern};
use crate::protocol::settings::Timeouts;
use crate::protocol::snapshot::{Upstream, UpstreamProtocol};

pub use self::client::OptionClient;
pub use self::encoding::{Encoding, is_text};
pub use self::limiter::Limiter;
use self::limiter::Who;
pub use self::verifier::Verifier;

/// A request was let in.
#[derive(Debug)]
pub struct Admission {
    /// By these options, and by no others.
    by: u64,
    /// What another server has said of it, for the upstream.
    copied: Option<FieldChanges>,
}

/// What a request is answered in place of going upstream.
#[derive(Debug)]
pub enum Refusal {
    Page(Page),
    /// Of a server that was asked.
    Answer(Box<(ResponseHead, Bytes)>),
}

impl From<Page> for Refusal {
    fn from(page: Page) -> Self {
        Refusal::Page(page)
    }
}

#[derive(Debug)]
pub struct RouteOptions {
    access: Access,
    basic_auth: Option<BasicAuth>,
    forward_auth: Option<ForwardAuth>,
    compress: bool,
    priority: Option<Priority>,
    /// 0 is no limit.
    max_body: u64,
    timeouts: RouteTimeouts,
    drain: Option<Duration>,
    proxy_protocol: Option<ProxyProtocol>,
    redirects: Redirects,
    rate_limit: Option<RateLimit>,
    /// The set of pages that its errors have.
    pub error_pages: Option<String>,
    /// Where its files are.
    pub root: Option<PathBuf>,
    /// Of all that was said: another table may say something else.
    fingerprint: u64,
    /// Host and path: whose tokens they are.
    place: Box<str>,
    request_fields: Option<FieldChanges>,
    response_fields: Option<FieldChanges>,
    cors: Option<Cors>,
    /// For answers that have none of their own.
    defaults: Vec<(&'static str, &'static str)>,
}

/// What `security_headers` says where the application, and the route, say nothing of it.
const SECURITY_HEADERS: [(&str, &str); 4] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "SAMEORIGIN"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("cross-origin-opener-policy", "same-origin-allow-popups"),
];

impl RouteOptions {
    /// `None` when there is nothing to do. Servers that it asks are added to `asked`.
    pub fn compile(
        options: Options,
        host: &HostPattern,
        path: &PathPattern,
        asked: &mut Vec<Upstream>,
    ) -> Option<Box<Self>> {
        if options.is_off() {
            return None;
        }
        let fingerprint = fingerprint(&options);
        let forward_auth = options.forward_auth.map(|auth| {
            let index = auth.address.map(|address| {
                asked.push(server(&auth.host, address));
                asked.len() - 1
            });
            ForwardAuth::compile(&auth, options.forward_headers, index)
        });
        Some(Box::new(RouteOptions {
            access: options.access,
            basic_auth: options.basic_auth.map(BasicAuth::compile),
            forward_auth,
            compress: options.compress,
            priority: options.priority,
            max_body: options.max_body,
            timeouts: options.timeouts,
            drain: options.drain,
            proxy_protocol: options.proxy_protocol,
            redirects: options.redirects,
            rate_limit: options.rate_limit,
            error_pages: options.error_pages,
            root: options.root,
            fingerprint,
            place: format!("{host}{path}").into(),
            defaults: defaults(options.security_headers, &options.response_fields),
            cors: options.cors,
            request_fields: FieldChanges::compile(options.request_fields),
            response_fields: FieldChanges::compile(options.response_fields),
        }))
    }

    /// Whether it takes clients with this address.
    pub fn admits(&self, client: IpAddr) -> bool {
        self.access.admits(client)
    }

    /// Whether the route takes the request.
    ///
    /// # Errors
    /// What it is answered if not.
    pub async fn admit(
        &self,
        local: &Rc<Local>,
        pools: &Pools,
        client: &Client<'_>,
        head: &RequestHead,
    ) -> Result<Admission, Refusal> {
        // A browser asks first, and shows no password then.
        if let Some(answer) = self.cors.as_ref().and_then(|cors| cors::preflight(cors, head)) {
            return Err(Refusal::Answer(Box::new(answer)));
        }
        self.check(local, client, head).await?;
        let by = self.fingerprint;
        let Some(auth) = &self.forward_auth else { return Ok(Admission { by, copied: None }) };
        let server = auth.index.map(|index| pools.asked(index));
        let copied = auth.ask(local, server, client, head).await?;
        Ok(Admission { by, copied })
    }

    /// Whether a request that was let in before it had to wait is still let in.
    pub fn holds(&self, admission: &Admission) -> bool {
        admission.by == self.fingerprint
    }

    async fn check(
        &self,
        local: &Local,
        client: &Client<'_>,
        head: &RequestHead,
    ) -> Result<(), Page> {
        // An address is looked for only where somebody asks for it.
        if self.access != Access::default() && !self.access.admits(client.origin(head)) {
            return Err(Page::FORBIDDEN);
        }
        if let Some(limit) = &self.rate_limit {
            let field = limit.header.as_ref().and_then(|name| head.fields.get(name));
            let who = field.map_or_else(|| client.origin(head).into(), Who::Field);
            let taken = local.limiter.take(&self.place, who, limit);
            taken.map_err(|wait| Page::TooMany(wait.as_secs() + 1))?;
        }
        if let Some(page) = redirect(&self.redirects, client.scheme(head), head) {
            return Err(page);
        }
        if matches!(head.body, BodyLength::Known(length) if self.is_too_large(length)) {
            return Err(Page::TOO_LARGE);
        }
        if let Some(auth) = &self.basic_auth {
            match auth.verdict(&local.verifier, &head.fields).await {
                Verdict::Right => {}
                Verdict::Wrong => return Err(Page::Unauthorized),
                Verdict::Busy => return Err(Page::TOO_MANY_LOGINS),
            }
        }
        Ok(())
    }

    /// `None`: as usual.
    pub fn timeouts(&self, usual: &Timeouts) -> Option<Timeouts> {
        self.timeouts.over(usual)
    }

    /// What stands in front of the connection that a request of this client goes over; `None`: nothing,
    /// and it goes over one that others share.
    pub fn preamble(
        &self,
        peer: &Peer,
        client: &Client<'_>,
        head: &RequestHead,
    ) -> Option<Vec<u8>> {
        let _asked_for = self.proxy_protocol?;
        self.preamble_for(peer, client.origin(head))
    }

    /// As [`RouteOptions::preamble`], for a client at `origin`.
    pub fn preamble_for(&self, peer: &Peer, origin: IpAddr) -> Option<Vec<u8>> {
        let version = self.proxy_protocol?;
        // The port of a client is known to the proxy before this one, if there is one.
        let is_peer = origin == peer.address.ip().to_canonical();
        let port = if is_peer { peer.address.port() } else { 0 };
        let destination = SocketAddr::new(peer.local_ip, peer.local_port);
        Some(version.head(SocketAddr::new(origin, port), destination))
    }

    /// How long a request may last once its upstream has left.
    pub fn drain(&self) -> Option<Duration> {
        self.drain
    }

    fn is_too_large(&self, length: u64) -> bool {
        self.max_body > 0 && length > self.max_body
    }

    /// The head that goes upstream.
    pub fn request_head<'a>(
        &self,
        admission: &Admission,
        head: &'a RequestHead,
    ) -> Cow<'a, RequestHead> {
        let changes = [&admission.copied, &self.request_fields].into_iter().flatten();
        changes.fold(Cow::Borrowed(head), |head, changes| {
            let fields = changes.apply(&head.fields);
            Cow::Owned(RequestHead { fields, ..head.into_owned() })
        })
    }

    /// The head that goes to the client.
    fn response_head<'a>(
        &self,
        head: &'a ResponseHead,
        request: &RequestHead,
    ) -> Cow<'a, ResponseHead> {
        let mut head = Cow::Borrowed(head);
        let apply = |changes: &FieldChanges, head: &mut Cow<'a, ResponseHead>| {
            let fields = changes.apply(&head.fields);
            *head = Cow::Owned(ResponseHead { fields, ..head.as_ref().clone() });
        };
        if let Some(changes) = self.missing(&head.fields) {
            apply(&changes, &mut head);
        }
        if let Some(cors) = &self.cors
            && let Some(changes) = cors::changes(cors, &request.fields, &head.fields)
        {
            apply(&changes, &mut head);
        }
        if let Some(changes) = &self.response_fields {
            apply(changes, &mut head);
        }
        head
    }

    /// The defaults that an answer has not.
    fn missing(&self, fields: &Fields) -> Option<FieldChanges> {
        let missing = self.defaults.iter().filter(|(name, _)| fields.get(name).is_none());
        FieldChanges::compile(missing.map(|(name, value)| set(name, value)).collect())
    }
}

/// What a route says itself of a field stands.
fn defaults(is_on: bool, said: &[FieldChange]) -> Vec<(&'static str, &'static str)> {
    let is_said = |name: &str| said.iter().any(|change| change.name.eq_ignore_ascii_case(name));
    let defaults = SECURITY_HEADERS.into_iter().filter(|(name, _)| is_on && !is_said(name));
    defaults.collect()
}

fn set(name: &str, value: &str) -> FieldChange {
    FieldChange { name: name.to_owned(), change: Change::Set(value.to_owned()) }
}

fn fingerprint(options: &Options) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Options are plain data: they can always be written.
    serde_json::to_vec(options).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

fn server(name: &str, address: SocketAddr) -> Upstream {
    Upstream { name: name.to_owned(), address, protocol: UpstreamProtocol::Http, weight: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_route_says_of_a_field_stands_before_the_preset() {
        let remove = |name: &str| FieldChange { name: name.to_owned(), change: Change::Remove };
        let names = |is_on, said: &[FieldChange]| -> Vec<&str> {
            defaults(is_on, said).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(false, &[]), [""; 0]);
        assert_eq!(names(true, &[]), SECURITY_HEADERS.map(|(name, _)| name));
        let others = ["x-content-type-options", "referrer-policy", "cross-origin-opener-policy"];
        assert_eq!(names(true, &[remove("X-Frame-Options")]), others);
    }
}
