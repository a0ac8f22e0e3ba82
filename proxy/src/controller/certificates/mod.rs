//! Certificates: files from the configuration, the local CA, the default certificate; and which of
//! them a snapshot carries.

mod default;
mod files;
mod issue;
mod local_ca;
mod pair;
mod store;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::{CertificateFiles, RouteTls};
use crate::protocol::pattern::HostPattern;
use crate::protocol::snapshot;
use files::Files;
use local_ca::LocalCa;
use pair::Pair;
use store::Store;

pub use pair::PairError;
pub use store::StoreError;

/// A renewal that failed is not tried again before this.
const SHORTEST_WAIT: time::Duration = time::Duration::minutes(10);

/// Why a certificate of baton's own could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("signing: {0}")]
    Issue(#[from] rcgen::Error),
    #[error("a certificate just made: {0}")]
    Pair(#[from] PairError),
    #[error("no client would take it: {0}")]
    Refused(#[from] rustls::Error),
    #[error("not a name that clients can ask for")]
    Name,
    #[error("verifier: {0}")]
    Verifier(String),
}

/// Something wrong that leaves the rest at work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A file or a host.
    pub thing: String,
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.thing, self.reason)
    }
}

/// A host that is routed, and what its route says about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub pattern: HostPattern,
    pub tls: RouteTls,
}

/// What a snapshot needs to know about certificates.
#[derive(Debug)]
pub struct Assembled {
    /// The first is the default one. Every name stands in one of them only, so that a worker's
    /// choice does not hang on their order.
    pub certificates: Vec<snapshot::Certificate>,
    /// For each wanted host: whether clients can be expected to trust a certificate of these.
    pub trusted: Vec<bool>,
    pub reports: Vec<CertificateReport>,
    pub problems: Vec<Problem>,
    /// When time alone changes the answer (a renewal, an expiry): assemble again then.
    pub next_change: SystemTime,
}

/// One certificate, for `baton certs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateReport {
    /// Empty for the default certificate, and for files that were never read.
    pub names: Vec<String>,
    pub issuer: String,
    /// RFC 3339. None for files that were never read.
    pub not_after: Option<String>,
    /// RFC 3339. None for files, which others renew.
    pub next_renewal: Option<String>,
    pub kind: CertificateKind,
    pub state: CertificateState,
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateKind {
    File,
    Local,
    Default,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateState {
    /// In service.
    Valid,
    /// Its time has passed: not in service.
    Expired,
    /// Never read: not in service.
    Failed,
}

/// All certificates of the controller. Its methods read and write files: they block.
#[derive(Debug)]
pub struct Certificates {
    store: Store,
    files: Files,
    local_ca: LocalCa,
    default: Pair,
    /// Found before anybody could be told.
    found: Vec<Problem>,
}

impl Certificates {
    /// Makes the state directory (0700) and the default certificate where they are not there yet.
    ///
    /// # Errors
    /// When the state directory cannot be used.
    pub fn open(state_dir: &Path) -> Result<Self, CertificateError> {
        Self::open_at(state_dir, OffsetDateTime::now_utc())
    }

    fn open_at(state_dir: &Path, now: OffsetDateTime) -> Result<Self, CertificateError> {
        let store = Store::open(state_dir.to_owned())?;
        let local_ca = LocalCa::open(state_dir.join("local-ca"))?;
        let mut found = Vec::new();
        let default = default::load_or_issue(&store, now, &mut found)?;
        Ok(Certificates { store, files: Files::default(), local_ca, default, found })
    }

    /// Reads the files of the configuration, all of them anew. What is wrong with one is returned
    /// and leaves the others alone; one that was good before stays in service.
    pub fn set_files(&mut self, files: &[CertificateFiles]) -> Vec<Problem> {
        self.files.set(files, OffsetDateTime::now_utc())
    }

    /// Which certificates a snapshot carries for these hosts and, for each host, whether clients can
    /// trust one. Issues what the local CA has to.
    pub fn assemble(&mut self, wanted: &[Wanted]) -> Assembled {
        self.assemble_at(wanted, OffsetDateTime::now_utc())
    }

    fn assemble_at(&mut self, wanted: &[Wanted], now: OffsetDateTime) -> Assembled {
        let mut problems = std::mem::take(&mut self.found);
        self.renew_default(now, &mut problems);
        let mut local_names = HashSet::new();
        let trusted = wanted
            .iter()
            .map(|wanted| match self.provide(wanted, now, &mut local_names, &mut problems) {
                Ok(trusted) => trusted,
                Err(reason) => {
                    problems.push(Problem { thing: wanted.pattern.to_string(), reason });
                    false
                }
            })
            .collect();
        self.local_ca.retain(&local_names);
        Assembled {
            certificates: self.in_service(now),
            trusted,
            reports: self.reports(now),
            problems,
            next_change: self.next_change(now).into(),
        }
    }

    /// Where the local CA's certificate is for people to import, once it has signed something.
    pub fn local_ca_pem(&self) -> PathBuf {
        self.local_ca.certificate_file()
    }

    /// Sees to a certificate for one host; whether clients can trust it.
    fn provide(
        &mut self,
        wanted: &Wanted,
        now: OffsetDateTime,
        local_names: &mut HashSet<String>,
        problems: &mut Vec<Problem>,
    ) -> Result<bool, String> {
        let covered = self.files.cover(&wanted.pattern, now);
        match source(wanted, covered)? {
            Source::Nobody => Ok(false),
            Source::File => Ok(true),
            Source::LocalCa(name) => {
                self.local_ca.leaf(&name, now, problems).map_err(|error| error.to_string())?;
                local_names.insert(name);
                Ok(true)
            }
        }
    }

    fn renew_default(&mut self, now: OffsetDateTime, problems: &mut Vec<Problem>) {
        if now < self.default.renewal() {
            return;
        }
        match default::load_or_issue(&self.store, now, problems) {
            Ok(pair) => self.default = pair,
            Err(error) => problems
                .push(Problem { thing: "default certificate".into(), reason: error.to_string() }),
        }
    }

    fn in_service(&self, now: OffsetDateTime) -> Vec<snapshot::Certificate> {
        let mut certificates = vec![self.default.to_snapshot()];
        let mut taken = HashSet::new();
        // The local CA first: where a file covers the name too, `tls = "local"` asked for it.
        let files = self.files.pairs().filter(|pair| pair.is_valid(now));
        for pair in self.local_leafs().into_iter().chain(files) {
            let mut certificate = pair.to_snapshot();
            certificate.names.retain(|name| taken.insert(name.clone()));
            if !certificate.names.is_empty() {
                certificates.push(certificate);
            }
        }
        certificates
    }

    /// In the order of their names, so that equal input makes equal snapshots.
    fn local_leafs(&self) -> Vec<&Pair> {
        let mut leafs: Vec<&Pair> = self.local_ca.issued().collect();
        leafs.sort_by(|a, b| a.names.cmp(&b.names));
        leafs
    }

    fn reports(&self, now: OffsetDateTime) -> Vec<CertificateReport> {
        let own = |pair: &Pair, kind| CertificateReport {
            next_renewal: Some(rfc3339(pair.renewal())),
            ..report(pair, kind, now)
        };
        let files = self.files.entries().iter().map(|entry| file_report(entry, now));
        let local = self.local_leafs().into_iter().map(|leaf| own(leaf, CertificateKind::Local));
        let default = own(&self.default, CertificateKind::Default);
        files.chain(local).chain([default]).collect()
    }

    fn next_change(&self, now: OffsetDateTime) -> OffsetDateTime {
        let renewals = self.local_ca.issued().chain([&self.default]).map(Pair::renewal);
        let files = self.files.pairs().filter(|pair| pair.is_valid(now));
        let times = renewals.chain(files.map(|pair| pair.not_after));
        times.min().unwrap_or(now).max(now + SHORTEST_WAIT)
    }
}

/// Who has the certificate of a host.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    /// Plain HTTP alone, or behind the default certificate.
    Nobody,
    /// A file of the configuration.
    File,
    /// The local CA, for this name.
    LocalCa(String),
}

