//! `$NAME` and `${NAME}` in the values of a compose file, as `docker compose` replaces them.

use std::fmt;

/// Longer than any value that somebody writes; values that hold one another could grow without end.
const MAX_FILLED: usize = 64 * 1024;
/// `${A:-${B:-c}}` is two.
const MAX_DEPTH: usize = 16;

/// Where the value of a name is found.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A text with its names replaced, and what could not be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Filled {
    pub text: String,
    pub gaps: Vec<Gap>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Gap {
    Unset {
        name: String,
    },
    /// `${NAME:?why}`
    Required {
        name: String,
        why: String,
    },
    Malformed,
    TooLong,
}

impl Gap {
    /// With what was to be replaced.
    pub fn in_words(&self) -> String {
        format!("{} {self}", self.shown()).trim_start().to_owned()
    }

    /// What was to be replaced; empty where that cannot be told from a value that may be a secret.
    pub fn shown(&self) -> String {
        match self {
            Gap::Unset { name } | Gap::Required { name, .. } => format!("${{{name}}}"),
            Gap::Malformed | Gap::TooLong => String::new(),
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gap::Unset { name } => {
                write!(f, "is set neither in the environment nor in .env: {name} is empty")
            }
            Gap::Required { name, why } if why.is_empty() => {
                write!(f, "docker compose refuses the file: {name} is not set")
            }
            Gap::Required { name, why } => {
                write!(f, "docker compose refuses the file: {name} is not set: {why}")
            }
            Gap::Malformed => {
                f.write_str("has a `$` that begins the name of no variable: write `$$` for a `$`")
            }
            Gap::TooLong => write!(f, "is longer than {MAX_FILLED} bytes"),
        }
    }
}

pub(super) fn fill(text: &str, lookup: Lookup<'_>) -> Filled {
    let mut filler = Filler { lookup, gaps: Vec::new() };
    let text = filler.text(text, 0);
    Filled { text, gaps: filler.gaps }
}

struct Filler<'a> {
    lookup: Lookup<'a>,
    gaps: Vec<Gap>,
}

impl Filler<'_> {
    fn text(&mut self, text: &str, depth: usize) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            filled.push_str(before);
            let (value, left) = self.one(after, depth);
            filled.push_str(&value);
            rest = left;
            if filled.len() > MAX_FILLED {
                self.gap(Gap::TooLong);
                return String::new();
            }
        }
        filled.push_str(rest);
        filled
    }

    /// What stands in place of one `$` and what belongs to it, and the text behind that.
    fn one<'t>(&mut self, after: &'t str, depth: usize) -> (String, &'t str) {
        if let Some(left) = after.strip_prefix('$') {
            return ("$".to_owned(), left);
        }
        if let Some(inside) = after.strip_prefix('{') {
            let Some(end) = closing(inside).filter(|_| depth < MAX_DEPTH) else {
                self.gap(Gap::Malformed);
                return (String::new(), "");
            };
            return (self.braced(&inside[..end], depth), &inside[end + 1..]);
        }
        let (name, left) = split_name(after);
        if name.is_empty() {
            self.gap(Gap::Malformed);
            return ("$".to_owned(), left);
        }
        (self.plain(name), left)
    }

    fn braced(&mut self, inside: &str, depth: usize) -> String {
        let (name, operation) = split_name(inside);
        let value = (self.lookup)(name);
        // With a colon, what is empty is as good as not set.
        let (operation, value) = match operation.strip_prefix(':') {
            Some(operation) => (operation, value.filter(|value| !value.is_empty())),
            None => (operation, value),
        };
        let mut operation = operation.chars();
        let operator = operation.next();
        let word = operation.as_str();
        match (operator, value) {
            _ if name.is_empty() => {
                self.gap(Gap::Malformed);
                String::new()
            }
            (None, _) if inside.ends_with(':') => {
                self.gap(Gap::Malformed);
                String::new()
            }
            (None, _) => self.plain(name),
            (Some('-' | '?'), Some(value)) => value,
            (Some('-'), None) => self.text(word, depth + 1),
            (Some('?'), None) => {
                let why = self.text(word, depth + 1);
                self.gap(Gap::Required { name: name.to_owned(), why });
                String::new()
            }
            (Some('+'), Some(_)) => self.text(word, depth + 1),
            (Some('+'), None) => String::new(),
            (Some(_), _) => {
                self.gap(Gap::Malformed);
                String::new()
            }
        }
    }

    fn plain(&mut self, name: &str) -> String {
        (self.lookup)(name).unwrap_or_else(|| {
            self.gap(Gap::Unset { name: name.to_owned() });
            String::new()
        })
    }

    fn gap(&mut self, gap: Gap) {
        if !self.gaps.contains(&gap) {
            self.gaps.push(gap);
        }
    }
}

fn split_name(text: &str) -> (&str, &str) {
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        return ("", text);
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    text.split_at(end.unwrap_or(text.len()))
}

/// Where the brace closes that was open before `inside`.
fn closing(inside: &str) -> Option<usize> {
    let mut open = 1_usize;
    let bytes = inside.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'{' if at > 0 && bytes[at - 1] == b'$' => open += 1,
            b'}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            "LONG" => Some("x".repeat(MAX_FILLED / 2)),
            _ => None,
        }
    }

    #[test]
    fn names_are_replaced_as_docker_compose_does() {
        for (text, want) in [
            ("plain", "plain"),
            ("", ""),
            ("$A", "a"),
            ("${A}.test", "a.test"),
            ("x-$A-$A.", "x-a-a."),
            ("$$A", "$A"),
            ("$${A}", "${A}"),
            ("~^a\\.test$$", "~^a\\.test$"),
            ("${A:-b}", "a"),
            ("${B:-b}", "b"),
            ("${B-b}", "b"),
            ("${EMPTY:-b}", "b"),
            ("${EMPTY-b}", ""),
            ("${B:-${A}.test}", "a.test"),
            ("${B:-${C:-c}d}", "cd"),
            ("${B:-}", ""),
            ("${A:+yes}", "yes"),
            ("${EMPTY:+yes}", ""),
            ("${EMPTY+yes}", "yes"),
            ("${B:+yes}", ""),
            ("${A:?no}", "a"),
            ("ü${A}ü", "üaü"),
        ] {
            let want = Filled { text: want.to_owned(), gaps: Vec::new() };
            assert_eq!(fill(text, &lookup), want, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_replaced_is_named() {
        let unset = |name: &str| Gap::Unset { name: name.to_owned() };
        let required = |why: &str| Gap::Required { name: "B".to_owned(), why: why.to_owned() };
        for (text, want, gap) in [
            ("${B}.test", ".test", unset("B")),
            ("$B$B", "", unset("B")),
            ("${A:-x}${C:-$B}", "a", unset("B")),
            ("${B:?}", "", required("")),
            ("${B?set B}", "", required("set B")),
            ("$2y$$05", "$2y$05", Gap::Malformed),
            ("a$", "a$", Gap::Malformed),
            ("a${A", "a", Gap::Malformed),
            ("${}", "", Gap::Malformed),
            ("${A:}", "", Gap::Malformed),
            ("${A!x}", "", Gap::Malformed),
            ("$LONG$LONG$A", "", Gap::TooLong),
        ] {
            let want = Filled { text: want.to_owned(), gaps: vec![gap] };
            assert_eq!(fill(text, &lookup), want, "{text}");
        }
    }

    #[test]
    fn depth_has_a_limit() {
        let deep = format!("{}{}", "${B:-".repeat(5000), "}".repeat(5000));
        assert_eq!(fill(&deep, &lookup).gaps, [Gap::Malformed]);
    }
}
