//! What a `[[route]]` does beside forwarding: the keys are named as the labels of containers.

use super::reader::{Problem, Section};
use super::value;
use crate::protocol::options::Options;
use crate::protocol::options::fields::{Change, FieldChange, Side};

pub(super) fn route_options(section: &mut Section<'_, '_, '_>) -> Options {
    let mut options = Options::default();
    section.table("headers", |section| {
        options.response_fields = fields(section, Side::Response);
    });
    section.table("request_headers", |section| {
        options.request_fields = fields(section, Side::Request);
    });
    options
}

fn fields(section: &mut Section<'_, '_, '_>, side: Side) -> Vec<FieldChange> {
    let change = |make: fn(String) -> Change| {
        move |name: &str, value: &toml::de::DeValue<'_>| {
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
    let removed = removed.into_iter().flatten().map(toml::Spanned::into_inner);
    set.into_iter().chain(added).chain(removed).collect()
}

fn named(name: &str, problem: &str) -> Problem {
    format!("`{name}` {problem}").into()
}
