//! What a CA is asked about a certificate that it has issued: when to renew it, and to revoke it.

use instant_acme::{CertificateIdentifier, Error, Problem, RevocationRequest};
use time::OffsetDateTime;

use super::desired::Desired;
use super::order::{OrderError, Shop};
use super::record::Issued;
use super::renewal::Window;
use crate::config::Directory;

/// RFC 8555 section 7.6.
const ALREADY_REVOKED: &str = "urn:ietf:params:acme:error:alreadyRevoked";

impl Shop {
    /// When the CA would have the certificate renewed (RFC 9773); none where it has no wishes.
    pub async fn look(
        &self,
        desired: &Desired,
        directory: &Directory,
        issued: &Issued,
    ) -> Result<Option<Window>, OrderError> {
        let Ok(id) = CertificateIdentifier::try_from(&issued.pair.leaf) else { return Ok(None) };
        let account = self.accounts.get(directory, desired).await?;
        let (info, pause) = match account.renewal_info(&id).await {
            Ok(answer) => answer,
            Err(Error::Unsupported(_)) => return Ok(None),
            Err(error) => {
                self.accounts.forget(directory, desired).await;
                return Err(error.into());
            }
        };
        let pause = pause.try_into().unwrap_or(time::Duration::MAX);
        Ok(Some(Window {
            certificate: id.to_string(),
            start: info.suggested_window.start,
            end: info.suggested_window.end,
            next_look: Window::next_look(pause, OffsetDateTime::now_utc()),
        }))
    }

    /// One that is revoked already is as well.
    pub async fn revoke(
        &self,
        desired: &Desired,
        directory: &Directory,
        issued: &Issued,
    ) -> Result<(), OrderError> {
        let account = self.accounts.get(directory, desired).await?;
        let request = RevocationRequest { certificate: &issued.pair.leaf, reason: None };
        match account.revoke(&request).await {
            Err(Error::Api(problem)) if is_of(&problem, ALREADY_REVOKED) => Ok(()),
            done => Ok(done?),
        }
    }
}

fn is_of(problem: &Problem, kind: &str) -> bool {
    problem.r#type.as_deref() == Some(kind)
}
