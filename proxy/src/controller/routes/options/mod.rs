//! What containers say that a route shall do beside forwarding.

mod forward;
mod key;

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

pub(super) use self::forward::find_servers;
use self::key::FieldAct;
pub(super) use self::key::{FOREIGN, Key, LABELS, VARIABLES};
use super::opinion::{Dissent, Opinion};
use super::settings::{Router, Written};
use super::value;
use crate::protocol::options::Options;
use crate::protocol::options::access::{self, Networks};
use crate::protocol::options::balance::RouteBalance;
use crate::protocol::options::basic_auth::{Credential, Credentials, label_credentials};
use crate::protocol::options::body_size::body_size;
use crate::protocol::options::cors::Cors;
use crate::protocol::options::error_pages::page_set;
use crate::protocol::options::fields::{Change, FieldChange, Side};
use crate::protocol::options::forward_auth::{self, ForwardAuth};
use crate::protocol::options::priority::Priority;
use crate::protocol::options::proxy_protocol::ProxyProtocol;
use crate::protocol::options::rate_limit::RateLimit;
use crate::protocol::options::redirect::{Fixed, Www, canonical_host};
use crate::protocol::options::sticky::Sticky;

/// In place of a value that may be a secret.
const HIDDEN: &str = "(hidden)";

/// The first word on each setting.
#[derive(Debug, Clone, Default)]
pub(super) struct Said(BTreeMap<Key, Opinion<Setting>>);

/// One setting, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Setting {
    /// Said to be off, which is a word like any other.
    Off,
    Balance(RouteBalance),
    SlowStart(Duration),
    Sticky(Sticky),
    Field(FieldChange),
    Allow(Vec<IpNet>),
    Deny(Vec<IpNet>),
    AuthBasic(Vec<Credential>),
    AuthForward(ForwardAuth),
    ForwardHeaders(Vec<String>),
    Compress(bool),
    Priority(Option<Priority>),
    Cors(Cors),
    ErrorPages(String),
    SecurityHeaders,
    MaxBody(u64),
    Drain(Duration),
    MaxRequests(u32),
    Queue(u32),
    QueueWait(Duration),
    Timeout(Duration),
    ProxyProtocol(ProxyProtocol),
    RateLimit(RateLimit),
    RedirectTo(Fixed),
    RedirectHost(String),
    RedirectWww(Www),
}

/// A setting, and what of it cannot be used: item and problem.
type Parsed = (Setting, Vec<(String, String)>);

/// A setting, or a part of it, that cannot be used: where, what, and why.
pub(super) struct Complaint {
    pub setting: String,
    /// Empty where it may be a secret.
    pub value: String,
    pub problem: String,
}

impl Said {
    /// What a router of the container `by` says. Of a setting that is there twice, the first that can
    /// be used is taken.
    pub fn by(by: &str, router: Router<'_>) -> (Self, Vec<Complaint>) {
        let mut said = Said::default();
        let mut complaints = Vec::new();
        for (key, written) in router.options() {
            if said.0.contains_key(&key) {
                continue;
            }
            match parse(&key, &written) {
                Ok((setting, bad)) => {
                    complaints.extend(bad.into_iter().map(|(item, problem)| Complaint {
                        value: shown(&key, &item, ""),
                        setting: written.name.clone(),
                        problem,
                    }));
                    said.0.insert(key.clone(), opinion(by, &key, written, setting));
                }
                Err(problem) => complaints.push(Complaint {
                    value: shown(&key, written.value, ""),
                    setting: written.name,
                    problem,
                }),
            }
        }
        (said, complaints)
    }

    /// What upstreams expect in front of connections.
    pub fn proxy_protocol(&self) -> Option<ProxyProtocol> {
        match self.0.get(&Key::ProxyProtocol)?.value {
            Setting::ProxyProtocol(version) => Some(version),
            _ => None,
        }
    }

    /// Takes what is new.
    pub fn hear(&mut self, said: &Said) -> Vec<Dissent> {
        let heard = said.0.iter().filter_map(|(key, word)| {
            let stands = self.0.entry(key.clone()).or_insert_with(|| word.clone());
            (stands.value != word.value).then(|| Dissent::of(word, stands))
        });
        heard.collect()
    }

