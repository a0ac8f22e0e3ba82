//! Certificates: files from the configuration, those that a CA issued, the local CA, the default
//! certificate; and which of them a snapshot carries.

pub mod acme;
mod client_cas;
mod default;
mod directories;
mod files;
pub mod import;
mod issue;
mod local_ca;
mod pair;
mod wish;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::{Acme, CertificateFiles, RouteTls};
use crate::controller::store::{Store, StoreError};
use crate::protocol::pattern::HostPattern;
use crate::protocol::snapshot;
use acme::{
    Desired, Issued, Stock, challenges_for, challenges_for_all, is_address, is_local, permits,
};
use files::Files;
use local_ca::LocalCa;

pub use client_cas::ClientCas;
pub use pair::{Pair, PairError};
pub use wish::{Asked, Named, Wish};

/// A renewal that failed is not tried again before this.
const SHORTEST_WAIT: time::Duration = time::Duration::minutes(10);
/// Between two looks at directories of certificates that others keep.
const LOOK_PAUSE: time::Duration = time::Duration::minutes(1);

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
    /// Somebody answers for it.
    pub is_up: bool,
    pub wish: Wish,
}

/// Who can be expected to trust the certificate of a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Trust {
    /// Nobody: there is none yet.
    #[default]
    None,
    /// Those who know the local CA.
    Local,
    /// Everybody, as far as baton can tell: a CA issued it, or the configuration names it.
    Public,
}

/// What a snapshot needs to know about certificates.
#[derive(Debug)]
pub struct Assembled {
    /// The first is the default one. Every name stands in one of them only, so that a worker's
    /// choice does not hang on their order.
    pub certificates: Vec<snapshot::Certificate>,
    /// For each wanted host: who can be expected to trust a certificate of these.
    pub trust: Vec<Trust>,
    /// What is to be ordered and kept, sorted by id.
    pub desired: Vec<Desired>,
    pub reports: Vec<CertificateReport>,
    pub problems: Vec<Problem>,
    /// Hosts without HTTPS, because the certificate that they name is not there.
    pub missing: Vec<(HostPattern, Named)>,
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
    /// RFC 3339. Of an order that failed.
    pub next_try: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateKind {
    File,
    Acme,
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
    /// Never read, or never issued: not in service.
    Failed,
    /// Ordered for the first time: not in service yet.
    Pending,
}

/// All certificates of the controller. Its methods read and write files: they block.
#[derive(Debug)]
pub struct Certificates {
    store: Store,
    files: Files,
    /// When files were read last.
    looked: OffsetDateTime,
    /// Where imported ones are, beside the directories of the configuration.
    imported: PathBuf,
    acme: Acme,
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
        let (files, acme) = (Files::default(), Acme::default());
        let imported = import::directory(state_dir);
        let looked = now;
        Ok(Certificates { store, files, looked, imported, acme, local_ca, default, found })
    }

    /// Reads the files of the configuration and of these directories, all of them anew. What is wrong
    /// with one is returned and leaves the others alone; one that was good before stays in service.
    pub fn set_files(
        &mut self,
        files: &[CertificateFiles],
        directories: &[PathBuf],
    ) -> Vec<Problem> {
        let imported = Some(&self.imported).filter(|directory| directory.is_dir());
        let directories: Vec<_> = directories.iter().chain(imported).cloned().collect();
        self.files.name(files, &directories);
        self.looked = OffsetDateTime::now_utc();
        self.files.read(self.looked)
    }

    /// What others keep, they renew: read again once in a while.
    fn look_again(&mut self, now: OffsetDateTime, problems: &mut Vec<Problem>) {
        let is_due = now >= self.looked + LOOK_PAUSE || now < self.looked;
        if self.files.has_directories() && is_due {
            self.looked = now;
            problems.extend(self.files.read(now));
        }
    }

    /// Which names may be ordered, and how. Takes effect with the next assembly.
    pub fn set_acme(&mut self, acme: Acme) {
        self.acme = acme;
    }

