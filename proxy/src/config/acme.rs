//! `[acme]`: whether, from whom and for which names certificates are ordered.

use std::net::SocketAddr;
use std::path::PathBuf;

use http::Uri;
use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::dns::{Dns, dns, server};
use super::external_account::{self, ExternalAccount, external_account};
use super::reader::{Problem, Section};
use super::value;
use crate::protocol::pattern::HostPattern;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    /// Nothing is ordered before this is true.
    pub agree_tos: bool,
    /// For the CA's mail about the account.
    pub email: Option<String>,
    /// Asked in this order: the next one where a CA itself is at fault. Never empty.
    pub directories: Vec<Directory>,
    /// Roots, as PEM, that a CA's own endpoint is trusted by, beside the public ones.
    pub ca_file: Option<PathBuf>,
    /// Those that may be used, the preferred one first. Never empty.
    pub challenges: Vec<ChallengeKind>,
    /// Every routed name, not only those that ask for it.
    pub automatic: bool,
    /// Names that may be ordered; empty means all.
    pub allow: Vec<HostPattern>,
    /// Names that may not, whatever `allow` says.
    pub deny: Vec<HostPattern>,
    /// What the CA shall issue, where it has a choice (`shortlived`, `tlsserver`).
    pub profile: Option<String>,
    /// Common name of who shall have signed the topmost certificate of the chain, where the CA has
    /// several chains (RFC 8555 section 7.4.2).
    pub preferred_chain: Option<String>,
    pub key: KeyKind,
    pub proof: Proof,
}

/// What it takes to show control over a name, for every order alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Asked about names; none is the host's own.
    pub resolver: Option<SocketAddr>,
    /// Before the first order of a name, whether the CA could see what it looks for.
    pub preflight: bool,
    /// Ports at which the CA looks.
    pub http_port: u16,
    pub tls_port: u16,
    pub dns: Dns,
}

impl Default for Proof {
    fn default() -> Self {
        Proof { resolver: None, preflight: true, http_port: 80, tls_port: 443, dns: Dns::default() }
    }
}

impl Default for Acme {
    fn default() -> Self {
        Acme {
            agree_tos: false,
            email: None,
            directories: vec![Directory::named("letsencrypt").expect("it is in the list")],
            ca_file: None,
            challenges: vec![ChallengeKind::Http01, ChallengeKind::TlsAlpn01],
            automatic: true,
            allow: Vec::new(),
            deny: Vec::new(),
            profile: None,
            preferred_chain: None,
            key: KeyKind::default(),
            proof: Proof::default(),
        }
    }
}

/// Where a CA's ACME server says what it has (RFC 8555 section 7.1.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Directory {
    pub url: String,
    /// What a new account there is bound to.
    pub external_account: Option<ExternalAccount>,
}

/// The names that stand for a URL.
const DIRECTORIES: [(&str, &str); 4] = [
    ("letsencrypt", "https://acme-v02.api.letsencrypt.org/directory"),
    ("letsencrypt-staging", "https://acme-staging-v02.api.letsencrypt.org/directory"),
    ("zerossl", "https://acme.zerossl.com/v2/DV90"),
    ("google", "https://dv.acme-v02.api.pki.goog/directory"),
];

impl Directory {
    pub fn named(name: &str) -> Option<Self> {
        let (_, url) = DIRECTORIES.iter().find(|(known, _)| *known == name)?;
        Some(Directory::at(url))
    }

    pub fn at(url: &str) -> Self {
        Directory { url: url.to_owned(), external_account: None }
    }

    /// A name of the list, or an `https` URL.
    ///
    /// # Errors
    /// The sentence for what is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(directory) = Directory::named(text) {
            return Ok(directory);
        }
        let is_https = |uri: &Uri| uri.scheme_str() == Some("https") && uri.host().is_some();
        if text.parse().is_ok_and(|uri| is_https(&uri)) {
            return Ok(Directory::at(text));
        }
        let names: Vec<String> =
            DIRECTORIES.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        Err(format!("`{text}` is neither an https URL nor one of {}", names.join(", ")))
    }
}

/// How control over a name is shown (RFC 8555 section 8, RFC 8737).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ChallengeKind {
    #[serde(rename = "http-01")]
    Http01,
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    #[serde(rename = "dns-01")]
    Dns01,
}

impl ChallengeKind {
    pub fn as_str(self) -> &'static str {
        match self {
            ChallengeKind::Http01 => "http-01",
            ChallengeKind::TlsAlpn01 => "tls-alpn-01",
            ChallengeKind::Dns01 => "dns-01",
        }
    }
}

impl std::str::FromStr for ChallengeKind {
    type Err = String;

    /// By its name, without regard to case.
    fn from_str(text: &str) -> Result<Self, String> {
        let found = CHALLENGES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        found.map(|(_, kind)| *kind).ok_or_else(|| {
            let names: Vec<&str> = CHALLENGES.iter().map(|(name, _)| *name).collect();
            format!("is not one of {}", names.join(", "))
        })
    }
}

const CHALLENGES: &[(&str, ChallengeKind)] = &[
    ("http-01", ChallengeKind::Http01),
    ("tls-alpn-01", ChallengeKind::TlsAlpn01),
    ("dns-01", ChallengeKind::Dns01),
];

/// The key of a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyKind {
    #[default]
    Ec256,
    Ec384,
    Rsa2048,
    Rsa3072,
    Rsa4096,
}

const KEYS: &[(&str, KeyKind)] = &[
    ("ec-256", KeyKind::Ec256),
    ("ec-384", KeyKind::Ec384),
    ("rsa-2048", KeyKind::Rsa2048),
    ("rsa-3072", KeyKind::Rsa3072),
    ("rsa-4096", KeyKind::Rsa4096),
];

