//! What a `[[route]]` does beside forwarding: the keys are named as the labels of containers.

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::reader::{Problem, Section};
use super::value;
use crate::protocol::options::Options;
use crate::protocol::options::balance::RouteBalance;
use crate::protocol::options::basic_auth::Credential;
use crate::protocol::options::body_size::body_size;
use crate::protocol::options::cors::Cors;
use crate::protocol::options::error_pages::page_set;
use crate::protocol::options::fields::{Change, FieldChange, Side, check_name};
use crate::protocol::options::forward_auth::ForwardAuth;
use crate::protocol::options::priority::Priority;
use crate::protocol::options::proxy_protocol::ProxyProtocol;
use crate::protocol::options::rate_limit::RateLimit;
use crate::protocol::options::redirect::{Fixed, Www, canonical_host};
use crate::protocol::options::sticky::Sticky;

pub(super) fn route_options(section: &mut Section<'_, '_, '_>) -> Options {
    let mut options = Options { compress: true, ..Options::default() };
    let balance = section.optional("balance", said(RouteBalance::parse));
    balance.into_iter().for_each(|balance| options.set_balance(balance));
    options.slow_start = section.optional("slow_start", value::duration);
    options.sticky = section.optional("sticky", said(Sticky::parse));
    options.error_pages = section.optional("error_pages", said(page_set));
    section.read("compress", &mut options.compress, value::boolean);
    options.access.allow = networks(section, "allow");
    options.access.deny = networks(section, "deny").unwrap_or_default();
    options.rate_limit = section.optional("rate_limit", said(RateLimit::parse));
    options.priority = section.optional("priority", said(Priority::of_route)).flatten();
    options.cors = section.optional("cors", said(Cors::parse));
    section.read("security_headers", &mut options.security_headers, value::boolean);
    section.read("max_body", &mut options.max_body, max_body);
    options.max_requests = section.optional("max_requests", value::number(1..=1_000_000));
    options.queue = section.optional("queue", value::number(0..=1_000_000));
    options.queue_wait = section.optional("queue_wait", value::duration);
    options.drain = section.optional("drain", value::duration);
    options.proxy_protocol = section.optional("proxy_protocol", said(ProxyProtocol::parse));
    section.table("timeout", |section| {
        let timeouts = &mut options.timeouts;
        timeouts.connect = section.optional("connect", value::duration);
        timeouts.tunnel_idle = section.optional("tunnel_idle", value::duration);
        timeouts.body_idle = section.optional("body_idle", value::duration);
        timeouts.send_idle = section.optional("send_idle", value::duration);
        timeouts.response_head = section.optional("response_head", value::duration);
        timeouts.response_idle = section.optional("response_idle", value::duration);
    });
    section.table("redirect", |section| {
        let redirects = &mut options.redirects;
        redirects.to = section.optional("to", said(Fixed::parse));
        redirects.host = section.optional("host", said(canonical_host));
        redirects.www = section.optional("www", said(Www::parse));
    });
    section.table("auth", |section| {
        options.basic_auth = section.list("basic", credential).map(inner);
        options.forward_auth = section.optional("forward", said(ForwardAuth::parse));
        let names = section.list("forward_headers", |value| {
            let name = value::text(value)?;
            check_name(Side::Request, name).map_err(|problem| named(name, &problem))?;
            Ok(name.to_owned())
        });
        options.forward_headers = names.map(inner).unwrap_or_default();
    });
    section.table("headers", |section| {
        options.response_fields = fields(section, Side::Response);
    });
    section.table("request_headers", |section| {
        options.request_fields = fields(section, Side::Request);
    });
    options
}

fn networks(section: &mut Section<'_, '_, '_>, key: &'static str) -> Option<Vec<IpNet>> {
    let networks = section.list(key, value::network)?;
    Some(inner(networks))
}

/// As in a label.
pub(super) fn said<T>(
    parse: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&DeValue<'_>) -> Result<T, Problem> {
    move |value| {
        let text = value::text(value)?;
        parse(text).map_err(|problem| format!("`{text}` {problem}").into())
    }
}

/// A number of bytes, or as in a label.
fn max_body(value: &DeValue<'_>) -> Result<u64, Problem> {
    match value {
        DeValue::Integer(_) => value::size(0..=u64::MAX)(value),
        _ => said(body_size)(value),
    }
}

/// Without a word of the line: it holds a hash, or worse.
fn credential(value: &DeValue<'_>) -> Result<Credential, Problem> {
    let line = value::text(value)?;
    Credential::parse(line).map_err(|problem| format!("a line that {problem}").into())
}

fn inner<T>(list: Vec<Spanned<T>>) -> Vec<T> {
    list.into_iter().map(Spanned::into_inner).collect()
}

fn fields(section: &mut Section<'_, '_, '_>, side: Side) -> Vec<FieldChange> {
    let change = |make: fn(String) -> Change| {
        move |name: &str, value: &DeValue<'_>| {
            let value = value::text(value)?.to_owned();
            FieldChange::new(side, name, make(value)).map_err(|problem| named(name, &problem))
        }
    };
    let set = section.map("set", change(Change::Set));
    let added = section.map("add", change(Change::Add));
    let removed = section.list("remove", |value| {
        let name = value::text(value)?;
        FieldChange::new(side, name, Change::Remove).map_err(|problem| named(name, &problem))
    });
    let removed = removed.map(inner).unwrap_or_default();
    set.into_iter().chain(added).chain(removed).collect()
}

fn named(name: &str, problem: &str) -> Problem {
    format!("`{name}` {problem}").into()
}
