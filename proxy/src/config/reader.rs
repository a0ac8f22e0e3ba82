//! Walks the spanned TOML tree: keeps where each value stands and which keys a section knows, and
//! gathers what is wrong, so that a section reads as the list of its keys.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::{Mistake, Mistakes, Position};
use super::nearest::nearest;

/// Keys that are part of the design and not of this version: worth a better answer than "unknown".
const NOT_YET: [&str; 1] = ["listen.admin"];

/// What is wrong with one value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub text: String,
    pub nearest: Option<String>,
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Problem { text, nearest: None }
    }
}

impl From<&str> for Problem {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// Gathers mistakes, and keys known and met, while a document is read.
pub(super) struct Reader<'t> {
    text: &'t str,
    file: &'t Path,
    mistakes: Vec<(usize, Mistake)>,
    unknown: Vec<Unknown>,
    keys: Keys,
}

/// Full names of keys.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub known: Vec<String>,
    pub met: Vec<String>,
}

struct Unknown {
    offset: usize,
    section: String,
    key: String,
}

impl<'t> Reader<'t> {
    /// Reads a whole document.
    pub fn read<T>(
        text: &'t str,
        file: &'t Path,
        read: impl FnOnce(&mut Section<'_, '_, 't>) -> T,
    ) -> Result<(T, Keys), Mistakes> {
        let mut reader =
            Reader { text, file, mistakes: Vec::new(), unknown: Vec::new(), keys: Keys::default() };
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            return Err(reader.syntax(&errors));
        }
        let value = reader.section(String::new(), 0, Some(table.get_ref()), read);
        reader.report_unknown();
        reader.finish(value)
    }

    /// Syntax errors alone: behind one of them the parser guesses, and so would we.
    fn syntax(self, errors: &[toml::de::Error]) -> Mistakes {
        let mut mistakes: Vec<Mistake> = Vec::new();
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            mistakes.push(Mistake {
                file: self.file.to_owned(),
                position: Some(with_column(self.text, offset)),
                key: String::new(),
                problem: format!("not TOML: {}", error.message()),
                nearest: None,
            });
        }
        mistakes.sort_by_key(|mistake| mistake.position.map(|p| (p.line, p.column)));
        // What follows on the same line is an echo of the first error more often than not.
        mistakes.dedup_by_key(|mistake| mistake.position.map(|p| p.line));
        Mistakes::new(mistakes)
    }

    fn section<T>(
        &mut self,
        path: String,
        offset: usize,
        table: Option<&DeTable<'t>>,
        read: impl FnOnce(&mut Section<'_, '_, 't>) -> T,
    ) -> T {
        let mut section = Section { reader: self, path, offset, table, known: Vec::new() };
        let value = read(&mut section);
        section.finish();
        value
    }

    fn mistake(&mut self, offset: usize, key: &str, problem: Problem) {
        let mistake = Mistake {
            file: self.file.to_owned(),
            position: Some(Position { line: line(self.text, offset), column: None }),
            key: key.to_owned(),
            problem: problem.text,
            nearest: problem.nearest,
        };
        self.mistakes.push((offset, mistake));
    }

    /// At the end, when every section has said what it knows: a key may stand in the wrong one.
    fn report_unknown(&mut self) {
        for unknown in std::mem::take(&mut self.unknown) {
            let full = join(&unknown.section, &unknown.key);
            let problem = if NOT_YET.contains(&full.as_str()) {
                "not in this version".into()
            } else {
                Problem { text: "unknown key".into(), nearest: self.suggestion(&unknown) }
            };
            self.mistake(unknown.offset, &full, problem);
        }
    }

    fn suggestion(&self, unknown: &Unknown) -> Option<String> {
        let known = || self.keys.known.iter().map(String::as_str);
        let siblings = known().filter_map(|full| {
            let (section, key) = split(full);
            (section == unknown.section).then_some(key)
        });
        let elsewhere = || known().find(|full| split(full).1 == unknown.key);
        nearest(&unknown.key, siblings).or_else(elsewhere).map(str::to_owned)
    }

    fn finish<T>(mut self, value: T) -> Result<(T, Keys), Mistakes> {
        if self.mistakes.is_empty() {
            return Ok((value, self.keys));
        }
        self.mistakes.sort_by_key(|(offset, _)| *offset);
        Err(Mistakes::new(self.mistakes.into_iter().map(|(_, mistake)| mistake).collect()))
    }
}

/// One table while it is read. Every key that is asked for is known; the rest is a mistake.
pub(super) struct Section<'r, 'v, 't> {
    reader: &'r mut Reader<'t>,
    /// Empty for the root.
    path: String,
    /// Where the section begins in the text.
    offset: usize,
    /// None when the document does not have this section.
    table: Option<&'v DeTable<'t>>,
    known: Vec<&'static str>,
}

