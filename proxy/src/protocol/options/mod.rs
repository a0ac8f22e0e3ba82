//! What a route does beside forwarding, and how people write it. Each is off unless somebody sets it.

pub mod access;
pub mod balance;
pub mod basic_auth;
pub mod body_size;
pub mod cors;
pub mod error_pages;
pub mod fields;
pub mod forward_auth;
pub mod priority;
pub mod proxy_protocol;
pub mod rate_limit;
pub mod redirect;
pub mod sticky;
pub mod timeouts;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use access::Access;
use balance::RouteBalance;
use basic_auth::Credential;
use cors::Cors;
use fields::FieldChange;
use forward_auth::ForwardAuth;
use priority::Priority;
use proxy_protocol::ProxyProtocol;
use rate_limit::RateLimit;
use redirect::Redirects;
use sticky::Sticky;
use timeouts::RouteTimeouts;

use super::settings::Balance;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Its answers are files beneath this directory, and it has no upstreams. Never by a label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// How its upstreams take turns; `None`: as all others.
    pub balance: Option<Balance>,
    /// In place of that: the same upstream for the same value of this field, in lower case.
    pub balance_header: Option<String>,
    /// For so long the share of an upstream that is new, or is back, grows.
    pub slow_start: Option<Duration>,
    /// Clients come back to the upstream that they began with.
    pub sticky: Option<Sticky>,
    /// The set of pages that its errors have; `None`: the usual ones.
    pub error_pages: Option<String>,
    pub access: Access,
    /// Who may come with a password; `None`: nobody is asked. An empty list lets nobody in.
    pub basic_auth: Option<Vec<Credential>>,
    /// Bytes of a request body; 0 is no limit but that of `limits.body_bytes`.
    pub max_body: u64,
    /// Requests that each upstream has at once, in one worker; `None`: as many as come.
    pub max_requests: Option<u32>,
    /// How many wait before an upstream that has as many as it may; `None`: 100.
    pub queue: Option<u32>,
    /// How long they wait; `None`: 5 s.
    pub queue_wait: Option<Duration>,
    pub timeouts: RouteTimeouts,
    /// How long what is in progress at an upstream may last once it has left; `None`: as long as it takes.
    pub drain: Option<Duration>,
    /// Upstreams are told in front of each connection whom it is for.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Who else is asked.
    pub forward_auth: Option<ForwardAuth>,
    /// Fields of its answer that go upstream.
    pub forward_headers: Vec<String>,
    pub redirects: Redirects,
    /// How often each client may ask.
    pub rate_limit: Option<RateLimit>,
    /// Bodies of responses are compressed, where the client takes that.
    pub compress: bool,
    /// How urgent its answers are, whatever others say of them. `None`: others decide.
    pub priority: Option<Priority>,
    /// Pages of which other origins may read the answers.
    pub cors: Option<Cors>,
    /// Fields that keep browsers careful, where the application says nothing of them.
    pub security_headers: bool,
    /// Header fields of requests, before they go upstream.
    pub request_fields: Vec<FieldChange>,
    /// Header fields of responses, before they go to the client.
    pub response_fields: Vec<FieldChange>,
}

impl Options {
    /// The route forwards, and nothing else.
    pub fn is_off(&self) -> bool {
        *self == Options::default()
    }

    pub fn set_balance(&mut self, balance: RouteBalance) {
        (self.balance, self.balance_header) = match balance {
            RouteBalance::Usual(balance) => (Some(balance), None),
            RouteBalance::Header(name) => (None, Some(name)),
        };
    }

    /// What is set, by the names of the labels, and no values: some are secrets.
    pub fn names(&self) -> Vec<String> {
        let redirects = &self.redirects;
        let named = [
            ("root", self.root.is_some()),
            ("balance", self.balance.is_some() || self.balance_header.is_some()),
            ("slow_start", self.slow_start.is_some()),
            ("sticky", self.sticky.is_some()),
            ("error_pages", self.error_pages.is_some()),
            ("allow", self.access.allow.is_some()),
            ("deny", !self.access.deny.is_empty()),
            ("auth.basic", self.basic_auth.is_some()),
            ("auth.forward", self.forward_auth.is_some()),
            ("compress", self.compress),
            ("priority", self.priority.is_some()),
            ("cors", self.cors.is_some()),
            ("security_headers", self.security_headers),
            ("max_body", self.max_body > 0),
            ("max_requests", self.max_requests.is_some()),
            ("proxy_protocol", self.proxy_protocol.is_some()),
            ("drain", self.drain.is_some()),
            ("rate_limit", self.rate_limit.is_some()),
            ("redirect.to", redirects.to.is_some()),
            ("redirect.host", redirects.host.is_some()),
            ("redirect.www", redirects.www.is_some()),
            ("timeout", self.timeouts != RouteTimeouts::default()),
        ];
        let set = named.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name.to_owned());
        let sides = [("headers", &self.response_fields), ("request_headers", &self.request_fields)];
        let fields = sides.into_iter().flat_map(|(side, changes)| {
            changes
                .iter()
                .map(move |field| format!("{side}.{}.{}", field.change.as_str(), field.name))
        });
        set.chain(fields).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fields::Change;

    #[test]
    fn names_and_no_values() {
        let secret = || Change::Set("hunter2".to_owned());
        let field = |name: &str| FieldChange { name: name.to_owned(), change: secret() };
        let options = Options {
            basic_auth: Some(Vec::new()),
            max_body: 1,
            response_fields: vec![field("X-A")],
            request_fields: vec![field("Authorization")],
            ..Options::default()
        };
        let want =
            ["auth.basic", "max_body", "headers.set.X-A", "request_headers.set.Authorization"];
        assert_eq!(options.names(), want);
        assert_eq!(Options::default().names(), [""; 0]);
    }
}