    pub fn options(&self) -> Options {
        // The one that is on unless it is said to be off.
        let mut options = Options { compress: true, ..Options::default() };
        for (key, Opinion { value, .. }) in &self.0 {
            let wait = if let Key::Timeout(wait) = key { Some(*wait) } else { None };
            let is_request = matches!(key, Key::Field(Side::Request, ..));
            match value.clone() {
                Setting::Off => {}
                Setting::Balance(balance) => options.set_balance(balance),
                Setting::SlowStart(time) => options.slow_start = Some(time),
                Setting::Sticky(sticky) => options.sticky = Some(sticky),
                Setting::ErrorPages(name) => options.error_pages = Some(name),
                Setting::Field(change) if is_request => options.request_fields.push(change),
                Setting::Field(change) => options.response_fields.push(change),
                Setting::Allow(networks) => options.access.allow = Some(networks),
                Setting::Deny(networks) => options.access.deny = networks,
                Setting::AuthBasic(credentials) => options.basic_auth = Some(credentials),
                Setting::AuthForward(auth) => options.forward_auth = Some(auth),
                Setting::ForwardHeaders(names) => options.forward_headers = names,
                Setting::Compress(compress) => options.compress = compress,
                Setting::Priority(priority) => options.priority = priority,
                Setting::Cors(cors) => options.cors = Some(cors),
                Setting::SecurityHeaders => options.security_headers = true,
                Setting::Timeout(limit) => {
                    wait.into_iter().for_each(|wait| options.timeouts.set(wait, limit));
                }
                Setting::Drain(limit) => options.drain = Some(limit),
                Setting::MaxBody(bytes) => options.max_body = bytes,
                Setting::MaxRequests(most) => options.max_requests = Some(most),
                Setting::Queue(length) => options.queue = Some(length),
                Setting::QueueWait(wait) => options.queue_wait = Some(wait),
                Setting::ProxyProtocol(version) => options.proxy_protocol = Some(version),
                Setting::RateLimit(limit) => options.rate_limit = Some(limit),
                Setting::RedirectTo(place) => options.redirects.to = Some(place),
                Setting::RedirectHost(host) => options.redirects.host = Some(host),
                Setting::RedirectWww(www) => options.redirects.www = Some(www),
            }
        }
        options
    }
}

fn opinion(by: &str, key: &Key, written: Written<'_>, value: Setting) -> Opinion<Setting> {
    let text = shown(key, written.value, HIDDEN);
    Opinion { value, setting: written.name, text, by: by.to_owned() }
}

fn shown(key: &Key, value: &str, hidden: &str) -> String {
    if key.is_secret() { hidden.to_owned() } else { value.to_owned() }
}