/// Decides, or says why there can be none.
fn source(wanted: &Wanted, file_covers: bool) -> Result<Source, String> {
    let name = match &wanted.pattern {
        HostPattern::Exact(name) => Some(name.clone()),
        HostPattern::Leading(suffix) => Some(format!("*{suffix}")),
        HostPattern::Trailing(_) | HostPattern::Regex(_) => None,
    };
    match (wanted.tls, name) {
        (RouteTls::Off, _) => Ok(Source::Nobody),
        (RouteTls::Auto, _) if file_covers => Ok(Source::File),
        (_, None) => Err("no certificate can be issued for a pattern of this kind".to_owned()),
        (RouteTls::Auto, Some(name)) if !is_local(&name) => Ok(Source::Nobody),
        (_, Some(name)) => {
            // Neither OpenSSL nor webpki nor NSS takes one label behind the star.
            match name.strip_prefix("*.").is_some_and(|parent| !parent.contains('.')) {
                true => Err("clients take no wildcard directly under a top-level name".to_owned()),
                false => Ok(Source::LocalCa(name)),
            }
        }
    }
}

/// Names that no public CA signs: those without a dot, and those under RFC 2606's `.localhost` and
/// `.test` and ICANN's `.internal`.
fn is_local(name: &str) -> bool {
    let reserved = [".localhost", ".test", ".internal"].iter().any(|tld| name.ends_with(tld));
    let single_label = !name.contains(['.', ':']);
    reserved || single_label
}

fn file_report(entry: &files::Entry, now: OffsetDateTime) -> CertificateReport {
    let last_error = entry.problem.as_ref().map(ToString::to_string);
    match &entry.pair {
        Some(pair) => CertificateReport { last_error, ..report(pair, CertificateKind::File, now) },
        None => CertificateReport {
            names: Vec::new(),
            issuer: String::new(),
            not_after: None,
            next_renewal: None,
            kind: CertificateKind::File,
            state: CertificateState::Failed,
            last_error,
        },
    }
}

fn report(pair: &Pair, kind: CertificateKind, now: OffsetDateTime) -> CertificateReport {
    CertificateReport {
        names: pair.names.clone(),
        issuer: pair.issuer.clone(),
        not_after: Some(rfc3339(pair.not_after)),
        next_renewal: None,
        kind,
        state: match pair.is_valid(now) {
            true => CertificateState::Valid,
            false => CertificateState::Expired,
        },
        last_error: None,
    }
}

/// Whole seconds, as certificates have them.
fn rfc3339(time: OffsetDateTime) -> String {
    let whole = time.replace_nanosecond(0).unwrap_or(time);
    whole.format(&Rfc3339).unwrap_or_else(|_| whole.to_string())
}

#[cfg(test)]
mod tests;