impl<'v, 't> Section<'_, 'v, 't> {
    /// An optional value: `target` stays as it is when the key is absent or wrong.
    pub fn read<T>(
        &mut self,
        key: &'static str,
        target: &mut T,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    ) {
        if let Some(value) = self.optional(key, parse) {
            *target = value;
        }
    }

    /// None when the key is absent or wrong.
    pub fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<T> {
        let value = self.value(key)?;
        self.parsed(key, value, parse)
    }

    /// A value that must be there: absence is a mistake as well.
    pub fn required<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<T> {
        if self.value(key).is_none() {
            self.mistake(self.offset, key, "missing".into());
        }
        self.optional(key, parse)
    }

    /// A list whose elements are wrong or right each on its own. None when the key is absent.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<Vec<Spanned<T>>> {
        let value = self.value(key)?;
        let Some(elements) = value.get_ref().as_array() else {
            let found = value.get_ref().type_str();
            self.mistake(value.span().start, key, format!("expected a list, found {found}").into());
            return None;
        };
        let mut list = Vec::with_capacity(elements.len());
        for element in elements {
            list.extend(
                self.parsed(key, element, &parse).map(|good| Spanned::new(element.span(), good)),
            );
        }
        Some(list)
    }

    /// A list that must be there and have an element.
    pub fn required_list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Vec<Spanned<T>> {
        match self.value(key) {
            None => self.mistake(self.offset, key, "missing".into()),
            Some(value) if value.get_ref().as_array().is_some_and(|list| list.is_empty()) => {
                self.mistake(value.span().start, key, "empty".into());
            }
            Some(_) => {}
        }
        self.list(key, parse).unwrap_or_default()
    }

    /// `[key]`; `read` sees an empty section when the document does not have it.
    pub fn table(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_, '_, 't>)) {
        let path = join(&self.path, key);
        let (offset, table) = match self.value(key) {
            None => (self.offset, None),
            Some(value) => match value.get_ref().as_table() {
                Some(table) => (value.span().start, Some(table)),
                None => {
                    let problem = format!(
                        "expected a section [{path}], found {}",
                        value.get_ref().type_str()
                    );
                    self.mistake(value.span().start, key, problem.into());
                    return;
                }
            },
        };
        self.reader.section(path, offset, table, read);
    }

    /// `[key]` with whatever names its keys have.
    pub fn map<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str, &DeValue<'_>) -> Result<T, Problem>,
    ) -> Vec<T> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            let found = value.get_ref().type_str();
            let problem = format!("expected a table of names and values, found {found}");
            self.mistake(value.span().start, key, problem.into());
            return Vec::new();
        };
        let mut made = Vec::new();
        for (name, value) in table {
            let name = name.get_ref();
            made.extend(self.parsed(&join(key, name), value, |value| parse(name, value)));
        }
        made
    }

    /// `[[key]]`: what `read` makes of each, where it could.
    pub fn tables<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&mut Section<'_, '_, 't>) -> Option<T>,
    ) -> Vec<Spanned<T>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let path = join(&self.path, key);
        let Some(elements) = value.get_ref().as_array() else {
            let problem = format!("there may be several: write [[{path}]]");
            self.mistake(value.span().start, key, problem.into());
            return Vec::new();
        };
        let mut list = Vec::new();
        for element in elements {
            let Some(table) = element.get_ref().as_table() else {
                let found = element.get_ref().type_str();
                let problem = format!("expected a section [[{path}]], found {found}");
                self.mistake(element.span().start, key, problem.into());
                continue;
            };
            let offset = element.span().start;
            let made = self.reader.section(path.clone(), offset, Some(table), &read);
            list.extend(made.map(|made| Spanned::new(element.span(), made)));
        }
        list
    }

    /// A mistake about a key of this section.
    pub fn mistake(&mut self, offset: usize, key: &str, problem: Problem) {
        let key = join(&self.path, key);
        self.reader.mistake(offset, &key, problem);
    }

    /// Line of a place in the text, from 1.
    pub fn line(&self, offset: usize) -> usize {
        line(self.reader.text, offset)
    }

    /// Where this section begins in the text.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The raw value of a key, which is known from now on.
    fn value(&mut self, key: &'static str) -> Option<&'v Spanned<DeValue<'t>>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table?.get(key)
    }

    fn parsed<T>(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<T> {
        parse(value.get_ref())
            .map_err(|problem| self.mistake(value.span().start, key, problem))
            .ok()
    }

    fn finish(self) {
        let keys = &mut self.reader.keys;
        keys.known.extend(self.known.iter().map(|key| join(&self.path, key)));
        for key in self.table.into_iter().flat_map(|table| table.keys()) {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                keys.met.push(join(&self.path, name));
            } else {
                self.reader.unknown.push(Unknown {
                    offset: key.span().start,
                    section: self.path.clone(),
                    key: name.to_owned(),
                });
            }
        }
    }
}

/// `section.key`; either may be empty.
fn join(section: &str, key: &str) -> String {
    match (section, key) {
        ("", only) | (only, "") => only.to_owned(),
        _ => format!("{section}.{key}"),
    }
}

/// The section and the key of a full name.
fn split(full: &str) -> (&str, &str) {
    full.rsplit_once('.').unwrap_or(("", full))
}

/// From 1.
fn line(text: &str, offset: usize) -> usize {
    1 + before(text, offset).matches('\n').count()
}

fn with_column(text: &str, offset: usize) -> Position {
    let before = before(text, offset);
    let column = 1 + before.chars().rev().take_while(|c| *c != '\n').count();
    Position { line: line(text, offset), column: Some(column) }
}

fn before(text: &str, offset: usize) -> &str {
    text.get(..offset).unwrap_or(text)
}