fn parse(key: &Key, written: &Written<'_>) -> Result<Parsed, String> {
    let text = written.value;
    let whole = |setting| (setting, Vec::new());
    // Which are on when nothing is said, or may have it for a value.
    let has_own_off = matches!(key, Key::Compress | Key::Priority | Key::Field(..));
    if text.eq_ignore_ascii_case("off") && !has_own_off {
        return Ok(whole(Setting::Off));
    }
    match key {
        Key::Field(side, act, name) => {
            // As it was spelled.
            let name = &written.name[written.name.len() - name.len()..];
            field(*side, *act, name, text).map(whole)
        }
        Key::Balance => RouteBalance::parse(text).map(Setting::Balance).map(whole),
        Key::SlowStart => value::seconds(text).map(Setting::SlowStart).map(whole),
        Key::Sticky => Sticky::parse(text).map(Setting::Sticky).map(whole),
        Key::Allow if !written.is_label => network_access(text).map(whole),
        Key::Allow => Ok(allow(text)),
        Key::Deny => {
            let Networks { good, bad } = access::networks(text);
            Ok((Setting::Deny(good), bad))
        }
        Key::AuthBasic => Ok(auth_basic(text)),
        Key::AuthForward => Ok(auth_forward(text)),
        Key::ForwardHeaders => {
            let (good, bad) = forward_auth::copied(text);
            Ok((Setting::ForwardHeaders(good), bad))
        }
        Key::Compress => compress(text).map(whole),
        Key::ErrorPages => page_set(text).map(Setting::ErrorPages).map(whole),
        Key::Priority => Priority::of_route(text).map(Setting::Priority).map(whole),
        Key::Cors => Cors::parse(text).map(Setting::Cors).map(whole),
        Key::SecurityHeaders => switched_on(text, Setting::SecurityHeaders).map(whole),
        Key::Timeout(_) => value::span(text).map(Setting::Timeout).map(whole),
        Key::MaxRequests => value::count(text, 1).map(Setting::MaxRequests).map(whole),
        Key::Queue => value::count(text, 0).map(Setting::Queue).map(whole),
        Key::QueueWait => value::span(text).map(Setting::QueueWait).map(whole),
        Key::Drain => value::seconds(text).map(Setting::Drain).map(whole),
        Key::MaxBody => body_size(text).map(Setting::MaxBody).map(whole),
        Key::ProxyProtocol => ProxyProtocol::parse(text).map(Setting::ProxyProtocol).map(whole),
        Key::RateLimit => RateLimit::parse(text).map(Setting::RateLimit).map(whole),
        Key::RedirectTo => Fixed::parse(text).map(Setting::RedirectTo).map(whole),
        Key::RedirectHost => canonical_host(text).map(Setting::RedirectHost).map(whole),
        Key::RedirectWww => Www::parse(text).map(Setting::RedirectWww).map(whole),
    }
}

fn field(side: Side, act: FieldAct, name: &str, value: &str) -> Result<Setting, String> {
    let change = match act {
        FieldAct::Set => Change::Set(value.to_owned()),
        FieldAct::Add => Change::Add(value.to_owned()),
        FieldAct::Remove => match value::boolean(value)? {
            true => Change::Remove,
            false => return Ok(Setting::Off),
        },
    };
    FieldChange::new(side, name, change).map(Setting::Field)
}

/// An allow list of which nothing can be used lets nobody in: a slip must not open what was closed.
fn allow(text: &str) -> Parsed {
    let Networks { good, mut bad } = access::networks(text);
    if good.is_empty() {
        bad.push((text.to_owned(), "has no network in it: nobody gets in".to_owned()));
    }
    (Setting::Allow(good), bad)
}

/// As [`allow`].
fn auth_basic(text: &str) -> Parsed {
    let Credentials { good, mut bad } = label_credentials(text);
    if good.is_empty() {
        bad.push("has no line that can be used: nobody gets in".to_owned());
    }
    (Setting::AuthBasic(good), bad.into_iter().map(|problem| (String::new(), problem)).collect())
}

/// As [`allow`].
fn auth_forward(text: &str) -> Parsed {
    match ForwardAuth::parse(text) {
        Ok(auth) => (Setting::AuthForward(auth), Vec::new()),
        Err(problem) => {
            let problem = format!("{problem}: nobody gets in");
            (Setting::AuthForward(ForwardAuth::nobody()), vec![(String::new(), problem)])
        }
    }
}

fn compress(text: &str) -> Result<Setting, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" => Ok(Setting::Compress(true)),
        "off" | "false" => Ok(Setting::Compress(false)),
        _ => Err("is neither `on` nor `off`".to_owned()),
    }
}

/// `off` is known by now.
fn switched_on(text: &str, on: Setting) -> Result<Setting, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" => Ok(on),
        "false" => Ok(Setting::Off),
        _ => Err("is neither `on` nor `off`".to_owned()),
    }
}

fn network_access(text: &str) -> Result<Setting, String> {
    match text.to_ascii_lowercase().as_str() {
        "internal" => Ok(Setting::Allow(access::internal())),
        "external" => Ok(Setting::Off),
        _ => Err("is neither `internal` nor `external`".to_owned()),
    }
}

#[cfg(test)]
mod tests;