    /// Which certificates a snapshot carries for these hosts and, for each host, whether clients can
    /// trust one. `stock` is what CAs have issued. Issues what the local CA has to.
    pub fn assemble(&mut self, wanted: &[Wanted], stock: &Stock) -> Assembled {
        self.assemble_at(wanted, stock, OffsetDateTime::now_utc())
    }

    fn assemble_at(&mut self, wanted: &[Wanted], stock: &Stock, now: OffsetDateTime) -> Assembled {
        let mut draft = Draft {
            stock,
            now,
            problems: std::mem::take(&mut self.found),
            local_names: HashSet::new(),
            issued: BTreeSet::new(),
            desired: BTreeMap::new(),
            chosen: Vec::new(),
            missing: Vec::new(),
        };
        self.renew_default(now, &mut draft.problems);
        self.look_again(now, &mut draft.problems);
        let trust =
            wanted.iter().map(|wanted| self.provide_or_report(wanted, &mut draft)).collect();
        self.local_ca.retain(&draft.local_names);
        Assembled {
            certificates: self.in_service(&draft),
            trust,
            reports: self.reports(&draft),
            next_change: self.next_change(&draft).into(),
            desired: draft.desired.into_values().collect(),
            problems: draft.problems,
            missing: draft.missing,
        }
    }

    /// Where the local CA's certificate is for people to import, once it has signed something.
    pub fn local_ca_pem(&self) -> PathBuf {
        self.local_ca.certificate_file()
    }

    fn provide_or_report(&mut self, wanted: &Wanted, draft: &mut Draft<'_>) -> Trust {
        self.provide(wanted, draft).unwrap_or_else(|reason| {
            draft.problems.push(Problem { thing: wanted.pattern.to_string(), reason });
            Trust::None
        })
    }

    /// Sees to a certificate for one host; who can trust it.
    fn provide(&mut self, wanted: &Wanted, draft: &mut Draft<'_>) -> Result<Trust, String> {
        if let Some(named) = &wanted.wish.cert_name
            && !matches!(wanted.tls, RouteTls::Off | RouteTls::Passthrough)
        {
            return Ok(self.choose(named, wanted, draft));
        }
        let covered = self.files.cover(&wanted.pattern, draft.now);
        match source(wanted, covered, &laid_over(&self.acme, &wanted.wish))? {
            Source::Nobody => Ok(Trust::None),
            Source::File => Ok(Trust::Public),
            Source::Acme(names) => {
                // A file that is to be replaced serves until then.
                let is_served = self.files.serve(&wanted.pattern, draft.now);
                let trust = self.order(names, wanted, draft);
                Ok(if is_served { Trust::Public } else { trust })
            }
            Source::LocalCa(name) => {
                let leaf = self.local_ca.leaf(&name, draft.now, &mut draft.problems);
                leaf.map_err(|error| error.to_string())?;
                draft.local_names.insert(name);
                Ok(Trust::Local)
            }
        }
    }

    /// CERT_NAME: the files of this name, else the certificate for it, else its parent's wildcard.
    fn choose(&self, named: &Named, wanted: &Wanted, draft: &mut Draft<'_>) -> Trust {
        let name = &named.name;
        let pattern = HostPattern::Exact(name.to_ascii_lowercase());
        let is_valid = |pair: &&Pair| pair.is_valid(draft.now);
        let files = self.files.entries();
        let of_name = files.iter().filter(|entry| entry.is_called(name));
        let covers = |pair: &&Pair| pair.covers(&pattern);
        let chosen = of_name.filter_map(|entry| entry.pair.as_ref()).find(is_valid);
        let chosen = chosen.or_else(|| self.files.pairs().filter(is_valid).find(covers));
        let issued =
            draft.stock.issued.iter().find(|(_, issued)| {
                issued.pair.is_valid(draft.now) && issued.pair.covers(&pattern)
            });
        let leaf = match (chosen, issued) {
            (Some(pair), _) => pair.leaf.to_vec(),
            (None, Some((id, issued))) => {
                draft.issued.insert(id.clone());
                issued.pair.leaf.to_vec()
            }
            (None, None) => {
                draft.missing.push((wanted.pattern.clone(), named.clone()));
                return Trust::None;
            }
        };
        draft.chosen.push((wanted.pattern.to_string(), leaf));
        Trust::Public
    }

