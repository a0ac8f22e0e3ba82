//! What containers say that a route shall do beside forwarding.

mod key;

use std::collections::BTreeMap;

use self::key::FieldAct;
pub(super) use self::key::{Key, LABELS};
use super::opinion::{Dissent, Opinion};
use super::settings::{Router, Written};
use super::value;
use crate::protocol::options::Options;
use crate::protocol::options::fields::{Change, FieldChange, Side};

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
    Field(FieldChange),
}

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
                Ok(setting) => {
                    drop(said.0.insert(key.clone(), opinion(by, &key, written, setting)))
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

    /// Takes what is new.
    pub fn hear(&mut self, said: &Said) -> Vec<Dissent> {
        let heard = said.0.iter().filter_map(|(key, word)| {
            let stands = self.0.entry(key.clone()).or_insert_with(|| word.clone());
            (stands.value != word.value).then(|| Dissent::of(word, stands))
        });
        heard.collect()
    }

    pub fn options(&self) -> Options {
        let mut options = Options::default();
        for (key, Opinion { value, .. }) in &self.0 {
            match (key, value.clone()) {
                (_, Setting::Off) => {}
                (Key::Field(Side::Request, ..), Setting::Field(change)) => {
                    options.request_fields.push(change);
                }
                (Key::Field(Side::Response, ..), Setting::Field(change)) => {
                    options.response_fields.push(change);
                }
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

fn parse(key: &Key, written: &Written<'_>) -> Result<Setting, String> {
    match key {
        Key::Field(side, act, name) => {
            // As it was spelled.
            let name = &written.name[written.name.len() - name.len()..];
            field(*side, *act, name, written.value)
        }
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

#[cfg(test)]
mod tests;
