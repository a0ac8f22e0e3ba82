//! Accounts at CAs: registered once, kept on disk, and asked for by everybody who orders.

use std::collections::HashMap;
use std::sync::Arc;

use instant_acme::{
    Account, AccountBuilder, AccountCredentials, Error, ExternalAccountKey, Key, NewAccount,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::Mutex;

use super::chains::Chains;
use super::client::Client;
use super::desired::Desired;
use super::gate::Gate;
use super::order::OrderError;
use super::shelf::Shelf;
use crate::config::{Directory, ExternalAccount};

pub struct Accounts {
    client: Client,
    shelf: Arc<Shelf>,
    gate: Gate,
    /// Stock while one is registered, so that nobody registers it twice.
    known: Mutex<HashMap<String, Account>>,
}

impl Accounts {
    /// What CAs have sent.
    pub fn chains(&self) -> &Chains {
        &self.client.chains
    }

    pub fn new(client: Client, shelf: Arc<Shelf>, gate: Gate) -> Self {
        Accounts { client, shelf, gate, known: Mutex::default() }
    }

    /// The account for a certificate at this CA: the one at hand, the one on disk, or a new one.
    pub async fn get(
        &self,
        directory: &Directory,
        desired: &Desired,
    ) -> Result<Account, OrderError> {
        let id = id(directory, desired.email.as_deref());
        let mut known = self.known.lock().await;
        if let Some(account) = known.get(&id) {
            return Ok(account.clone());
        }
        let account = match self.load(&id).await? {
            Some(account) => account,
            None => self.register(&id, directory, desired).await?,
        };
        known.insert(id, account.clone());
        Ok(account)
    }

    /// Its directory is asked for anew with the next order: the CA may have moved.
    pub async fn forget(&self, directory: &Directory, desired: &Desired) {
        self.known.lock().await.remove(&id(directory, desired.email.as_deref()));
    }

    /// The CA does not know the account any more: the next order registers another one.
    pub async fn discard(&self, directory: &Directory, desired: &Desired, reason: &str) {
        self.forget(directory, desired).await;
        match self.shelf.set_account_aside(&id(directory, desired.email.as_deref()), reason) {
            Ok(problem) => tracing::warn!("{problem}"),
            Err(error) => tracing::error!("{error}"),
        }
    }

    async fn load(&self, id: &str) -> Result<Option<Account>, OrderError> {
        let mut problems = Vec::new();
        let credentials = self.shelf.account(id, &mut problems)?;
        problems.iter().for_each(|problem| tracing::error!("{problem}"));
        let Some(credentials) = credentials else { return Ok(None) };
        match serde_json::from_value(credentials) {
            Ok(credentials) => {
                let builder = Account::builder_with_http(Box::new(self.client.clone()));
                Ok(Some(builder.from_credentials(credentials).await?))
            }
            Err(_) => {
                let problem =
                    self.shelf.set_account_aside(id, "not the credentials of an account")?;
                tracing::error!("{problem}");
                Ok(None)
            }
        }
    }

    async fn register(
        &self,
        id: &str,
        directory: &Directory,
        desired: &Desired,
    ) -> Result<Account, OrderError> {
        let contact = desired.email.as_ref().map(|email| format!("mailto:{email}"));
        let passed = self.gate.pass().await;
        let builder = Account::builder_with_http(Box::new(self.client.clone()));
        let (account, credentials) = match &directory.external_account {
            Some(external) => bind(builder, directory, external, contact.as_deref()).await?,
            None => self.register_unbound(builder, id, directory, contact.as_deref()).await?,
        };
        let credentials = serde_json::to_value(credentials).expect("its keys are strings");
        self.shelf.put_account(id, &credentials)?;
        drop(passed);
        tracing::info!("registered an account at {}", directory.url);
        Ok(account)
    }

    /// The key is on disk before the CA is asked: to one that it knows already, a CA answers with its
    /// account (RFC 8555 section 7.3.1).
    async fn register_unbound(
        &self,
        builder: AccountBuilder,
        id: &str,
        directory: &Directory,
        contact: Option<&str>,
    ) -> Result<(Account, AccountCredentials), OrderError> {
        let key = self.new_key(id)?;
        // The terms: nothing is desired before they are agreed to (`acme.agree_tos`).
        let (account, credentials) = builder.create_from_key(key, directory.url.clone()).await?;
        if let Some(contact) = contact {
            account.update_contacts(&[contact]).await?;
        }
        Ok((account, credentials))
    }

    /// The key that a registration was begun with, or one for a registration that begins.
    fn new_key(&self, id: &str) -> Result<(Key, PrivateKeyDer<'static>), OrderError> {
        if let Some(der) = self.shelf.account_key(id)? {
            let der = PrivatePkcs8KeyDer::from(der);
            if let Ok(key) = Key::from_pkcs8_der(der.clone_key()) {
                return Ok((key, der.into()));
            }
        }
        let (key, der) = Key::generate_pkcs8()?;
        self.shelf.put_account_key(id, der.secret_pkcs8_der())?;
        Ok((key, der.into()))
    }
}

/// Registers an account that belongs to one that people have at the CA. The library binds only keys
/// that it has just made: a crash before the account is on disk leaves it at the CA, and the next
/// order registers another one.
async fn bind(
    builder: AccountBuilder,
    directory: &Directory,
    external: &ExternalAccount,
    contact: Option<&str>,
) -> Result<(Account, AccountCredentials), Error> {
    let new = NewAccount {
        contact: contact.as_slice(),
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let external = ExternalAccountKey::new(external.kid.clone(), &external.hmac_key);
    builder.create(&new, directory.url.clone(), Some(&external)).await
}

/// A name for the account's file: the CA, and the address where there is one.
fn id(directory: &Directory, email: Option<&str>) -> String {
    let plain = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "_");
    let url = directory.url.strip_prefix("https://").unwrap_or(&directory.url);
    match email {
        Some(email) => format!("{},{}", plain(url), plain(email)),
        None => plain(url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_have_readable_files() {
        let directory = Directory::named("letsencrypt").expect("known");
        for (email, want) in [
            (None, "acme_v02.api.letsencrypt.org_directory"),
            (Some("me@example.com"), "acme_v02.api.letsencrypt.org_directory,me_example.com"),
        ] {
            assert_eq!(id(&directory, email), want);
        }
    }
}
