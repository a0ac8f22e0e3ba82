//! `[acme.dns]`: who puts the record of a dns-01 challenge into the DNS, and who is asked for it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use toml::Spanned;
use toml::de::DeValue;

use super::reader::{Problem, Section};
use super::value;

/// RFC 1035 section 4.2.
const PORT: u16 = 53;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// None: there is no dns-01, and no wildcard is ordered.
    pub provider: Option<DnsProvider>,
    /// Asked for the record in place of the zone's authoritative servers, where not empty.
    pub nameservers: Vec<SocketAddr>,
    /// Until all of them have the record.
    pub propagation_limit: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        Dns { provider: None, nameservers: Vec::new(), propagation_limit: Duration::from_secs(120) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsProvider {
    /// `PROGRAM present|cleanup NAME VALUE`.
    Exec { program: PathBuf, limit: Duration },
    /// Dynamic updates (RFC 2136), signed (RFC 8945).
    Update(DnsUpdate),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsUpdate {
    /// The zone's primary server.
    pub server: SocketAddr,
    /// None: the DNS is asked.
    pub zone: Option<String>,
    pub key_name: String,
    pub secret: Secret,
    pub algorithm: TsigAlgorithm,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    Bytes(Vec<u8>),
    /// Holds it as base64, alone. Read when it is needed.
    File(PathBuf),
}

impl fmt::Debug for Secret {
    // It must never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Bytes(_) => f.write_str("Bytes(..)"),
            Secret::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// The MACs of RFC 8945 section 6 that are still worth it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TsigAlgorithm {
    #[default]
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

const ALGORITHMS: &[(&str, TsigAlgorithm)] = &[
    ("hmac-sha256", TsigAlgorithm::HmacSha256),
    ("hmac-sha384", TsigAlgorithm::HmacSha384),
    ("hmac-sha512", TsigAlgorithm::HmacSha512),
];

/// As typed: what holds between the keys comes after.
struct Raw {
    exec: Option<PathBuf>,
    exec_limit: Duration,
    server: Option<SocketAddr>,
    zone: Option<String>,
    key_name: Option<String>,
    key_secret: Option<Vec<u8>>,
    key_file: Option<PathBuf>,
    algorithm: TsigAlgorithm,
}

pub(super) fn dns(section: &mut Section<'_, '_, '_>, dns: &mut Dns) {
    let mut raw = Raw {
        exec: None,
        exec_limit: Duration::from_secs(120),
        server: None,
        zone: None,
        key_name: None,
        key_secret: None,
        key_file: None,
        algorithm: TsigAlgorithm::default(),
    };
    section.read("exec", &mut raw.exec, value::optional(value::path));
    section.read("exec_limit", &mut raw.exec_limit, value::duration);
    section.read("server", &mut raw.server, value::optional(server));
    section.read("zone", &mut raw.zone, value::optional(name));
    section.read("key_name", &mut raw.key_name, value::optional(name));
    section.read("key_secret", &mut raw.key_secret, value::optional(secret));
    section.read("key_file", &mut raw.key_file, value::optional(value::path));
    section.read("algorithm", &mut raw.algorithm, value::one_of(ALGORITHMS));
    if let Some(list) = section.list("nameservers", server) {
        dns.nameservers = list.into_iter().map(Spanned::into_inner).collect();
    }
    section.read("propagation_limit", &mut dns.propagation_limit, value::duration);
    match provider(raw) {
        Ok(provider) => dns.provider = provider,
        Err((key, problem)) => section.mistake(section.offset(), key, problem.into()),
    }
}

fn provider(raw: Raw) -> Result<Option<DnsProvider>, (&'static str, &'static str)> {
    let Raw { exec, exec_limit, server, zone, key_name, key_secret, key_file, algorithm } = raw;
    let server = match (exec, server) {
        (Some(_), Some(_)) => return Err(("exec", "acme.dns.server is there too: one of them")),
        (Some(program), None) => {
            return Ok(Some(DnsProvider::Exec { program, limit: exec_limit }));
        }
        (None, None) => return Ok(None),
        (None, Some(server)) => server,
    };
    let secret = match (key_secret, key_file) {
        (Some(_), Some(_)) => {
            return Err(("key_secret", "acme.dns.key_file is there too: one of them"));
        }
        (Some(bytes), None) => Secret::Bytes(bytes),
        (None, Some(path)) => Secret::File(path),
        (None, None) => return Err(("key_secret", "missing, and key_file as well")),
    };
    let key_name = key_name.ok_or(("key_name", "missing"))?;
    Ok(Some(DnsProvider::Update(DnsUpdate { server, zone, key_name, secret, algorithm })))
}

/// An address, with a port where it is not DNS's own.
pub(super) fn server(value: &DeValue<'_>) -> Result<SocketAddr, Problem> {
    let text = value::text(value)?;
    let with_port = text.parse().ok();
    let address =
        with_port.or_else(|| Some(SocketAddr::from((text.parse::<IpAddr>().ok()?, PORT))));
    address.ok_or_else(|| {
        format!("`{text}` is not an address, as \"192.0.2.53\" or \"127.0.0.1:5353\"").into()
    })
}

fn name(value: &DeValue<'_>) -> Result<String, Problem> {
    let text = value::text(value)?.trim_end_matches('.').to_ascii_lowercase();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.chars().all(is_plain) && text.split('.').all(|label| (1..=63).contains(&label.len())) {
        return Ok(text);
    }
    Err(format!("`{text}` is not a name in the DNS").into())
}

fn secret(value: &DeValue<'_>) -> Result<Vec<u8>, Problem> {
    decode_secret(value::text(value)?).ok_or_else(|| "not base64".into())
}

/// The secret of a TSIG key, as key generators write it.
pub fn decode_secret(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.trim()).ok().filter(|bytes| !bytes.is_empty())
}
