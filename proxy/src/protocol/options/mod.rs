//! What a route does beside forwarding, and how people write it. Each is off unless somebody sets it.

pub mod access;
pub mod basic_auth;
pub mod body_size;
pub mod fields;
pub mod forward_auth;
pub mod rate_limit;
pub mod redirect;
pub mod timeouts;

use serde::{Deserialize, Serialize};

use access::Access;
use basic_auth::Credential;
use fields::FieldChange;
use forward_auth::ForwardAuth;
use rate_limit::RateLimit;
use redirect::Redirects;
use timeouts::RouteTimeouts;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    pub access: Access,
    /// Who may come with a password; `None`: nobody is asked. An empty list lets nobody in.
    pub basic_auth: Option<Vec<Credential>>,
    /// Bytes of a request body; 0 is no limit but that of `limits.body_bytes`.
    pub max_body: u64,
    pub timeouts: RouteTimeouts,
    /// Who else is asked.
    pub forward_auth: Option<ForwardAuth>,
    /// Fields of its answer that go upstream.
    pub forward_headers: Vec<String>,
    pub redirects: Redirects,
    /// How often each client may ask.
    pub rate_limit: Option<RateLimit>,
    /// Bodies of responses are compressed, where the client takes that.
    pub compress: bool,
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
}
