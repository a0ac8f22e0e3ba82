//! What a route does beside forwarding, compiled. A route without any of it has none of these.

mod basic_auth;
mod client;
mod fields;
mod limiter;
mod redirect;
mod verifier;

use std::borrow::Cow;

use self::basic_auth::BasicAuth;
use self::fields::FieldChanges;
use self::redirect::redirect;
use self::verifier::Verdict;
use super::fields::Client;
use super::local::Local;
use super::message::{BodyLength, RequestHead, ResponseHead};
use super::page::Page;
use crate::protocol::options::Options;
use crate::protocol::options::access::Access;
use crate::protocol::options::rate_limit::RateLimit;
use crate::protocol::options::redirect::Redirects;
use crate::protocol::pattern::{HostPattern, PathPattern};

pub use self::client::OptionClient;
pub use self::limiter::Limiter;
pub use self::verifier::Verifier;

#[derive(Debug)]
pub struct RouteOptions {
    access: Access,
    basic_auth: Option<BasicAuth>,
    /// 0 is no limit.
    max_body: u64,
    redirects: Redirects,
    rate_limit: Option<RateLimit>,
    /// Host and path: whose tokens they are.
    place: Box<str>,
    request_fields: Option<FieldChanges>,
    response_fields: Option<FieldChanges>,
}

impl RouteOptions {
    /// `None` when there is nothing to do.
    pub fn compile(options: Options, host: &HostPattern, path: &PathPattern) -> Option<Box<Self>> {
        if options.is_off() {
            return None;
        }
        Some(Box::new(RouteOptions {
            access: options.access,
            basic_auth: options.basic_auth.map(BasicAuth::compile),
            max_body: options.max_body,
            redirects: options.redirects,
            rate_limit: options.rate_limit,
            place: format!("{host}{path}").into(),
            request_fields: FieldChanges::compile(options.request_fields),
            response_fields: FieldChanges::compile(options.response_fields),
        }))
    }

    /// Whether the route takes the request.
    ///
    /// # Errors
    /// What it is answered if not.
    pub async fn admit(
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
            let taken = local.limiter.take(&self.place, client.origin(head), limit);
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

    fn is_too_large(&self, length: u64) -> bool {
        self.max_body > 0 && length > self.max_body
    }

    /// The head that goes upstream.
    pub fn request_head<'a>(&self, head: &'a RequestHead) -> Cow<'a, RequestHead> {
        match &self.request_fields {
            None => Cow::Borrowed(head),
            Some(changes) => {
                let fields = changes.apply(&head.fields);
                Cow::Owned(RequestHead { fields, ..head.clone() })
            }
        }
    }

    /// The head that goes to the client.
    fn response_head<'a>(&self, head: &'a ResponseHead) -> Cow<'a, ResponseHead> {
        match &self.response_fields {
            None => Cow::Borrowed(head),
            Some(changes) => {
                let fields = changes.apply(&head.fields);
                Cow::Owned(ResponseHead { fields, ..head.clone() })
            }
        }
    }
}
