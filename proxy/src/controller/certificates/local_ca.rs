//! The local CA: signs for names that no public CA signs, so that HTTPS works there too.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{Issuer, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use time::OffsetDateTime;

use super::pair::Pair;
use super::{CertificateError, Problem, issue};
use crate::controller::store::{PUBLIC, SECRET, Store, StoreError, file_name};
use crate::controller::write_behind::WriteBehind;

/// Certificate and key of the root: the truth.
const ROOT: &str = "root.pem";
/// The root's certificate alone: a copy for people to import.
const CERTIFICATE: &str = "ca.pem";
/// Begins the name of every root; the host's name follows.
const NAME: &str = "baton local CA";

#[derive(Debug)]
pub(super) struct LocalCa {
    root: Store,
    leafs: Store,
    /// Writes leafs: of thousands, each takes the disk some milliseconds.
    behind: WriteBehind,
    authority: Option<Authority>,
    issued: HashMap<String, Leaf>,
}

/// A certificate that was good when it came.
#[derive(Debug)]
struct Leaf {
    pair: Pair,
    /// The root that it was good under.
    root: CertificateDer<'static>,
}

/// The root, ready to sign and to check.
#[derive(Debug)]
struct Authority {
    certificate: Pair,
    issuer: Issuer<'static, KeyPair>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl LocalCa {
    /// Makes no root yet: a host that needs none has none.
    pub fn open(directory: PathBuf) -> Result<Self, StoreError> {
        let leafs = || Store::open(directory.join("leafs"));
        let (leafs, behind) = (leafs()?, WriteBehind::start(leafs()?));
        let root = Store::open(directory)?;
        Ok(LocalCa { root, leafs, behind, authority: None, issued: HashMap::new() })
    }

    /// Where the root's certificate is, once there is one.
    pub fn certificate_file(&self) -> PathBuf {
        self.root.path(CERTIFICATE)
    }

