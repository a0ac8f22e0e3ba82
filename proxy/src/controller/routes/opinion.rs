//! What is said of a host beside where it leads: each setting with who said it. The first word stands,
//! and whoever disagrees is told so.

use std::path::PathBuf;

use crate::config::{
    ChallengeKind, Directory, ExternalAccount, Hsts, KeyKind, RouteTls, VerifyClient,
};
use crate::protocol::default_root::DefaultRoot;
use crate::protocol::snapshot::HttpsMethod;

/// A value as somebody wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opinion<T> {
    pub value: T,
    /// The variable or label.
    pub setting: String,
    pub text: String,
    /// The container's name, or the configuration.
    pub by: String,
}

impl<T> Opinion<T> {
    /// What it means, in its words.
    pub fn with<U>(self, value: U) -> Opinion<U> {
        let Opinion { setting, text, by, .. } = self;
        Opinion { value, setting, text, by }
    }
}

/// How a host is served.
#[derive(Debug, Clone, Default)]
pub(super) struct Opinions {
    pub https: Option<Opinion<HttpsMethod>>,
    pub https_port: Option<Opinion<u16>>,
    /// [`RouteTls::Passthrough`], or nothing.
    pub tls: Option<Opinion<RouteTls>>,
    pub hsts: Option<Opinion<Hsts>>,
    pub non_get_redirect: Option<Opinion<u16>>,
    pub http_on_missing: Option<Opinion<bool>>,
    pub default_root: Option<Opinion<DefaultRoot>>,
    pub cert_name: Option<Opinion<String>>,
    pub client_ca: Option<Opinion<PathBuf>>,
    pub verify_client: Option<Opinion<VerifyClient>>,
}

/// How its certificate is ordered.
#[derive(Debug, Clone, Default)]
pub(super) struct OrderOpinions {
    pub email: Option<Opinion<String>>,
    pub directory: Option<Opinion<Directory>>,
    pub challenge: Option<Opinion<ChallengeKind>>,
    pub profile: Option<Opinion<String>>,
    pub preferred_chain: Option<Opinion<String>>,
    pub external_account: Option<Opinion<ExternalAccount>>,
    pub key: Option<Opinion<KeyKind>>,
}

/// A word that does not stand, and the one that does.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dissent {
    pub setting: String,
    pub text: String,
    pub by: String,
    pub stands: String,
    pub stands_by: String,
}

impl Opinions {
    pub fn hear(&mut self, said: &Opinions) -> Vec<Dissent> {
        let heard = [
            hear(&mut self.https, said.https.as_ref()),
            hear(&mut self.https_port, said.https_port.as_ref()),
            hear(&mut self.tls, said.tls.as_ref()),
            hear(&mut self.hsts, said.hsts.as_ref()),
            hear(&mut self.non_get_redirect, said.non_get_redirect.as_ref()),
            hear(&mut self.http_on_missing, said.http_on_missing.as_ref()),
            hear(&mut self.default_root, said.default_root.as_ref()),
            hear(&mut self.cert_name, said.cert_name.as_ref()),
            hear(&mut self.client_ca, said.client_ca.as_ref()),
            hear(&mut self.verify_client, said.verify_client.as_ref()),
        ];
        heard.into_iter().flatten().collect()
    }
}

impl OrderOpinions {
    pub fn hear(&mut self, said: &OrderOpinions) -> Vec<Dissent> {
        let heard = [
            hear(&mut self.email, said.email.as_ref()),
            hear(&mut self.directory, said.directory.as_ref()),
            hear(&mut self.challenge, said.challenge.as_ref()),
            hear(&mut self.profile, said.profile.as_ref()),
            hear(&mut self.preferred_chain, said.preferred_chain.as_ref()),
            hear(&mut self.external_account, said.external_account.as_ref()),
            hear(&mut self.key, said.key.as_ref()),
        ];
        heard.into_iter().flatten().collect()
    }
}

fn hear<T: Clone + PartialEq>(
    stands: &mut Option<Opinion<T>>,
    said: Option<&Opinion<T>>,
) -> Option<Dissent> {
    let said = said?;
    let stands = stands.get_or_insert_with(|| said.clone());
    (stands.value != said.value).then(|| Dissent::of(said, stands))
}

impl Dissent {
    pub fn of<T>(said: &Opinion<T>, stands: &Opinion<T>) -> Self {
        Dissent {
            setting: said.setting.clone(),
            text: said.text.clone(),
            by: said.by.clone(),
            stands: stands.text.clone(),
            stands_by: stands.by.clone(),
        }
    }
}

/// The value that stands.
pub(super) fn value<T: Clone>(stands: Option<&Opinion<T>>) -> Option<T> {
    stands.map(|opinion| opinion.value.clone())
}
