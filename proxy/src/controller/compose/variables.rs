//! Files of variables: `.env` beside a compose file, and what `env_file` names.

use std::collections::BTreeMap;

use super::interpolation::{Filled, Lookup, fill};

/// Of all values of a file; those that hold one another could grow without end.
const MAX_TOTAL: usize = 4 * 1024 * 1024;

/// Names and values, the last one of a name. A name without a value has that of `outer`. A value may
/// hold names of those above it and of `outer`, whose word counts more; one in single quotes is as it
/// is written. What is no assignment is skipped.
pub(super) fn parse(text: &str, outer: Lookup<'_>) -> BTreeMap<String, Filled> {
    let mut found: BTreeMap<String, Filled> = BTreeMap::new();
    let plain = |text: String| Filled { text, gaps: Vec::new() };
    let mut total = 0;
    let mut rest = text.trim_start_matches('\u{feff}');
    while !rest.is_empty() && total <= MAX_TOTAL {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let Some((name, at)) = name(line) else {
            rest = after;
            continue;
        };
        let Some(at) = at else {
            found.extend(outer(name).map(|value| (name.to_owned(), plain(value))));
            rest = after;
            continue;
        };
        let (value, left) = value(&rest[at..]);
        let known = |name: &str| outer(name).or_else(|| Some(found.get(name)?.text.clone()));
        let value = match value {
            Value::Literal(text) => plain(text.to_owned()),
            Value::Filled(text) => fill(&text, &known),
        };
        total += value.text.len();
        found.insert(name.to_owned(), value);
        rest = left;
    }
    found
}

enum Value<'t> {
    Literal(&'t str),
    Filled(String),
}

/// The name of a line, and where its value begins.
fn name(line: &str) -> Option<(&str, Option<usize>)> {
    let trimmed = line.trim_start();
    let begin = trimmed.strip_prefix("export ").map_or(trimmed, str::trim_start);
    if begin.starts_with('#') {
        return None;
    }
    let end = begin.find('=');
    let name = begin[..end.unwrap_or(begin.len())].trim();
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if name.is_empty() || !name.chars().all(is_name) {
        return None;
    }
    Some((name, end.map(|end| line.len() - begin.len() + end + 1)))
}

/// The value at the begin of `text`, and what follows its line. In quotes it may have several lines.
fn value(text: &str) -> (Value<'_>, &str) {
    let begin = text.trim_start_matches([' ', '\t']);
    let quoted = begin.chars().next().filter(|first| matches!(first, '\'' | '"'));
    if let Some((quote, end)) = quoted.and_then(|quote| Some((quote, closing(begin, quote)?))) {
        let inside = &begin[1..end];
        let left = begin[end..].split_once('\n').map_or("", |(_, left)| left);
        return match quote {
            '\'' => (Value::Literal(inside), left),
            _ => (Value::Filled(unescaped(inside)), left),
        };
    }
    let (line, left) = text.split_once('\n').unwrap_or((text, ""));
    let without_comment = match line.trim_start().starts_with('#') {
        true => "",
        false => line.split_once(" #").map_or(line, |(value, _)| value),
    };
    (Value::Filled(without_comment.trim().to_owned()), left)
}

fn closing(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            _ if character == quote => return Some(at),
            _ => {}
        }
    }
    None
}

fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, character == '\\') {
            (_, false) => plain.push(character),
            (_, true) => match characters.next() {
                Some('n') => plain.push('\n'),
                Some('r') => plain.push('\r'),
                Some('t') => plain.push('\t'),
                // As interpolation writes it.
                Some('$') => plain.push_str("$$"),
                Some(other @ ('"' | '\\')) => plain.push(other),
                Some(other) => plain.extend(['\\', other]),
                None => plain.push('\\'),
            },
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::super::interpolation::Gap;
    use super::*;

    #[test]
    fn values_are_read_as_docker_compose_does() {
        let outer = |name: &str| (name == "OUTER").then(|| "out".to_owned());
        for (text, want) in [
            ("A=1", &[("A", "1")][..]),
            ("A=1\r\nB=2\r\n", &[("A", "1"), ("B", "2")]),
            ("\u{feff}A=1", &[("A", "1")]),
            ("# A=1\n\nB = 2 # two\n", &[("B", "2")]),
            ("export A=1", &[("A", "1")]),
            ("A=", &[("A", "")]),
            ("A= # nothing", &[("A", "")]),
            ("A=a#b", &[("A", "a#b")]),
            ("A='a $B # c'", &[("A", "a $B # c")]),
            ("A=\"a\\n\\\"b\\\"\" # c\nB=2", &[("A", "a\n\"b\""), ("B", "2")]),
            ("A=\"one\ntwo\"\nB=2", &[("A", "one\ntwo"), ("B", "2")]),
            ("A=\"open\nB=2", &[("A", "\"open"), ("B", "2")]),
            ("A=x\nB=${A}y\nC=$OUTER", &[("A", "x"), ("B", "xy"), ("C", "out")]),
            ("A=\"\\$A\"", &[("A", "$A")]),
            ("A=1\nA=2", &[("A", "2")]),
            ("OUTER\nNOBODY\nnot a name\n=x\n", &[("OUTER", "out")]),
        ] {
            let want: BTreeMap<String, String> =
                want.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            let found = parse(text, &outer);
            assert!(found.values().all(|value| value.gaps.is_empty()), "{text:?}");
            let found: BTreeMap<String, String> =
                found.into_iter().map(|(name, value)| (name, value.text)).collect();
            assert_eq!(found, want, "{text:?}");
        }
    }

    #[test]
    fn what_a_value_misses_is_kept_beside_it() {
        let found = parse("A=x$B\nC='$B'", &|_| None);
        let gap = Gap::Unset { name: "B".to_owned() };
        assert_eq!(found["A"], Filled { text: "x".to_owned(), gaps: vec![gap] });
        assert_eq!(found["C"], Filled { text: "$B".to_owned(), gaps: Vec::new() });
    }

    #[test]
    fn values_that_hold_one_another_do_not_grow_without_end() {
        let mut text = "V0=xxxxxxxxxxxxxxxx\n".to_owned();
        for level in 1..60 {
            text.push_str(&format!("V{level}=$V{0}$V{0}\n", level - 1));
        }
        assert!(parse(&text, &|_| None).values().all(|value| value.text.len() < 256 * 1024));
    }
}