    /// Asks for a certificate with these names, unless a wildcard in hand covers the host; whether
    /// there is one already.
    fn order(&self, names: Vec<String>, wanted: &Wanted, draft: &mut Draft<'_>) -> Trust {
        let id = names[0].clone();
        let serves = |issued: &Issued| {
            issued.pair.is_valid(draft.now) && issued.pair.covers(&wanted.pattern)
        };
        let mut others = draft.stock.issued.iter().filter(|(_, issued)| serves(issued));
        // Its own before a wildcard's: that one may go with another host.
        let own = draft.stock.issued.get_key_value(&id).filter(|(_, issued)| serves(issued));
        let serving = own.or_else(|| others.next());
        // One that nobody renews is no reason to wait until it ends.
        let is_enough = serving
            .is_some_and(|(other, issued)| *other != id && draft.now < issued.renewal(draft.now));
        let trust = if serving.is_some() { Trust::Public } else { Trust::None };
        draft.issued.extend(serving.map(|(id, _)| id.clone()));
        if !is_enough {
            let desired = self.desired(names, wanted);
            let known = draft.desired.entry(id).or_insert_with(|| desired);
            known.is_up |= wanted.is_up;
        }
        trust
    }

    fn desired(&self, names: Vec<String>, wanted: &Wanted) -> Desired {
        let wish = &wanted.wish;
        let acme = &laid_over(&self.acme, wish);
        let directory = wish.directory.clone().map(|directory| vec![directory]);
        let mut directories = directory.unwrap_or_else(|| acme.directories.clone());
        if let (Some(first), Some(account)) = (directories.first_mut(), &wish.external_account) {
            first.external_account = Some(account.clone());
        }
        Desired {
            challenges: challenges_for_all(&names, acme),
            names,
            directories,
            email: wish.email.clone().or_else(|| acme.email.clone()),
            profile: wish.profile.clone().or_else(|| acme.profile.clone()),
            preferred_chain: wish.preferred_chain.clone().or_else(|| acme.preferred_chain.clone()),
            key: wish.key.unwrap_or(acme.key),
            is_up: wanted.is_up,
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

    fn in_service(&self, draft: &Draft<'_>) -> Vec<snapshot::Certificate> {
        let mut certificates = vec![self.default.to_snapshot()];
        let mut taken: HashSet<String> =
            draft.chosen.iter().map(|(name, _)| name.clone()).collect();
        // The local CA and those that were ordered first: where a file covers the name too, the route
        // asked for it.
        let files = self.files.pairs().filter(|pair| pair.is_valid(draft.now));
        let issued = draft.issued().map(|(_, issued)| &*issued.pair);
        for pair in self.local_leafs().into_iter().chain(issued).chain(files) {
            let mut certificate = pair.to_snapshot();
            certificate.names.retain(|name| taken.insert(name.clone()));
            certificate.names.extend(draft.chosen_by(pair));
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

    fn reports(&self, draft: &Draft<'_>) -> Vec<CertificateReport> {
        let now = draft.now;
        let own = |pair: &Pair, kind| CertificateReport {
            next_renewal: Some(rfc3339(pair.renewal())),
            ..report(pair, kind, now)
        };
        let files = self.files.entries().iter().map(|entry| file_report(entry, now));
        let ids: BTreeSet<&String> = draft.desired.keys().chain(&draft.issued).collect();
        let acme = ids.into_iter().map(|id| acme_report(id, draft));
        let local = self.local_leafs().into_iter().map(|leaf| own(leaf, CertificateKind::Local));
        let default = own(&self.default, CertificateKind::Default);
        files.chain(acme).chain(local).chain([default]).collect()
    }

    fn next_change(&self, draft: &Draft<'_>) -> OffsetDateTime {
        let now = draft.now;
        let renewals = self.local_ca.issued().chain([&self.default]).map(Pair::renewal);
        let files = self.files.pairs().filter(|pair| pair.is_valid(now));
        let issued = draft.issued().map(|(_, issued)| &*issued.pair);
        let due = draft.issued().map(|(_, issued)| issued.renewal(now)).filter(|due| *due > now);
        let times = renewals.chain(files.chain(issued).map(|pair| pair.not_after)).chain(due);
        let next = times.min().unwrap_or(now).max(now + SHORTEST_WAIT);
        match self.files.has_directories() {
            true => next.min(self.looked.max(now) + LOOK_PAUSE),
            false => next,
        }
    }
}

/// An assembly in the making.
struct Draft<'a> {
    stock: &'a Stock,
    now: OffsetDateTime,
    problems: Vec<Problem>,
    /// What the local CA signs for.
    local_names: HashSet<String>,
    /// Ids of those in `stock` that serve a host.
    issued: BTreeSet<String>,
    desired: BTreeMap<String, Desired>,
    /// Hosts that named a certificate (CERT_NAME), each with the leaf of it.
    chosen: Vec<(String, Vec<u8>)>,
    missing: Vec<(HostPattern, Named)>,
}

impl Draft<'_> {
    fn chosen_by(&self, pair: &Pair) -> impl Iterator<Item = String> {
        let its = self.chosen.iter().filter(|(_, leaf)| *leaf == *pair.leaf);
        its.map(|(name, _)| name.clone())
    }

    fn issued(&self) -> impl Iterator<Item = (&String, &Issued)> {
        self.issued.iter().filter_map(|id| self.stock.issued.get_key_value(id))
    }
}

/// Who has the certificate of a host.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    /// Plain HTTP alone, or behind the default certificate.
    Nobody,
    /// A file of the configuration.
    File,
    /// A CA, for these names.
    Acme(Vec<String>),
    /// The local CA, for this name.
    LocalCa(String),
}

/// What the certificate of a host will be that has no file: `acme`, `local` or `none`, and the names
/// that are in it.
///
/// # Errors
/// Why there can be none.
pub fn foresee(
    pattern: &HostPattern,
    tls: RouteTls,
    wish: &Wish,
    acme: &Acme,
) -> Result<(&'static str, Vec<String>), String> {
    let wanted = Wanted { pattern: pattern.clone(), tls, is_up: true, wish: wish.clone() };
    Ok(match source(&wanted, false, &laid_over(acme, wish))? {
        Source::Nobody => ("none", Vec::new()),
        Source::File => ("file", Vec::new()),
        Source::Acme(names) => ("acme", names),
        Source::LocalCa(name) => ("local", vec![name]),
    })
}

/// How the certificate of a host is ordered, where the host says which challenge is to be used.
fn laid_over<'a>(acme: &'a Acme, wish: &Wish) -> Cow<'a, Acme> {
    match wish.challenge {
        Some(challenge) => Cow::Owned(Acme { challenges: vec![challenge], ..acme.clone() }),
        None => Cow::Borrowed(acme),
    }
}

