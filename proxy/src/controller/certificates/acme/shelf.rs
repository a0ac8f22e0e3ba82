//! What is kept on disk: account keys, certificates, orders under way and failures, each in a file of
//! its own below `acme/` in the state directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::record::{Failures, Issued, Origin, Pending, Record};
use crate::controller::certificates::Problem;
use crate::controller::certificates::store::{SECRET, Store, StoreError, file_name, name_of_file};

#[derive(Debug)]
pub struct Shelf {
    accounts: Store,
    certificates: Store,
    orders: Store,
    failures: Store,
}

impl Shelf {
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let open = |name: &str| Store::open(state_dir.join("acme").join(name));
        Ok(Shelf {
            accounts: open("accounts")?,
            certificates: open("certificates")?,
            orders: open("orders")?,
            failures: open("failures")?,
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
        Ok(records)
    }

    /// The origin first: beside an older certificate it says nothing wrong that lasts.
    pub fn put_issued(&self, id: &str, issued: &Issued) -> Result<(), StoreError> {
        self.put_origin(id, &issued.origin)?;
        self.certificates.write(&file_name(id, "pem"), issued.pair.to_pem().as_bytes(), SECRET)
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

    pub fn put_account(&self, account: &str, credentials: &Value) -> Result<(), StoreError> {
        self.accounts.write_json(&file_name(account, "json"), credentials)
    }

    /// An account that the CA does not know any more.
    pub fn set_account_aside(&self, account: &str, reason: &str) -> Result<Problem, StoreError> {
        self.accounts.set_aside(&file_name(account, "json"), reason)
    }
}