    /// A certificate for `name` (a host, `*.host` or an IP address) that clients which trust the
    /// root will take: the one at hand, the one on disk, or a new one.
    pub fn leaf(
        &mut self,
        name: &str,
        now: OffsetDateTime,
        problems: &mut Vec<Problem>,
    ) -> Result<&Pair, CertificateError> {
        self.ensure_authority(now, problems)?;
        // Of a full disk. They live in memory until the next start.
        problems.extend(self.behind.failures());
        let authority = self.authority.as_ref().expect("made a line above");
        // Without another look at its signature: there may be thousands.
        let fresh = |leaf: &Leaf| {
            let is_ours = leaf.root == authority.certificate.leaf;
            is_ours && leaf.pair.is_valid(now) && now < leaf.pair.renewal()
        };
        if !self.issued.get(name).is_some_and(fresh) {
            match load_or_issue((&self.leafs, &self.behind), authority, name, now, problems) {
                Ok(pair) => {
                    let root = authority.certificate.leaf.clone();
                    self.issued.insert(name.to_owned(), Leaf { pair, root });
                }
                // One that is due but still good is better than none.
                Err(error) if self.issued.get(name).is_some_and(|old| old.pair.is_valid(now)) => {
                    problems.push(Problem { thing: name.to_owned(), reason: error.to_string() });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(&self.issued[name].pair)
    }

    #[cfg(test)]
    pub fn flush(&self) -> bool {
        self.behind.flush()
    }

    /// Forgets, in memory alone, what nobody asks for any more.
    pub fn retain(&mut self, names: &HashSet<String>) {
        self.issued.retain(|name, _| names.contains(name));
    }

    pub fn issued(&self) -> impl Iterator<Item = &Pair> {
        self.issued.values().map(|leaf| &leaf.pair)
    }

    fn ensure_authority(
        &mut self,
        now: OffsetDateTime,
        problems: &mut Vec<Problem>,
    ) -> Result<(), CertificateError> {
        if self.authority.as_ref().is_some_and(|authority| authority.lasts(now)) {
            return Ok(());
        }
        let authority = load_or_make_root(&self.root, now, problems)?;
        publish(&self.root, &authority.certificate.chain_pem, problems)?;
        self.authority = Some(authority);
        Ok(())
    }
}

impl Authority {
    fn new(certificate: Pair) -> Result<Self, CertificateError> {
        let key = KeyPair::from_pem(&certificate.key_pem)?;
        let issuer = Issuer::from_ca_cert_der(&certificate.leaf, key)?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.leaf.clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| CertificateError::Verifier(error.to_string()))?;
        Ok(Authority { certificate, issuer, verifier })
    }

    /// A root must outlive what it signs.
    fn lasts(&self, now: OffsetDateTime) -> bool {
        self.certificate.is_valid(now) && now + issue::LEAF_LIFE < self.certificate.not_after
    }

    /// Whether a client that trusts this root takes the certificate for this name now.
    fn check(&self, pair: &Pair, name: &str, now: OffsetDateTime) -> Result<(), CertificateError> {
        let example = match name.strip_prefix('*') {
            Some(suffix) => format!("any{suffix}"),
            None => name.to_owned(),
        };
        let name = ServerName::try_from(example).map_err(|_| CertificateError::Name)?;
        let seconds = u64::try_from(now.unix_timestamp()).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        self.verifier.verify_server_cert(&pair.leaf, &[], &name, &[], now)?;
        Ok(())
    }
}

fn load_or_make_root(
    store: &Store,
    now: OffsetDateTime,
    problems: &mut Vec<Problem>,
) -> Result<Authority, CertificateError> {
    if let Some(pair) = store.read_pair(ROOT, problems)? {
        match Authority::new(pair) {
            Ok(authority) if authority.lasts(now) => return Ok(authority),
            // Kept, because clients still trust it and somebody may want to know.
            Ok(_) => problems.push(store.set_aside(ROOT, "the root expires: import the new one")?),
            Err(error) => problems.push(store.set_aside(ROOT, &error.to_string())?),
        }
    }
    let issued = issue::root(&format!("{NAME} ({})", host_name()), now)?;
    let pair = Pair::parse(&issued.chain_pem, &issued.key_pem)?;
    store.write(ROOT, pair.to_pem().as_bytes(), SECRET)?;
    Authority::new(pair)
}

/// Keeps the copy for people equal to the root.
fn publish(store: &Store, pem: &str, problems: &mut Vec<Problem>) -> Result<(), StoreError> {
    match store.read(CERTIFICATE)? {
        Some(bytes) if bytes == pem.as_bytes() => return Ok(()),
        Some(_) => problems.push(store.set_aside(CERTIFICATE, "not the root that is in use")?),
        None => {}
    }
    store.write(CERTIFICATE, pem.as_bytes(), PUBLIC)
}

fn load_or_issue(
    (store, behind): (&Store, &WriteBehind),
    authority: &Authority,
    name: &str,
    now: OffsetDateTime,
    problems: &mut Vec<Problem>,
) -> Result<Pair, CertificateError> {
    let file = file_name(name, "pem");
    if let Some(pair) = store.read_pair(&file, problems)? {
        if now < pair.renewal() && authority.check(&pair, name, now).is_ok() {
            return Ok(pair);
        }
        // Ours for this name, of an older root or past its renewal, may be replaced.
        let ours = pair.issuer.starts_with(NAME) && pair.names == [name];
        if !ours {
            let reason = format!("not a certificate of the local CA for {name}");
            problems.push(store.set_aside(&file, &reason)?);
        }
    }
    let issued = issue::leaf(name, &authority.issuer, now)?;
    let pair = Pair::parse(&issued.chain_pem, &issued.key_pem)?;
    authority.check(&pair, name, now)?;
    behind.write(file, pair.to_pem().into_bytes());
    Ok(pair)
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "this host".to_owned())
}
