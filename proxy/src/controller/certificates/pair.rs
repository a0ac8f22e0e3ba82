//! A certificate chain with its private key, checked once when it is read: from then on it parses
//! and the key belongs to it.

use std::net::IpAddr;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use crate::protocol::pattern::HostPattern;
use crate::protocol::snapshot;

#[derive(Debug, thiserror::Error)]
pub enum PairError {
    #[error("no certificate in it (expected PEM)")]
    NoCertificate,
    #[error("no private key in it (expected PEM)")]
    NoKey,
    #[error("certificate does not parse: {0}")]
    Certificate(String),
    #[error("private key does not match the certificate")]
    Mismatch,
    #[error("private key cannot be used: {0}")]
    Key(rustls::Error),
}

pub struct Pair {
    /// Leaf first.
    pub chain_pem: String,
    pub key_pem: String,
    pub leaf: CertificateDer<'static>,
    /// From the subject alternative names: lower case, wildcards as `*.example.com`, addresses.
    pub names: Vec<String>,
    /// The issuer's common name, else its whole name.
    pub issuer: String,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

impl Pair {
    pub fn parse(chain_pem: &str, key_pem: &str) -> Result<Self, PairError> {
        let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| PairError::Certificate(error.to_string()))?;
        let leaf = chain.first().ok_or(PairError::NoCertificate)?.clone();
        let key =
            PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| PairError::NoKey)?;
        check_key(chain, key)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&leaf)
            .map_err(|error| PairError::Certificate(error.to_string()))?;
        Ok(Pair {
            names: names(&parsed),
            issuer: issuer(&parsed),
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
            chain_pem: chain_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            leaf,
        })
    }

    /// Reads both from one text, as [`Pair::to_pem`] writes them.
    pub fn from_pem(pem: &str) -> Result<Self, PairError> {
        let is_key = |at: &usize| {
            pem[*at..].lines().next().is_some_and(|line| line.ends_with("PRIVATE KEY-----"))
        };
        let mut begins = pem.match_indices("-----BEGIN ").map(|(at, _)| at);
        let key = begins.find(is_key).ok_or(PairError::NoKey)?;
        let (chain_pem, key_pem) = pem.split_at(key);
        Pair::parse(chain_pem, key_pem)
    }

    /// Chain and key in one text, so that one rename replaces both.
    pub fn to_pem(&self) -> String {
        // Files of others may lack the last newline.
        format!("{}\n{}", self.chain_pem.trim_end(), self.key_pem)
    }

    /// Less than a quarter of its life is left: whoever keeps it has given up.
    pub fn is_late(&self, now: OffsetDateTime) -> bool {
        self.not_after - now < (self.not_after - self.not_before) / 4
    }

    pub fn is_valid(&self, now: OffsetDateTime) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// Whether clients that ask for a host of this pattern can take it, dates aside. RFC 6125 6.4.3:
    /// a wildcard stands for one label.
    pub fn covers(&self, pattern: &HostPattern) -> bool {
        let has = |name: &str| self.names.iter().any(|own| own == name);
        match pattern {
            HostPattern::Exact(name) => has(name) || parent_wildcard(name).is_some_and(|w| has(&w)),
            HostPattern::Leading(suffix) => has(&format!("*{suffix}")),
            HostPattern::Trailing(_) | HostPattern::Regex(_) => false,
        }
    }

    /// When one that baton makes is made anew: after two thirds of its life.
    pub fn renewal(&self) -> OffsetDateTime {
        let life: Duration = self.not_after - self.not_before;
        self.not_before + life * 2 / 3
    }

    pub fn to_snapshot(&self) -> snapshot::Certificate {
        snapshot::Certificate {
            names: self.names.clone(),
            chain_pem: self.chain_pem.clone(),
            key_pem: self.key_pem.clone(),
        }
    }
}

/// `*.example.com` for `app.example.com`; addresses have none.
fn parent_wildcard(name: &str) -> Option<String> {
    if name.parse::<IpAddr>().is_ok() {
        return None;
    }
    let (_, parent) = name.split_once('.')?;
    Some(format!("*.{parent}"))
}

fn check_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(), PairError> {
    use rustls::{CertificateError, Error};

    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(Error::InconsistentKeys(_)) => Err(PairError::Mismatch),
        Err(Error::InvalidCertificate(CertificateError::BadEncoding)) => {
            Err(PairError::Certificate("bad encoding".to_owned()))
        }
        Err(error) => Err(PairError::Key(error)),
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    extension.value.general_names.iter().filter_map(name).collect()
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4().or_else(|_| v6()).ok()
}

fn issuer(certificate: &X509Certificate<'_>) -> String {
    let issuer = certificate.issuer();
    let common_name = issuer.iter_common_name().find_map(|name| name.as_str().ok());
    common_name.map_or_else(|| issuer.to_string(), str::to_owned)
}

impl std::fmt::Debug for Pair {
    // The key must never reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("names", &self.names).finish_non_exhaustive()
    }
}
