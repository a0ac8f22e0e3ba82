//! Records for dns-01 (RFC 8555 section 8.4): put into the DNS, waited for until every authoritative
//! server has them, and taken away again.

mod authority;
mod exec;
mod names;
mod update;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hickory_proto::ProtoError;
use hickory_proto::rr::Name;
use hickory_resolver::net::NetError;
use tokio::sync::Mutex;

use self::authority::Authority;
use crate::config::{Dns, DnsProvider};

pub use self::names::Names;

/// RFC 8555 section 8.4.
const LABEL: &str = "_acme-challenge";

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("dns-01 needs acme.dns.exec or acme.dns.server")]
    NoProvider,
    #[error("{0}: not a name that the DNS can have")]
    Name(String),
    #[error("the resolver: {0}")]
    Resolver(Box<NetError>),
    #[error("{name}: {source}")]
    Lookup { name: String, source: Box<NetError> },
    #[error("{0}: the DNS names no zone that it is in")]
    NoZone(String),
    #[error("{0}: too many aliases (CNAME)")]
    Aliases(String),
    #[error("{0}: the DNS names no server of this zone that has an address")]
    NoServer(String),
    #[error("{name} is not everywhere after {} s: {missing}: see acme.dns.propagation_limit",
        .limit.as_secs())]
    NotVisible { name: String, limit: Duration, missing: String },
    #[error("{path}: {reason}", path = .program.display())]
    Exec { program: PathBuf, reason: String },
    #[error("the update of {zone} at {server}: {reason}")]
    Update { zone: String, server: SocketAddr, reason: String },
    #[error("acme.dns.key_file: {path}: {reason}", path = .path.display())]
    KeyFile { path: PathBuf, reason: String },
}

/// A TXT record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub name: Name,
    pub value: String,
}

/// The name whose record shows control over `host`, which may be a wildcard.
pub fn record_name(host: &str) -> String {
    format!("{LABEL}.{}", host.strip_prefix("*.").unwrap_or(host))
}

/// Puts records into the DNS, as `[acme.dns]` says.
pub struct Records {
    config: Dns,
    names: Names,
    /// One change at a time: a program need not be prepared for another one beside it.
    turn: Mutex<()>,
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Present,
    CleanUp,
}

impl Records {
    pub fn new(config: Dns, names: Names) -> Self {
        Records { config, names, turn: Mutex::default() }
    }

    /// Adds the records, and returns when every authoritative server has them.
    ///
    /// # Errors
    /// When one has not in time: the CA must not be told to look.
    pub async fn present(&self, wanted: &[(String, String)]) -> Result<(), DnsError> {
        let mut records = Vec::new();
        for (name, value) in wanted {
            let record = self.record(name, value).await?;
            self.change(Change::Present, &record).await?;
            records.push(record);
        }
        if records.is_empty() {
            return Ok(());
        }
        let authority = Authority::new(&self.names, &self.config.nameservers);
        authority.wait_for(&records, self.config.propagation_limit).await
    }

    /// Removes what [`Records::present`] has added.
    ///
    /// # Errors
    /// When it cannot: the record stays, which harms nobody.
    pub async fn clean_up(&self, name: &str, value: &str) -> Result<(), DnsError> {
        let record = self.record(name, value).await?;
        self.change(Change::CleanUp, &record).await
    }

    /// Where the record has to stand: the zone's owner may have pointed the name elsewhere.
    async fn record(&self, name: &str, value: &str) -> Result<Record, DnsError> {
        let name = self.names.target(parse(name)?).await?;
        Ok(Record { name, value: value.to_owned() })
    }

    async fn change(&self, change: Change, record: &Record) -> Result<(), DnsError> {
        let _turn = self.turn.lock().await;
        match &self.config.provider {
            None => Err(DnsError::NoProvider),
            Some(DnsProvider::Exec { program, limit }) => {
                exec::run(program, *limit, change, record).await
            }
            Some(DnsProvider::Update(update)) => {
                update::send(update, &self.names, change, record).await
            }
        }
    }
}

/// For people.
fn text(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_owned()
}

/// Always a full name: no search list applies.
fn parse(name: &str) -> Result<Name, DnsError> {
    let parsed = Name::from_ascii(name).map_err(|_: ProtoError| DnsError::Name(name.to_owned()));
    parsed.map(|mut name| {
        name.set_fqdn(true);
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_and_its_parent_share_the_name_of_the_record() {
        for host in ["example.com", "*.example.com"] {
            assert_eq!(record_name(host), "_acme-challenge.example.com");
        }
    }
}