/// Decides, or says why there can be none.
fn source(wanted: &Wanted, file_covers: bool, acme: &Acme) -> Result<Source, String> {
    let name = match &wanted.pattern {
        HostPattern::Exact(_) | HostPattern::Leading(_) => Some(wanted.pattern.to_string()),
        HostPattern::Trailing(_) | HostPattern::Regex(_) => None,
    };
    match (wanted.tls, name) {
        (RouteTls::Off | RouteTls::Passthrough, _) => Ok(Source::Nobody),
        (RouteTls::Auto | RouteTls::Acme, _) if file_covers => Ok(Source::File),
        (_, None) => Err("no certificate can be issued for a pattern of this kind".to_owned()),
        (RouteTls::Acme, Some(name)) if !acme.agree_tos => Err(format!(
            "`tls = \"acme\"` needs acme.agree_tos = true: nothing is ordered for {name}"
        )),
        (RouteTls::Acme, Some(name)) if !permits(acme, &name) => {
            Err("acme.allow and acme.deny do not permit an order".to_owned())
        }
        (RouteTls::Acme, Some(name)) => orderable(name, acme).map(|name| Source::Acme(vec![name])),
        (RouteTls::Auto, Some(name)) if !is_local(&name) => match &wanted.wish.asked {
            Asked::No => Ok(Source::Nobody),
            Asked::For(_) if !acme.agree_tos => {
                Err(format!("ACME_HOST needs acme.agree_tos = true: nothing is ordered for {name}"))
            }
            Asked::For(names) => asked(name, names, acme).map(Source::Acme),
            Asked::Unsaid => {
                // An address is ordered only where somebody says so: few CAs sign for one.
                let ordered = acme.automatic && permits(acme, &name) && !is_address(&name);
                let name = orderable(name, acme).ok().filter(|_| ordered);
                Ok(name.map_or(Source::Nobody, |name| Source::Acme(vec![name])))
            }
        },
        (_, Some(name)) => {
            // Neither OpenSSL nor webpki nor NSS takes one label behind the star.
            match name.strip_prefix("*.").is_some_and(|parent| !parent.contains('.')) {
                true => Err("clients take no wildcard directly under a top-level name".to_owned()),
                false => Ok(Source::LocalCa(name)),
            }
        }
    }
}

