//! Holds docs/configuration.md to what the reader knows: keys, types and defaults are asked of the reader
//! itself, the meanings are the comments of deploy/baton.toml.
//!
//! `BATON_BLESS=1 cargo test -p baton-proxy --lib config::reference` writes it.

use std::fmt::Write as _;
use std::path::Path;

use super::reader::{Keys, Reader};
use super::tests::{EXAMPLE, uncommented};
use super::{Config, parse, sections};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");

const HEAD: &str = "\
# Configuration

Made from the reader of the configuration and the comments of [deploy/baton.toml](../deploy/baton.toml); a
test compares. `/etc/baton/baton.toml`, or what `--config` names. All of it is optional. `baton check` names
every mistake at once, with its line; `baton reload` makes a change live, or says why it does not.

Durations are `\"500ms\"`, `\"30s\"`, `\"10m\"`, `\"1h\"`, `\"1d\"`; sizes `65536`, `\"64KiB\"`, `\"1MiB\"`, `\"1GiB\"`. What is
not a default is marked: *example* shows a form, *required* has to be there wherever its section is.
";

/// No key takes one, so that each says what it does take.
const NEVER: &str = "1979-05-27";
/// No word, address, path, name, duration or size.
const NO_TEXT: &str = "\"? ?\"";

/// A section of the example, or a key of it.
#[derive(Debug, Default)]
struct Part<'a> {
    /// Empty for the top of the file.
    section: &'a str,
    prose: Vec<&'a str>,
    keys: Vec<Key<'a>>,
}

#[derive(Debug)]
struct Key<'a> {
    name: &'a str,
    value: &'a str,
    comment: Vec<&'a str>,
}

#[test]
fn the_page_on_configuration_is_what_the_reader_knows() {
    let made = document();
    if std::env::var_os("BATON_BLESS").is_some() {
        std::fs::write(DOCUMENT, &made).expect("docs/configuration.md is written");
    }
    let there = std::fs::read_to_string(DOCUMENT).unwrap_or_default();
    let differs = there.lines().zip(made.lines()).find(|(there, made)| there != made);
    assert!(
        there == made,
        "docs/configuration.md is not what it would be made to; write it by\n  BATON_BLESS=1 cargo test -p \
         baton-proxy --lib config::reference\nfirst difference: {differs:#?}"
    );
}

fn document() -> String {
    let parts = parts(EXAMPLE);
    let mut out = HEAD.to_owned();
    for part in &parts {
        put(&mut out, part);
    }
    let written = |full: &String| parts.iter().any(|part| part.has(full));
    let missing: Vec<String> = leaves().into_iter().filter(|full| !written(full)).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
    out
}

/// Every key that is no section.
fn leaves() -> Vec<String> {
    let (_, Keys { known, .. }) =
        Reader::read(&uncommented(EXAMPLE), Path::new("baton.toml"), sections::config)
            .expect("the example");
    let is_section =
        |full: &String| known.iter().any(|other| other.starts_with(&format!("{full}.")));
    let mut leaves: Vec<String> = known.iter().filter(|full| !is_section(full)).cloned().collect();
    leaves.sort();
    leaves.dedup();
    leaves
}

/// The example, read as people do; a paragraph that belongs to no key and no section is left out.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = vec![Part::default()];
    let mut comment = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix('#') else {
            comment.clear();
            continue;
        };
        if rest.is_empty() || rest.starts_with(' ') {
            comment.push(rest.trim());
        } else if rest.starts_with('[') {
            let section = rest.trim_matches(['[', ']']);
            let part = part_of(&mut parts, section);
            part.prose.append(&mut comment);
        } else {
            let (name, value) = rest.split_once(" = ").expect("a key and its value");
            let part = parts.last_mut().expect("the top at least");
            match part.keys.iter().any(|key| key.name == name) {
                true => comment.clear(),
                false => part.keys.push(Key { name, value, comment: std::mem::take(&mut comment) }),
            }
        }
    }
    parts
}

/// The last one from now on; a section that is shown twice is one.
fn part_of<'p, 'a>(parts: &'p mut Vec<Part<'a>>, section: &'a str) -> &'p mut Part<'a> {
    match parts.iter().position(|part| part.section == section) {
        Some(index) => {
            let part = parts.remove(index);
            parts.push(part);
        }
        None => parts.push(Part { section, ..Part::default() }),
    }
    parts.last_mut().expect("it was pushed")
}

fn put(out: &mut String, part: &Part<'_>) {
    let title = match part.section {
        "" => "The top of the file".to_owned(),
        section if part.is_list() => format!("`[[{section}]]`"),
        section => format!("`[{section}]`"),
    };
    let _ = writeln!(out, "\n## {title}\n");
    if !part.prose.is_empty() {
        let _ = writeln!(out, "{}\n", part.prose.join(" "));
    }
    out.push_str("| key | takes | default | what it does |\n| --- | --- | --- | --- |\n");
    let mut before = "";
    for key in &part.keys {
        let meaning = match key.comment.is_empty() {
            true => format!("as `{before}` says"),
            false => {
                before = key.name;
                key.comment.join(" ")
            }
        };
        let (name, takes, default) = (code(key.name), prose(&takes(part, key)), default(part, key));
        let _ = writeln!(out, "| {name} | {takes} | {default} | {} |", prose(&meaning));
    }
}

