//! What is kept on disk: account keys, certificates, orders under way and failures, each in a file of
//! its own below `acme/` in the state directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::record::{Failures, Issued, Origin, Pending, Record};
use crate::controller::certificates::Problem;
use crate::controller::store::{SECRET, Store, StoreError, file_name, name_of_file};

#[derive(Debug)]
pub struct Shelf {
    accounts: Store,
    certificates: Store,
    orders: Store,
    failures: Store,
    revoked: Store,
}

/// That a certificate was revoked.
#[derive(Serialize, Deserialize)]
struct Revoked {
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
}

impl Shelf {
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let open = |name: &str| Store::open(state_dir.join("acme").join(name));
        Ok(Shelf {
            accounts: open("accounts")?,
            certificates: open("certificates")?,
            orders: open("orders")?,
            failures: open("failures")?,
            revoked: open("revoked")?,
        })
    }

    /// Everything that is known, by id. What is torn or foreign is set aside and reported.
    pub fn load(
        &self,
        problems: &mut Vec<Problem>,
    ) -> Result<BTreeMap<String, Record>, StoreError> {
        let mut records: BTreeMap<String, Record> = BTreeMap::new();
        for file in self.certificates.list(".pem")? {
            let Some(id) = name_of_file(&file, "pem") else { continue };
            if let Some(pair) = self.certificates.read_pair(&file, problems)? {
                let origin = self.certificates.read_json(&file_name(&id, "json"), problems)?;
                let origin: Origin = origin.unwrap_or_default();
                records.entry(id).or_default().issued =
                    Some(Issued { pair: Arc::new(pair), origin });
            }
        }
        for file in self.orders.list(".json")? {
            let Some(id) = name_of_file(&file, "json") else { continue };
            records.entry(id).or_default().pending = self.orders.read_json(&file, problems)?;
        }
        for file in self.failures.list(".json")? {
            let Some(id) = name_of_file(&file, "json") else { continue };
            let failures: Option<Failures> = self.failures.read_json(&file, problems)?;
            records.entry(id).or_default().failures = failures.unwrap_or_default();
        }
        for file in self.revoked.list(".json")? {
            let Some(id) = name_of_file(&file, "json") else { continue };
            let revoked: Option<Revoked> = self.revoked.read_json(&file, problems)?;
            let record = records.entry(id).or_default();
            record.revoked = revoked.map(|revoked| revoked.at);
            // A crash has left it.
            if record.revoked.is_some() {
                record.issued = None;
            }
        }
        Ok(records)
    }

    /// The origin first: beside an older certificate it says nothing wrong that lasts.
    pub fn put_issued(&self, id: &str, issued: &Issued) -> Result<(), StoreError> {
        self.put_origin(id, &issued.origin)?;
        self.certificates.write(&file_name(id, "pem"), issued.pair.to_pem().as_bytes(), SECRET)
    }

    /// Takes a revoked certificate and its key away. The note comes first: without the certificate and
    /// without the note, another one would be ordered.
    pub fn put_revoked(&self, id: &str, at: OffsetDateTime) -> Result<(), StoreError> {
        self.revoked.write_json(&file_name(id, "json"), &Revoked { at })?;
        self.certificates.remove(&file_name(id, "pem"))?;
        self.certificates.remove(&file_name(id, "json"))
    }

    pub fn remove_revoked(&self, id: &str) -> Result<(), StoreError> {
        self.revoked.remove(&file_name(id, "json"))
    }

    pub fn put_origin(&self, id: &str, origin: &Origin) -> Result<(), StoreError> {
        self.certificates.write_json(&file_name(id, "json"), origin)
    }

    pub fn put_pending(&self, id: &str, pending: &Pending) -> Result<(), StoreError> {
        self.orders.write_json(&file_name(id, "json"), pending)
    }

    pub fn remove_pending(&self, id: &str) -> Result<(), StoreError> {
        self.orders.remove(&file_name(id, "json"))
    }

    pub fn put_failures(&self, id: &str, failures: &Failures) -> Result<(), StoreError> {
        let file = file_name(id, "json");
        if failures.is_empty() {
            return self.failures.remove(&file);
        }
        self.failures.write_json(&file, failures)
    }

    /// The credentials of an account, as the library writes them.
    pub fn account(
        &self,
        account: &str,
        problems: &mut Vec<Problem>,
    ) -> Result<Option<Value>, StoreError> {
        self.accounts.read_json(&file_name(account, "json"), problems)
    }

    /// They have the key with them.
    pub fn put_account(&self, account: &str, credentials: &Value) -> Result<(), StoreError> {
        self.accounts.write_json(&file_name(account, "json"), credentials)?;
        self.accounts.remove(&file_name(account, "key"))
    }

    /// PKCS #8, of an account that may not be registered yet.
    pub fn account_key(&self, account: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.accounts.read(&file_name(account, "key"))
    }

    pub fn put_account_key(&self, account: &str, pkcs8: &[u8]) -> Result<(), StoreError> {
        self.accounts.write(&file_name(account, "key"), pkcs8, SECRET)
    }

    /// An account that the CA does not know any more.
    pub fn set_account_aside(&self, account: &str, reason: &str) -> Result<Problem, StoreError> {
        self.accounts.set_aside(&file_name(account, "json"), reason)
    }
}
