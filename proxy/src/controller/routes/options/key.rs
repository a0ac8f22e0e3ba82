//! The options of a route by the labels that set them.

use crate::protocol::options::fields::Side;
use crate::protocol::options::timeouts::Wait;

/// One setting: of two containers, one stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::controller::routes) enum Key {
    /// With the name of the field in lower case.
    Field(Side, FieldAct, String),
    Balance,
    SlowStart,
    Sticky,
    Allow,
    Deny,
    Drain,
    AuthBasic,
    AuthForward,
    ForwardHeaders,
    Compress,
    Priority,
    Cors,
    ErrorPages,
    SecurityHeaders,
    MaxBody,
    MaxRequests,
    Queue,
    QueueWait,
    Timeout(Wait),
    ProxyProtocol,
    RateLimit,
    RedirectTo,
    RedirectHost,
    RedirectWww,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::controller::routes) enum FieldAct {
    Set,
    Add,
    Remove,
}

/// Before the name of a field.
const FIELDS: [(&str, Side, FieldAct); 6] = [
    ("headers.set.", Side::Response, FieldAct::Set),
    ("headers.add.", Side::Response, FieldAct::Add),
    ("headers.remove.", Side::Response, FieldAct::Remove),
    ("request_headers.set.", Side::Request, FieldAct::Set),
    ("request_headers.add.", Side::Request, FieldAct::Add),
    ("request_headers.remove.", Side::Request, FieldAct::Remove),
];

const PLAIN: [(&str, Key); 29] = [
    ("balance", Key::Balance),
    ("slow_start", Key::SlowStart),
    ("sticky", Key::Sticky),
    ("allow", Key::Allow),
    ("deny", Key::Deny),
    ("drain", Key::Drain),
    ("auth.basic", Key::AuthBasic),
    ("auth.forward", Key::AuthForward),
    ("auth.forward_headers", Key::ForwardHeaders),
    ("compress", Key::Compress),
    ("priority", Key::Priority),
    ("cors", Key::Cors),
    ("error_pages", Key::ErrorPages),
    ("security_headers", Key::SecurityHeaders),
    ("max_body", Key::MaxBody),
    ("max_requests", Key::MaxRequests),
    ("queue", Key::Queue),
    ("queue_wait", Key::QueueWait),
    ("proxy_protocol", Key::ProxyProtocol),
    ("rate_limit", Key::RateLimit),
    ("timeout.connect", Key::Timeout(Wait::Connect)),
    ("timeout.tunnel_idle", Key::Timeout(Wait::TunnelIdle)),
    ("timeout.body_idle", Key::Timeout(Wait::BodyIdle)),
    ("timeout.send_idle", Key::Timeout(Wait::SendIdle)),
    ("timeout.response_head", Key::Timeout(Wait::ResponseHead)),
    ("timeout.response_idle", Key::Timeout(Wait::ResponseIdle)),
    ("redirect.to", Key::RedirectTo),
    ("redirect.host", Key::RedirectHost),
    ("redirect.www", Key::RedirectWww),
];

/// nginx-proxy's variables.
pub(in crate::controller::routes) const VARIABLES: [(&str, Key); 1] =
    [("NETWORK_ACCESS", Key::Allow)];

/// nginx-proxy's labels.
pub(in crate::controller::routes) const FOREIGN: [(&str, Key); 1] = [("loadbalance", Key::Balance)];

/// For the nearest one to a label that is not known; a last part of `*` is any name.
pub(in crate::controller::routes) const LABELS: [&str; 35] = [
    "balance",
    "slow_start",
    "sticky",
    "allow",
    "deny",
    "drain",
    "auth.basic",
    "auth.forward",
    "auth.forward_headers",
    "compress",
    "priority",
    "cors",
    "error_pages",
    "security_headers",
    "max_body",
    "max_requests",
    "queue",
    "queue_wait",
    "proxy_protocol",
    "rate_limit",
    "timeout.connect",
    "timeout.tunnel_idle",
    "timeout.body_idle",
    "timeout.send_idle",
    "timeout.response_head",
    "timeout.response_idle",
    "redirect.to",
    "redirect.host",
    "redirect.www",
    "headers.set.*",
    "headers.add.*",
    "headers.remove.*",
    "request_headers.set.*",
    "request_headers.add.*",
    "request_headers.remove.*",
];

impl Key {
    /// By the label, after `baton.` or `baton.NAME.`.
    pub fn of(label: &str) -> Option<Self> {
        if let Some((_, key)) = PLAIN.iter().find(|(plain, _)| *plain == label) {
            return Some(key.clone());
        }
        FIELDS.iter().find_map(|(prefix, side, act)| {
            let name = label.strip_prefix(prefix).filter(|name| !name.is_empty())?;
            Some(Key::Field(*side, *act, name.to_ascii_lowercase()))
        })
    }

    /// What stands behind it may be a secret, and is shown to nobody.
    pub fn is_secret(&self) -> bool {
        matches!(self, Key::Field(..) | Key::AuthBasic | Key::AuthForward)
    }
}
