//! Certificate files that the configuration names. They are other people's: only read, and what is
//! wrong with one is a value that leaves the others alone.

use std::path::Path;

use time::OffsetDateTime;

use super::pair::{Pair, PairError};
use super::{Problem, rfc3339};
use crate::config::CertificateFiles;
use crate::protocol::pattern::HostPattern;

#[derive(Debug, Default)]
pub(super) struct Files {
    entries: Vec<Entry>,
}

/// One `[[tls.certificate]]`.
#[derive(Debug)]
pub(super) struct Entry {
    pub files: CertificateFiles,
    /// The last good reading.
    pub pair: Option<Pair>,
    /// Of the last reading, when it failed.
    pub problem: Option<Problem>,
}

impl Files {
    /// Reads all of them anew. One that was good before and is not now stays in service.
    pub fn set(&mut self, files: &[CertificateFiles], now: OffsetDateTime) -> Vec<Problem> {
        let mut before = std::mem::take(&mut self.entries);
        for files in files {
            let known = before.iter().position(|entry| entry.files == *files);
            let known = known.map(|index| before.swap_remove(index));
            self.entries.push(reread(files, known, now));
        }
        self.entries.iter().filter_map(|entry| entry.problem.clone()).collect()
    }

    pub fn cover(&self, pattern: &HostPattern, now: OffsetDateTime) -> bool {
        self.pairs().any(|pair| pair.is_valid(now) && pair.covers(pattern))
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

fn reread(files: &CertificateFiles, known: Option<Entry>, now: OffsetDateTime) -> Entry {
    match read(files, now) {
        Ok(pair) => Entry { files: files.clone(), pair: Some(pair), problem: None },
        Err(mut problem) => {
            let pair = known.and_then(|entry| entry.pair).filter(|pair| pair.is_valid(now));
            if pair.is_some() {
                problem.reason.push_str("; the certificate read before stays in service");
            }
            Entry { files: files.clone(), pair, problem: Some(problem) }
        }
    }
}

fn read(files: &CertificateFiles, now: OffsetDateTime) -> Result<Pair, Problem> {
    let chain = read_text(&files.cert)?;
    let key = read_text(&files.key)?;
    let pair = Pair::parse(&chain, &key).map_err(|error| match error {
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
    std::fs::read_to_string(path).map_err(|error| problem(path, format!("cannot be read: {error}")))
}

fn problem(path: &Path, reason: impl Into<String>) -> Problem {
    Problem { thing: path.display().to_string(), reason: reason.into() }
}
