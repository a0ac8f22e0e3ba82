//! Accounts at CAs: registered once, kept on disk, and asked for by everybody who orders.

use std::collections::HashMap;
use std::sync::Arc;

use instant_acme::{Account, ExternalAccountKey, NewAccount};
use tokio::sync::Mutex;

use super::client::Client;
use super::desired::Desired;
use super::order::OrderError;
use super::shelf::Shelf;
use crate::config::Directory;

pub struct Accounts {
    client: Client,
    shelf: Arc<Shelf>,
    /// Stock while one is registered, so that nobody registers it twice.
    known: Mutex<HashMap<String, Account>>,
}

impl Accounts {
    pub fn new(client: Client, shelf: Arc<Shelf>) -> Self {
        Accounts { client, shelf, known: Mutex::default() }
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
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            // Nothing is desired before it is so: `acme.agree_tos`.
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let builder = Account::builder_with_http(Box::new(self.client.clone()));
        let external = directory.external_account.as_ref();
        let external =
            external.map(|account| ExternalAccountKey::new(account.kid.clone(), &account.hmac_key));
        let (account, credentials) =
            builder.create(&new, directory.url.clone(), external.as_ref()).await?;
        let credentials = serde_json::to_value(credentials).expect("its keys are strings");
        self.shelf.put_account(id, &credentials)?;
        tracing::info!("registered an account at {}", directory.url);
        Ok(account)
    }
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