/// In a cell of a table.
fn prose(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*")
}

/// The same, where nothing but the end of the cell means something.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

impl Part<'_> {
    fn is_list(&self) -> bool {
        EXAMPLE.contains(&format!("#[[{}]]", self.section))
    }

    fn full(&self, key: &str) -> String {
        match self.section {
            "" => key.to_owned(),
            section => format!("{section}.{key}"),
        }
    }

    fn has(&self, full: &str) -> bool {
        self.keys.iter().any(|key| self.full(key.name) == full)
    }

    /// A document with nothing but this key, and what its section cannot be without.
    fn with(&self, key: &str, value: &str) -> String {
        let header = match (self.section, self.is_list()) {
            ("", _) => String::new(),
            (section, true) => format!("[[{section}]]\n"),
            (section, false) => format!("[{section}]\n"),
        };
        let needed: &[(&str, &str)] = match self.section {
            "route" if key == "root" => &[("host", "\"a.test\"")],
            "route" => &[("host", "\"a.test\""), ("upstreams", "[\"127.0.0.1:1\"]")],
            _ => &[],
        };
        let others = needed.iter().filter(|(name, _)| *name != key);
        let others: String = others.map(|(name, value)| format!("{name} = {value}\n")).collect();
        let own = if key.is_empty() { String::new() } else { format!("{key} = {value}\n") };
        header + &others + &own
    }

    /// What the reader says against this value of the key; empty: nothing.
    fn refusal(&self, key: &str, value: &str) -> String {
        let full = self.full(key);
        let Err(mistakes) = parse(&self.with(key, value), Path::new("baton.toml")) else {
            return String::new();
        };
        let own = mistakes.iter().find(|mistake| mistake.key == full);
        own.map(|mistake| mistake.problem.clone()).unwrap_or_default()
    }
}

/// In the reader's own words.
fn takes(part: &Part<'_>, key: &Key<'_>) -> String {
    let refusal = part.refusal(key.name, NEVER);
    let expected = refusal.strip_prefix("expected ").unwrap_or(&refusal);
    match expected.split(", found").next().unwrap_or_default() {
        "a string" => text_form(part, key, NO_TEXT, "text"),
        "a whole number" => number_form(part, key),
        "a list" => match part.refusal(key.name, &format!("[{NEVER}]")).contains("string") {
            true => format!("a list: {}", text_form(part, key, &format!("[{NO_TEXT}]"), "text")),
            false => "a list".to_owned(),
        },
        form if form.starts_with("a duration") => "a duration".to_owned(),
        form if form.starts_with("a size") => size_form(part, key),
        other => other.to_owned(),
    }
}

fn text_form(part: &Part<'_>, key: &Key<'_>, wrong: &str, otherwise: &str) -> String {
    let refusal = part.refusal(key.name, wrong);
    let said = refusal.split_once("? ?` is ").map_or(otherwise, |(_, form)| form);
    let form = said.trim_start_matches("not ");
    let form = match form.strip_prefix("neither ") {
        Some(either) => either.replacen(" nor ", " or ", 1),
        None => form.replace(" and has no $variable", " or text with $variables"),
    };
    // What letters a name has is for those who have mistyped one.
    form.split(": expected letters").next().unwrap_or_default().to_owned()
}

fn number_form(part: &Part<'_>, key: &Key<'_>) -> String {
    match range(part, key) {
        Some(range) => format!("a number, {range}"),
        None => "a number".to_owned(),
    }
}

fn size_form(part: &Part<'_>, key: &Key<'_>) -> String {
    match range(part, key) {
        Some(range) => format!("a size, {range} bytes"),
        None => "a size".to_owned(),
    }
}

fn range(part: &Part<'_>, key: &Key<'_>) -> Option<String> {
    let refusal = part.refusal(key.name, &i64::MAX.to_string());
    refusal.split_once("out of range: ").map(|(_, range)| range.to_owned())
}

fn default(part: &Part<'_>, key: &Key<'_>) -> String {
    let absent = part.with("", "");
    let full = part.full(key.name);
    let needed =
        match parse(&absent.replace(&format!("{} =", key.name), "#"), Path::new("baton.toml")) {
            Ok(_) => false,
            Err(mistakes) => {
                mistakes.iter().any(|mistake| mistake.key == full && mistake.problem == "missing")
            }
        };
    if needed {
        let but = if full == "route.upstreams" { ", but beside `root`" } else { "" };
        return format!("*required*{but}");
    }
    match is_default(part, key, &absent) {
        true => code(key.value),
        false => format!("*example:* {}", code(key.value)),
    }
}

fn is_default(part: &Part<'_>, key: &Key<'_>, absent: &str) -> bool {
    // What depends on the machine is said in words.
    if key.comment.iter().any(|line| line.contains("An example")) {
        return false;
    }
    let file = Path::new("baton.toml");
    let without = parse(absent, file).unwrap_or_else(|_| Config::default());
    let read = parse(&part.with(key.name, key.value), file);
    // A key that means something beside another one alone is empty in the example: as if absent.
    read.map_or(key.value == "\"\"", |read| {
        Config { access_log_is_set: without.access_log_is_set, ..read } == without
    })
}
