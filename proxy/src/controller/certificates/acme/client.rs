//! HTTP towards CAs: every wait and every answer has a limit, and a CA's own faults are told apart
//! from what it says about an order.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{RETRY_AFTER, USER_AGENT};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient, Problem};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use super::chains::Chains;

/// From the request to the end of its answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// Longest answer, in bytes; a chain of certificates takes some kilobytes.
const MAX_ANSWER: usize = 1 << 20;
const NAME: &str = concat!("baton/", env!("CARGO_PKG_VERSION"));

/// A CA that does not do its part.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("cannot be reached: {text}{}", clock_advice(.0), text = .0)]
    Unreachable(String),
    #[error("no answer within {} s", REQUEST_LIMIT.as_secs())]
    TimedOut,
    #[error("answer: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("{status}{}", said(.detail.as_ref()))]
    Status { status: StatusCode, detail: Option<String>, retry_after: Option<Duration> },
}

fn said(detail: Option<&String>) -> String {
    detail.map(|detail| format!(": {detail}")).unwrap_or_default()
}

#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}", path = path.display())]
pub struct RootsError {
    pub path: std::path::PathBuf,
    pub reason: String,
}

/// Connections are shared by its clones.
#[derive(Clone)]
pub struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    /// What it has downloaded.
    pub chains: Chains,
}

impl Client {
    /// Trusts the public CAs, and the roots of `ca_file`.
    ///
    /// # Errors
    /// When that file has none.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, RootsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has a cipher suite for each version")
            .with_root_certificates(roots(ca_file)?)
            .with_no_client_auth();
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
        let pool = Pool::builder(TokioExecutor::new()).build(connector);
        Ok(Client { pool, chains: Chains::default() })
    }
}

/// Mozilla's, compiled in: a container image may have no file of them.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let Some(path) = ca_file else { return Ok(roots) };
    let failed = |reason: String| RootsError { path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let own = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(error.to_string()))?;
    if own.is_empty() {
        return Err(failed("no certificate in it (expected PEM)".to_owned()));
    }
    for root in own {
        roots.add(root).map_err(|error| failed(error.to_string()))?;
    }
    Ok(roots)
}

impl HttpClient for Client {
    fn request(
        &self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(NAME));
        let url = request.uri().to_string();
        let chains = self.chains.clone();
        let answer = exchange(self.pool.clone(), request);
        Box::pin(async move {
            let answer = timeout(REQUEST_LIMIT, answer).await.unwrap_or(Err(Fault::TimedOut));
            let (parts, body) = answer.map_err(|fault| Error::Other(Box::new(fault)))?;
            chains.note(&url, &parts.headers, &body);
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

async fn exchange(
    pool: Pool<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    request: Request<BodyWrapper<Bytes>>,
) -> Result<(Parts, Bytes), Fault> {
    let answer = pool.request(request).await;
    let (parts, body) = answer.map_err(|error| Fault::Unreachable(root(&error)))?.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(Fault::Body)?.to_bytes();
    if parts.status == StatusCode::TOO_MANY_REQUESTS || parts.status.is_server_error() {
        return Err(Fault::Status {
            status: parts.status,
            detail: serde_json::from_slice::<Problem>(&body)
                .ok()
                .and_then(|problem| problem.detail),
            retry_after: retry_after(&parts.headers, SystemTime::now()),
        });
    }
    Ok((parts, body))
}

/// What lies at the bottom says it best: the layers above it say that a request has failed.
/// A certificate that everybody else takes for valid: it is we who have the time wrong.
fn clock_advice(text: &str) -> &'static str {
    let is_of_time = text.contains("not valid yet") || text.contains("expired");
    if is_of_time { ": is the clock of this host right? see `timedatectl`" } else { "" }
}

fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    match last.downcast_ref::<io::Error>() {
        // TLS says itself what is wrong, and the kind is none.
        Some(io) if matches!(io.kind(), io::ErrorKind::Other | io::ErrorKind::InvalidData) => {
            io.to_string()
        }
        Some(io) => io.kind().to_string(),
        None => last.to_string(),
    }
}

/// Seconds, or a date (RFC 9110 section 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    // A date in the past is no wait.
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;
    use rustls::pki_types::UnixTime;

    use super::*;

    #[test]
    fn a_wrong_clock_is_thought_of() {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1));
        let later = UnixTime::since_unix_epoch(Duration::from_secs(9));
        let text = |error| rustls::Error::InvalidCertificate(error).to_string();
        for (text, want) in [
            (text(CertificateError::NotValidYetContext { time: now, not_before: later }), true),
            (text(CertificateError::ExpiredContext { time: later, not_after: now }), true),
            (text(CertificateError::UnknownIssuer), false),
        ] {
            let said = Fault::Unreachable(text).to_string();
            assert_eq!(said.contains("timedatectl"), want, "{said}");
        }
    }

    #[test]
    fn retry_after_has_two_forms() {
        let now = httpdate::parse_http_date("Thu, 01 Jan 2026 00:00:00 GMT").expect("a date");
        for (text, want) in [
            ("120", Some(Duration::from_secs(120))),
            ("Thu, 01 Jan 2026 00:02:00 GMT", Some(Duration::from_secs(120))),
            ("Wed, 31 Dec 2025 23:00:00 GMT", Some(Duration::ZERO)),
            ("soon", None),
        ] {
            let headers = [(RETRY_AFTER, HeaderValue::from_static(text))].into_iter().collect();
            assert_eq!(retry_after(&headers, now), want, "{text}");
        }
    }
}
