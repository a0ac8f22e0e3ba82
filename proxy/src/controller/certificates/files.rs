//! Certificate files that the configuration names, one by one or by their directories. They are other
//! people's: only read, and what is wrong with one is a value that leaves the others alone.

use std::io;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::pair::{Pair, PairError};
use super::{Problem, directories, rfc3339};
use crate::config::CertificateFiles;
use crate::protocol::pattern::HostPattern;

#[derive(Debug, Default)]
pub(super) struct Files {
    /// `[[tls.certificate]]`
    named: Vec<CertificateFiles>,
    directories: Vec<PathBuf>,
    entries: Vec<Entry>,
}

/// One `[[tls.certificate]]`, or one of a directory.
#[derive(Debug)]
pub(super) struct Entry {
    pub files: CertificateFiles,
    /// The last good reading.
    pub pair: Option<Pair>,
    /// Of the last reading, when it failed.
    pub problem: Option<Problem>,
    /// Somebody else renews it, as long as they do.
    is_kept: bool,
}

impl Files {
    /// Which ones there are, from the next reading on.
    pub fn name(&mut self, named: &[CertificateFiles], directories: &[PathBuf]) {
        self.named = named.to_vec();
        self.directories = directories.to_vec();
    }

    pub fn has_directories(&self) -> bool {
        !self.directories.is_empty()
    }

    /// Reads all of them anew. One that was good before and is not now stays in service.
    pub fn read(&mut self, now: OffsetDateTime) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut files: Vec<_> = self.named.iter().map(|files| (files.clone(), false)).collect();
        for directory in &self.directories {
            match directories::scan(directory) {
                Ok(found) => files.extend(found.into_iter().map(|files| (files, true))),
                Err(problem) => problems.push(problem),
            }
        }
        let mut before = std::mem::take(&mut self.entries);
        for (files, is_kept) in files {
            let known = before.iter().position(|entry| entry.files == files);
            let known = known.map(|index| before.swap_remove(index));
            self.entries.push(reread(&files, known, is_kept, now));
        }
        problems.extend(self.entries.iter().filter_map(|entry| entry.problem.clone()));
        problems
    }

    /// One of them serves this host now.
    pub fn serve(&self, pattern: &HostPattern, now: OffsetDateTime) -> bool {
        self.pairs().any(|pair| pair.is_valid(now) && pair.covers(pattern))
    }

    /// One of them serves this host, and will.
    pub fn cover(&self, pattern: &HostPattern, now: OffsetDateTime) -> bool {
        let lasting = self.entries.iter().filter_map(|entry| {
            entry.pair.as_ref().filter(|pair| !entry.is_kept || !pair.is_late(now))
        });
        lasting.filter(|pair| pair.is_valid(now)).any(|pair| pair.covers(pattern))
    }

    pub fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.entries.iter().filter_map(|entry| entry.pair.as_ref())
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

impl Entry {
    /// As nginx-proxy names its files: `NAME.crt`, or `NAME/fullchain.pem`.
    pub fn is_called(&self, name: &str) -> bool {
        let cert = &self.files.cert;
        let directory = cert.parent().and_then(Path::file_name);
        let is_chain = cert.file_name().is_some_and(|file| file == "fullchain.pem");
        cert.file_name().is_some_and(|file| *file == *format!("{name}.crt"))
            || (is_chain && directory.is_some_and(|directory| directory == name))
    }
}

fn reread(
    files: &CertificateFiles,
    known: Option<Entry>,
    is_kept: bool,
    now: OffsetDateTime,
) -> Entry {
    match read(files, now) {
        Ok(pair) => Entry { files: files.clone(), pair: Some(pair), problem: None, is_kept },
        Err(mut problem) => {
            let pair = known.and_then(|entry| entry.pair).filter(|pair| pair.is_valid(now));
            if pair.is_some() {
                problem.reason.push_str("; the certificate read before stays in service");
            }
            Entry { files: files.clone(), pair, problem: Some(problem), is_kept }
        }
    }
}

pub(super) fn read(files: &CertificateFiles, now: OffsetDateTime) -> Result<Pair, Problem> {
    let chain = read_text(&files.cert)?;
    let parsed = match files.cert == files.key {
        true => Pair::from_pem(&chain),
        false => Pair::parse(&chain, &read_text(&files.key)?),
    };
    let pair = parsed.map_err(|error| match error {
        PairError::NoCertificate | PairError::Certificate(_) => {
            problem(&files.cert, error.to_string())
        }
        PairError::NoKey | PairError::Mismatch | PairError::Key(_) => {
            problem(&files.key, error.to_string())
        }
    })?;
    if pair.names.is_empty() {
        return Err(problem(&files.cert, "names no host (it has no subject alternative name)"));
    }
    if now < pair.not_before {
        let reason = format!("not valid before {}", rfc3339(pair.not_before));
        return Err(problem(&files.cert, reason));
    }
    if now >= pair.not_after {
        return Err(problem(&files.cert, format!("expired at {}", rfc3339(pair.not_after))));
    }
    Ok(pair)
}

fn read_text(path: &Path) -> Result<String, Problem> {
    std::fs::read_to_string(path).map_err(|error| {
        // Mostly a key of root's, and the user `baton`.
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                ": let the user that baton runs as read it, then reload"
            }
            _ => "",
        };
        problem(path, format!("cannot be read: {error}{advice}"))
    })
}

fn problem(path: &Path, reason: impl Into<String>) -> Problem {
    Problem { thing: path.display().to_string(), reason: reason.into() }
}
