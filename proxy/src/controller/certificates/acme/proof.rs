//! How control over names is shown: by answers at the workers, and by records in the DNS.

use std::sync::Arc;

use super::board::{Board, BoardError};
use super::dns::{DnsError, Names, Records};
use super::preflight::{Preflight, PreflightError};
use super::record::Answer;
use crate::config;
use crate::config::ChallengeKind;

#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error("{0}")]
    Board(#[from] BoardError),
    #[error("{0}")]
    Dns(#[from] DnsError),
}

/// Shared by all orders.
pub struct Proof {
    board: Board,
    records: Records,
    /// None: the configuration wants none.
    preflight: Option<Preflight>,
}

impl Proof {
    pub fn new(config: &config::Proof, board: Board) -> Arc<Self> {
        let names = Names::new(config.resolver);
        let records = Records::new(config.dns.clone(), names.clone());
        let preflight = config.preflight.then(|| Preflight {
            names,
            board: board.clone(),
            http_port: config.http_port,
            tls_port: config.tls_port,
        });
        Arc::new(Proof { board, records, preflight })
    }

    /// Looks at a name as the CA would; which of these challenges the order is to begin with, where
    /// that can be told.
    ///
    /// # Errors
    /// When the CA would see nothing of ours.
    pub async fn look(
        &self,
        name: &str,
        challenges: &[ChallengeKind],
    ) -> Result<Option<ChallengeKind>, PreflightError> {
        match &self.preflight {
            // The DNS is looked at when the record is there.
            Some(preflight) if !challenges.contains(&ChallengeKind::Dns01) => {
                preflight.look(name, challenges).await.map(Some)
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Shows the answers, and returns when the CA may be told to look.
    ///
    /// # Errors
    /// When it may not.
    pub async fn show(&self, answers: &[Answer]) -> Result<(), ProofError> {
        self.board.show(answers).await?;
        let records: Vec<_> = answers.iter().filter_map(record).collect();
        Ok(self.records.present(&records).await?)
    }

    /// Nobody will look any more.
    pub async fn take_down(&self, answers: &[Answer]) {
        self.board.take_down(answers);
        for (name, value) in answers.iter().filter_map(record) {
            if let Err(error) = self.records.clean_up(&name, &value).await {
                tracing::warn!("{name}: the record stays: {error}");
            }
        }
    }
}

fn record(answer: &Answer) -> Option<(String, String)> {
    match answer {
        Answer::Dns01 { name, value } => Some((name.clone(), value.clone())),
        Answer::Http01 { .. } | Answer::TlsAlpn01 { .. } => None,
    }
}

/// What may show control over these names: a wildcard has dns-01 alone (RFC 8555 section 8.3), an
/// address everything else (RFC 8738 section 7).
pub fn challenges_for(name: &str, acme: &config::Acme) -> Vec<ChallengeKind> {
    let is_address = super::is_address(name);
    match name.starts_with("*.") {
        true => Some(ChallengeKind::Dns01)
            .filter(|_| acme.proof.dns.provider.is_some())
            .into_iter()
            .collect(),
        false => {
            let can_dns = !is_address && acme.proof.dns.provider.is_some();
            let fits = |kind: &&ChallengeKind| can_dns || **kind != ChallengeKind::Dns01;
            acme.challenges.iter().filter(fits).copied().collect()
        }
    }
}

/// What may show control over one or another of these names, in the order of the configuration: a CA
/// offers for each name what can work.
pub fn challenges_for_all(names: &[String], acme: &config::Acme) -> Vec<ChallengeKind> {
    let mut challenges = Vec::new();
    for kind in names.iter().flat_map(|name| challenges_for(name, acme)) {
        if !challenges.contains(&kind) {
            challenges.push(kind);
        }
    }
    let place = |kind: &ChallengeKind| acme.challenges.iter().position(|known| known == kind);
    challenges.sort_by_key(|kind| place(kind).unwrap_or(usize::MAX));
    challenges
}

#[cfg(test)]
mod tests {
    use super::*;
    use ChallengeKind::{Dns01, Http01, TlsAlpn01};

    #[test]
    fn the_challenges_that_can_work() {
        let provider = config::DnsProvider::Exec {
            program: "/bin/true".into(),
            limit: std::time::Duration::from_secs(1),
        };
        for (name, challenges, can_dns, want) in [
            ("a.example.com", &[Http01, TlsAlpn01][..], true, &[Http01, TlsAlpn01][..]),
            ("a.example.com", &[Dns01, Http01], true, &[Dns01, Http01]),
            ("*.example.com", &[Http01], true, &[Dns01]),
            ("*.example.com", &[Http01], false, &[]),
            ("192.0.2.1", &[Dns01, TlsAlpn01], true, &[TlsAlpn01]),
            ("a.example.com", &[Dns01], false, &[]),
        ] {
            let mut acme =
                config::Acme { challenges: challenges.to_vec(), ..config::Acme::default() };
            acme.proof.dns.provider = Some(provider.clone()).filter(|_| can_dns);
            assert_eq!(challenges_for(name, &acme), want, "{name} {challenges:?} {can_dns}");
        }
    }

    #[test]
    fn names_of_one_certificate_may_need_different_challenges() {
        let provider = config::DnsProvider::Exec {
            program: "/bin/true".into(),
            limit: std::time::Duration::from_secs(1),
        };
        let mut acme = config::Acme { challenges: vec![Http01], ..config::Acme::default() };
        acme.proof.dns.provider = Some(provider);
        let names = ["*.example.com".to_owned(), "example.com".to_owned()];
        assert_eq!(challenges_for_all(&names, &acme), [Http01, Dns01]);
    }
}
