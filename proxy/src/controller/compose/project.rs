//! One compose file on disk, with what is read beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::NOT_FOLLOWED;
use super::file::{self, File};
use super::report::Note;
use super::service::{Service, Surroundings};
use super::variables;
use crate::controller::admin::answers::Diagnosis;

/// What compose merges into its file where nobody names one.
const OVERRIDES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];
/// The path that means stdin.
const STDIN: &str = "-";

pub(super) struct Project {
    path: PathBuf,
    directory: PathBuf,
    file: File,
    name: String,
    /// `.env`
    variables: BTreeMap<String, String>,
    notes: Vec<String>,
}

impl Project {
    /// # Errors
    /// When there is no compose file: why.
    pub fn read(path: &Path) -> Result<Self, String> {
        let is_stdin = path == Path::new(STDIN);
        let text = match is_stdin {
            true => bounded(io::stdin().lock()),
            false => fs::File::open(path).and_then(bounded),
        };
        let file = file::parse(&text.map_err(|error| error.to_string())?)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = match (is_stdin, parent) {
            (false, Some(parent)) => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut notes = Vec::new();
        let found = match read_beside(&directory, ".env") {
            Ok(text) => variables::parse(&text, &environment),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                notes.push(format!(".env: {error}"));
                BTreeMap::new()
            }
        };
        let mut variables = BTreeMap::new();
        for (name, value) in found {
            notes.extend(value.gaps.iter().map(|gap| format!(".env: {name}: {}", gap.in_words())));
            variables.insert(name, value.text);
        }
        let others = OVERRIDES.iter().filter(|_| !is_stdin).filter(|other| {
            directory.join(other).exists() && path.file_name() != Some(other.as_ref())
        });
        notes.extend(others.map(|other| format!("{other} beside it {NOT_FOLLOWED}")));
        let given = file.name.clone().or_else(|| lookup(&variables, "COMPOSE_PROJECT_NAME"));
        let name = given.filter(|name| !name.contains('$')).unwrap_or_else(|| called(&directory));
        Ok(Project { path: path.to_owned(), directory, file, name, variables, notes })
    }

    pub fn services(&self) -> Vec<Service> {
        let variable = |name: &str| lookup(&self.variables, name);
        let read = |path: &str| read_beside(&self.directory, path);
        let around = Surroundings {
            file: &self.file,
            project: &self.name,
            variable: &variable,
            read: &read,
        };
        let services = self.file.services().map(|(name, raw)| Service::read(name, raw, around));
        services.map(|service| self.located(service)).collect()
    }

    /// Relative to the file is relative to nothing in a configuration.
    fn located(&self, mut service: Service) -> Service {
        for mount in service.mounts.iter_mut().filter(|mount| mount.source.starts_with('.')) {
            let path = fs::canonicalize(self.directory.join(&mount.source));
            path.into_iter().for_each(|path| mount.source = path.display().to_string());
        }
        service
    }

    /// What of the file is not checked.
    pub fn findings(&self) -> Vec<Diagnosis> {
        let include = self.file.include.is_some().then(|| Diagnosis {
            container: self.path.display().to_string(),
            setting: "include".to_owned(),
            value: String::new(),
            problem: NOT_FOLLOWED.to_owned(),
        });
        include.into_iter().collect()
    }

    pub fn notes(&self) -> Vec<Note> {
        let about = self.path.display().to_string();
        let notes = self.notes.iter();
        notes.map(|text| Note { about: about.clone(), text: text.clone() }).collect()
    }
}

/// The environment stands before the file.
fn lookup(variables: &BTreeMap<String, String>, name: &str) -> Option<String> {
    environment(name).or_else(|| variables.get(name).cloned())
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn read_beside(directory: &Path, path: &str) -> io::Result<String> {
    bounded(fs::File::open(directory.join(path))?)
}

/// One byte more than a file may have, so that it is noticed.
fn bounded(source: impl Read) -> io::Result<String> {
    let mut text = String::new();
    source.take(file::MAX_BYTES as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// As compose calls a project without a name.
fn called(directory: &Path) -> String {
    let absolute = fs::canonicalize(directory).unwrap_or_default();
    let name = absolute.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let kept = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(*c);
    let name: String = name.chars().filter(kept).collect();
    match name.trim_start_matches(['-', '_']) {
        "" => "project".to_owned(),
        name => name.to_owned(),
    }
}
