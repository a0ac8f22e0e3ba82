//! What a route does beside forwarding, and how people write it. Each is off unless somebody sets it.

pub mod access;
pub mod basic_auth;
pub mod fields;

use serde::{Deserialize, Serialize};

use access::Access;
use basic_auth::Credential;
use fields::FieldChange;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    pub access: Access,
    /// Who may come with a password; `None`: nobody is asked. An empty list lets nobody in.
    pub basic_auth: Option<Vec<Credential>>,
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