/// Those of `names` that may be ordered; `name`, whose certificate it is, has to be among them.
fn asked(name: String, names: &[String], acme: &Acme) -> Result<Vec<String>, String> {
    if !permits(acme, &name) {
        return Err("acme.allow and acme.deny do not permit an order".to_owned());
    }
    orderable(name, acme)?;
    let may = |name: &&String| {
        permits(acme, name) && !is_local(name) && orderable((*name).clone(), acme).is_ok()
    };
    Ok(names.iter().filter(may).cloned().collect())
}

/// Something must be able to show control over it.
fn orderable(name: String, acme: &Acme) -> Result<String, String> {
    if !challenges_for(&name, acme).is_empty() {
        return Ok(name);
    }
    Err(match name.starts_with("*.") {
        true => "a wildcard is ordered by dns-01 alone: see [acme.dns]".to_owned(),
        false if is_address(&name) => {
            "no challenge of acme.challenges can be used for an address".to_owned()
        }
        false => "dns-01 needs acme.dns.exec or acme.dns.server: see [acme.dns]".to_owned(),
    })
}

/// Of one that is wanted from a CA, or that a CA issued and that serves a host.
fn acme_report(id: &str, draft: &Draft<'_>) -> CertificateReport {
    let progress = draft.stock.progress.get(id).cloned().unwrap_or_default();
    let told = CertificateReport {
        names: draft.desired.get(id).map(|desired| desired.names.clone()).unwrap_or_default(),
        issuer: String::new(),
        not_after: None,
        next_renewal: progress.next_renewal.map(rfc3339),
        kind: CertificateKind::Acme,
        state: match progress.last_error {
            Some(_) if !progress.is_ordering => CertificateState::Failed,
            _ => CertificateState::Pending,
        },
        last_error: progress.last_error,
        next_try: progress.next_try.map(rfc3339),
    };
    let Some(issued) = draft.stock.issued.get(id) else { return told };
    let CertificateReport { next_renewal, last_error, next_try, .. } = told;
    let own = report(&issued.pair, CertificateKind::Acme, draft.now);
    CertificateReport { next_renewal, last_error, next_try, ..own }
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
            next_try: None,
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
        next_try: None,
    }
}

/// Whole seconds, as certificates have them.
fn rfc3339(time: OffsetDateTime) -> String {
    let whole = time.replace_nanosecond(0).unwrap_or(time);
    whole.format(&Rfc3339).unwrap_or_else(|_| whole.to_string())
}

#[cfg(test)]
mod tests;
