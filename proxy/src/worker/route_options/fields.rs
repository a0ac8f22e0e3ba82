//! Changes of header fields, applied to a head: what is taken away goes first, then what is set, then
//! what is added.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::protocol::options::fields::{Change, FieldChange};
use crate::worker::fields::{connection_options, is_named};
use crate::worker::message::{FieldRange, Fields, RawFields};

#[derive(Debug)]
pub struct FieldChanges {
    /// Names whose values go, whatever their case.
    gone: Vec<Box<[u8]>>,
    new: Vec<(HeaderName, Box<[u8]>, HeaderValue)>,
}

impl FieldChanges {
    /// `None` when there are none. The controller has checked them.
    pub fn compile(changes: Vec<FieldChange>) -> Option<Self> {
        let mut compiled = FieldChanges { gone: Vec::new(), new: Vec::new() };
        let (added, others): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| matches!(change.change, Change::Add(_)));
        for FieldChange { name, change } in others.into_iter().chain(added) {
            if !matches!(change, Change::Add(_)) {
                compiled.gone.push(name.as_bytes().into());
            }
            if let Change::Set(value) | Change::Add(value) = change {
                compiled.put(&name, &value);
            }
        }
        (!(compiled.gone.is_empty() && compiled.new.is_empty())).then_some(compiled)
    }

    /// One field more.
    pub fn adding(name: HeaderName, value: HeaderValue) -> Self {
        let spelled = name.as_str().as_bytes().into();
        FieldChanges { gone: Vec::new(), new: vec![(name, spelled, value)] }
    }

    /// Values of these fields as they are there; a request has them from nowhere else.
    pub fn copied(names: &[String], from: &Fields) -> Option<Self> {
        let mut copied = FieldChanges { gone: Vec::new(), new: Vec::new() };
        for name in names {
            copied.gone.push(name.as_bytes().into());
            let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else { continue };
            for value in from.all(parsed.as_str()) {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    copied.new.push((parsed.clone(), name.as_bytes().into(), value));
                }
            }
        }
        (!names.is_empty()).then_some(copied)
    }

    fn put(&mut self, name: &str, value: &str) {
        if let (Ok(parsed), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            self.new.push((parsed, name.as_bytes().into(), value));
        }
    }

    /// The fields with the changes. `Connection`, and what it names, has gone from them: a client
    /// could name there what is set here.
    pub fn apply(&self, fields: &Fields) -> Fields {
        let named = connection_options(fields);
        let stays = |name: &[u8]| {
            !(name.eq_ignore_ascii_case(b"connection")
                || is_named(&named, name)
                || self.gone.iter().any(|gone| is_same(gone, name)))
        };
        match fields {
            Fields::Raw(raw) => Fields::Raw(self.apply_raw(raw, stays)),
            Fields::Map(map) => Fields::Map(self.apply_map(map, stays)),
        }
    }

    fn apply_raw(&self, raw: &RawFields, stays: impl Fn(&[u8]) -> bool) -> RawFields {
        let mut bytes = BytesMut::from(raw.bytes.as_ref());
        let kept = raw.ranges.iter().zip(raw.iter()).filter(|(_, (name, _))| stays(name));
        let mut ranges: Vec<FieldRange> = kept.map(|(range, _)| *range).collect();
        let mut append = |text: &[u8]| {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(text);
            (start, bytes.len() as u32)
        };
        for (_, name, value) in &self.new {
            ranges.push(FieldRange { name: append(name), value: append(value.as_bytes()) });
        }
        RawFields { bytes: bytes.freeze(), ranges }
    }

    fn apply_map(&self, map: &HeaderMap, stays: impl Fn(&[u8]) -> bool) -> HeaderMap {
        let kept = map.iter().filter(|(name, _)| stays(name.as_str().as_bytes()));
        let new = self.new.iter().map(|(name, _, value)| (name, value));
        kept.chain(new).map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// CGI and its heirs read `X_User` and `X-User` as one name: a client must not be able to say with one
/// of them what the route says with the other.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let folded = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    one.len() == other.len() && one.iter().map(folded).eq(other.iter().map(folded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::http1::head::{HeadLimits, take_request};

    const CAME: &[(&str, &str)] = &[
        ("Connection", "close, X-User"),
        ("X-User", "mallory"),
        ("x_user", "mallory"),
        ("Accept", "a"),
        ("accept", "b"),
    ];

    fn raw() -> Fields {
        let lines: String =
            CAME.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let limits = HeadLimits { bytes: 4096, fields: 32 };
        let parsed = take_request(&mut BytesMut::from(text.as_str()), limits);
        parsed.expect("parses").expect("whole").head.fields
    }

    fn map() -> Fields {
        let mut map = HeaderMap::new();
        for (name, value) in CAME {
            map.append(*name, HeaderValue::from_static(value));
        }
        Fields::Map(map)
    }

    fn lines(fields: &Fields) -> Vec<String> {
        let mut lines = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).to_ascii_lowercase();
        fields.for_each(|name, value| lines.push(format!("{}: {}", text(name), text(value))));
        lines.retain(|line| line != "host: a");
        lines.sort();
        lines
    }

    #[test]
    fn changes_hold_whatever_the_other_side_says() {
        let change = |name: &str, change| FieldChange { name: name.to_owned(), change };
        let value = |text: &str| text.to_owned();
        for (changes, want) in [
            (
                vec![change("X-User", Change::Set(value("alice")))],
                vec!["accept: a", "accept: b", "x-user: alice"],
            ),
            (vec![change("ACCEPT", Change::Remove)], vec!["x_user: mallory"]),
            (
                vec![change("Accept", Change::Add(value("c")))],
                vec!["accept: a", "accept: b", "accept: c", "x_user: mallory"],
            ),
            (
                vec![
                    change("Accept", Change::Add(value("d"))),
                    change("accept", Change::Set(value("c"))),
                    change("X-User", Change::Remove),
                ],
                vec!["accept: c", "accept: d"],
            ),
        ] {
            let compiled = FieldChanges::compile(changes.clone()).expect("there are some");
            for fields in [raw(), map()] {
                assert_eq!(lines(&compiled.apply(&fields)), want, "{changes:?}");
            }
        }
        assert!(FieldChanges::compile(Vec::new()).is_none());
    }
}
