//! Another chain than the CA's default one for the same certificate (RFC 8555 section 7.4.2): where
//! clients trust one root and not the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use http::header::{CONTENT_TYPE, LINK};
use instant_acme::Account;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

const MEDIA_TYPE: &str = "application/pem-certificate-chain";
/// Most alternates that are looked at.
const MAX_ALTERNATES: usize = 8;
/// Downloads that nobody has come for.
const MAX_KEPT: usize = 64;

/// The chains that CAs have sent, by URL. instant-acme gives out the default chain and not where the
/// others are, so the HTTP client takes note.
#[derive(Debug, Clone, Default)]
pub struct Chains(Arc<Mutex<HashMap<String, Download>>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Download {
    pem: String,
    alternates: Vec<String>,
}

impl Chains {
    /// Keeps an answer that is a chain.
    pub fn note(&self, url: &str, headers: &HeaderMap, body: &[u8]) {
        let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_chain = kind.is_some_and(|kind| kind.split(';').next() == Some(MEDIA_TYPE));
        let Some(pem) = str::from_utf8(body).ok().filter(|_| is_chain) else { return };
        let alternates =
            headers.get_all(LINK).iter().filter_map(|link| alternate(link.to_str().ok()?));
        let download = Download { pem: pem.to_owned(), alternates: alternates.collect() };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(url.to_owned(), download);
    }

    fn take(&self, url: &str) -> Option<Download> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(url)
    }

    /// The chain from `url` whose topmost certificate `issuer` (a common name) has signed. Where there
    /// is none, the issuers that there are.
    ///
    /// # Errors
    /// Those issuers, the default one first.
    pub async fn by_issuer(
        &self,
        account: &Account,
        url: &str,
        issuer: &str,
    ) -> Result<String, Vec<String>> {
        let mut offered = Vec::new();
        let Some(default) = self.take(url) else { return Err(offered) };
        let mut looked_at = Some(default.pem);
        let mut alternates = default.alternates.into_iter().take(MAX_ALTERNATES);
        while let Some(pem) = looked_at {
            match topmost_issuer(&pem) {
                Some(name) if name == issuer => return Ok(pem),
                name => offered.extend(name),
            }
            looked_at = match alternates.next() {
                Some(url) => self.download(account, url).await,
                None => None,
            };
        }
        Err(offered)
    }

    /// instant-acme asks for an order at this URL, signed as each request is; that the answer is none
    /// is an error to it, and the chain to us.
    async fn download(&self, account: &Account, url: String) -> Option<String> {
        let _ = account.order(url.clone()).await;
        self.take(&url).map(|download| download.pem)
    }
}

/// `<https://ca/cert/1/1>;rel="alternate"` (RFC 8288).
pub(crate) fn alternate(link: &str) -> Option<String> {
    let (url, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_alternate = parameters
        .split(';')
        .any(|parameter| matches!(parameter.trim(), "rel=\"alternate\"" | "rel=alternate"));
    is_alternate.then(|| url.to_owned())
}

/// Common name of who signed the last certificate.
pub(crate) fn topmost_issuer(pem: &str) -> Option<String> {
    let last = CertificateDer::pem_slice_iter(pem.as_bytes()).last()?.ok()?;
    let (_, certificate) = X509Certificate::from_der(&last).ok()?;
    let name = certificate.issuer().iter_common_name().next()?.as_str().ok()?.to_owned();
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn links_are_told_apart() {
        for (link, want) in [
            ("<https://ca/1>;rel=\"alternate\"", Some("https://ca/1")),
            ("<https://ca/1>; rel=alternate", Some("https://ca/1")),
            ("<https://ca/dir>;rel=\"index\"", None),
            ("https://ca/1;rel=\"alternate\"", None),
            ("", None),
        ] {
            assert_eq!(alternate(link).as_deref(), want, "{link}");
        }
    }

    #[test]
    fn only_chains_are_kept_and_not_without_end() {
        let chains = Chains::default();
        let headers = |kind| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
        chains.note("a", &headers("application/json"), b"{}");
        assert_eq!(chains.take("a"), None);
        for number in 0..=MAX_KEPT {
            chains.note(&number.to_string(), &headers(MEDIA_TYPE), b"PEM");
        }
        assert_eq!(chains.take("0"), None);
        let last = chains.take(&MAX_KEPT.to_string()).expect("the last one");
        assert_eq!(last, Download { pem: "PEM".to_owned(), alternates: vec![] });
    }
}