impl std::str::FromStr for KeyKind {
    type Err = String;

    /// As acme-companion has it: `2048` is `rsa-2048`.
    fn from_str(text: &str) -> Result<Self, String> {
        let is_it = |name: &str| name == text || name.strip_prefix("rsa-") == Some(text);
        let found = KEYS.iter().find(|(name, _)| is_it(name)).map(|(_, kind)| *kind);
        found.ok_or_else(|| "is not one of ec-256, ec-384, 2048, 3072, 4096".to_owned())
    }
}

pub(super) fn acme(section: &mut Section<'_, '_, '_>, acme: &mut Acme) {
    section.read("agree_tos", &mut acme.agree_tos, value::boolean);
    section.read("email", &mut acme.email, email);
    section.read("directory", &mut acme.directories, directories);
    if let Some(account) = external_account(section) {
        bind(section, &mut acme.directories, account);
    }
    section.read("ca_file", &mut acme.ca_file, value::optional(value::path));
    section.read("challenges", &mut acme.challenges, challenges);
    section.read("automatic", &mut acme.automatic, value::boolean);
    patterns(section, "allow", &mut acme.allow);
    patterns(section, "deny", &mut acme.deny);
    section.read("profile", &mut acme.profile, optional_text);
    section.read("preferred_chain", &mut acme.preferred_chain, optional_text);
    section.read("key", &mut acme.key, value::one_of(KEYS));
    proof(section, &mut acme.proof);
    let is_possible = acme.proof.dns.provider.is_some();
    if acme.challenges.contains(&ChallengeKind::Dns01) && !is_possible {
        let problem = "dns-01 needs acme.dns.exec or acme.dns.server";
        section.mistake(section.offset(), "challenges", problem.into());
    }
}

fn proof(section: &mut Section<'_, '_, '_>, proof: &mut Proof) {
    section.read("resolver", &mut proof.resolver, value::optional(server));
    section.read("preflight", &mut proof.preflight, value::boolean);
    section.read("http_port", &mut proof.http_port, value::number(1..=65535));
    section.read("tls_port", &mut proof.tls_port, value::number(1..=65535));
    section.table("dns", |section| dns(section, &mut proof.dns));
}

/// Empty is none.
fn optional_text(value: &DeValue<'_>) -> Result<Option<String>, Problem> {
    let text = value::text(value)?.trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn email(value: &DeValue<'_>) -> Result<Option<String>, Problem> {
    match optional_text(value)? {
        Some(text) if !is_email(&text) => Err(format!("`{text}` is not an e-mail address").into()),
        email => Ok(email),
    }
}

/// Looks like one: the CA looks closer.
pub fn is_email(text: &str) -> bool {
    text.contains('@') && !text.contains([' ', ','])
}

/// What stands beside `directory` means the one that it names.
fn bind(
    section: &mut Section<'_, '_, '_>,
    directories: &mut [Directory],
    account: ExternalAccount,
) {
    if let [directory] = directories {
        directory.external_account = Some(account);
        return;
    }
    let problem = "of which CA? In a list it stands with its CA: directory = [{ url = \"zerossl\", \
                   eab_kid = \"..\", eab_hmac_key = \"..\" }, \"letsencrypt\"]";
    section.mistake(section.offset(), "eab_kid", problem.into());
}

/// A name or a URL, alone or as `url` with an external account.
fn directory(value: &DeValue<'_>) -> Result<Directory, Problem> {
    let Some(table) = value.as_table() else {
        return Ok(Directory::parse(value::text(value)?)?);
    };
    let (mut directory, mut kid, mut hmac_key) = (None, None, None);
    for (key, value) in table {
        let value = value.get_ref();
        match key.get_ref().as_ref() {
            "url" => directory = Some(Directory::parse(value::text(value)?)?),
            "eab_kid" => kid = Some(external_account::text(value)?),
            "eab_hmac_key" => hmac_key = Some(external_account::key(value)?),
            other => {
                return Err(format!("`{other}` is not one of url, eab_kid, eab_hmac_key").into());
            }
        }
    }
    let directory = directory.ok_or_else(|| Problem::from("url: missing"))?;
    let external_account = external_account::pair(kid, hmac_key)
        .map_err(|(key, problem)| Problem::from(format!("{key}: {problem}")))?;
    Ok(Directory { external_account, ..directory })
}

/// One, or a list of them.
fn directories(value: &DeValue<'_>) -> Result<Vec<Directory>, Problem> {
    match value.as_array() {
        Some(list) => distinct(list.iter().map(|item| directory(item.get_ref()))),
        None => Ok(vec![directory(value)?]),
    }
}

fn challenges(value: &DeValue<'_>) -> Result<Vec<ChallengeKind>, Problem> {
    let list = value.as_array().ok_or_else(|| Problem::from("expected a list"))?;
    distinct(list.iter().map(|item| value::one_of(CHALLENGES)(item.get_ref())))
}

/// At least one, and each once.
fn distinct<T: PartialEq>(
    items: impl Iterator<Item = Result<T, Problem>>,
) -> Result<Vec<T>, Problem> {
    let mut list = Vec::new();
    for item in items {
        let item = item?;
        if list.contains(&item) {
            return Err("names one of them twice".into());
        }
        list.push(item);
    }
    if list.is_empty() { Err("empty".into()) } else { Ok(list) }
}

fn patterns(section: &mut Section<'_, '_, '_>, key: &'static str, target: &mut Vec<HostPattern>) {
    let list = section.list(key, |value| {
        value::text(value)?.parse::<HostPattern>().map_err(|error| error.to_string().into())
    });
    if let Some(list) = list {
        *target = list.into_iter().map(toml::Spanned::into_inner).collect();
    }
}
