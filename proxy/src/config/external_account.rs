//! External account binding (RFC 8555 section 7.3.4): the account that somebody has at a CA already,
//! by an id and a key that the CA has given out.

use std::fmt;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use toml::de::DeValue;

use super::reader::{Problem, Section};
use super::value;

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExternalAccount {
    pub kid: String,
    pub hmac_key: Vec<u8>,
}

impl fmt::Debug for ExternalAccount {
    // The key must never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalAccount").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// `eab_kid` and `eab_hmac_key` of `[acme]`.
pub(super) fn external_account(section: &mut Section<'_, '_, '_>) -> Option<ExternalAccount> {
    let (mut kid, mut hmac_key) = (None, None);
    section.read("eab_kid", &mut kid, value::optional(text));
    section.read("eab_hmac_key", &mut hmac_key, value::optional(key));
    match pair(kid, hmac_key) {
        Ok(account) => account,
        Err((key, problem)) => {
            section.mistake(section.offset(), key, problem.into());
            None
        }
    }
}

/// Both or none.
pub(super) fn pair(
    kid: Option<String>,
    hmac_key: Option<Vec<u8>>,
) -> Result<Option<ExternalAccount>, (&'static str, &'static str)> {
    match (kid, hmac_key) {
        (Some(kid), Some(hmac_key)) => Ok(Some(ExternalAccount { kid, hmac_key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(("eab_hmac_key", "missing beside eab_kid")),
        (None, Some(_)) => Err(("eab_kid", "missing beside eab_hmac_key")),
    }
}

pub(super) fn text(value: &DeValue<'_>) -> Result<String, Problem> {
    Ok(value::text(value)?.trim().to_owned())
}

pub(super) fn key(value: &DeValue<'_>) -> Result<Vec<u8>, Problem> {
    decode_key(value::text(value)?).ok_or_else(|| "not base64url".into())
}

impl ExternalAccount {
    /// # Errors
    /// When the key is not base64url.
    pub fn new(kid: &str, hmac_key: &str) -> Result<Self, String> {
        let hmac_key = decode_key(hmac_key).ok_or("is not base64url")?;
        Ok(ExternalAccount { kid: kid.to_owned(), hmac_key })
    }
}

/// Some CAs pad what they give out.
fn decode_key(text: &str) -> Option<Vec<u8>> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&URL_SAFE, config).decode(text.trim()).ok().filter(|key| !key.is_empty())
}
