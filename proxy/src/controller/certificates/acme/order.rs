//! One order, from its placing to a certificate. Each step that the CA remembers is on disk before
//! the next one begins: after a crash the order is gone on with, not placed anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use instant_acme::{
    Account, AuthorizationHandle, AuthorizationStatus, CertificateIdentifier, ChallengeStatus,
    ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SignatureAlgorithm};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;

use super::accounts::Accounts;
use super::client::Fault;
use super::desired::Desired;
use super::dns::record_name;
use super::failures::Blame;
use super::gate::Gate;
use super::preflight::PreflightError;
use super::proof::{Proof, ProofError};
use super::record::{Answer, Issued, Origin, Pending};
use super::shelf::Shelf;
use crate::config::{ChallengeKind, Directory, KeyKind};
use crate::controller::certificates::pair::{Pair, PairError};
use crate::controller::store::StoreError;

/// How often the CA is asked whether it has looked, and whether it has signed: first soon, because
/// somebody waits. A Retry-After of the CA comes before it.
const POLLING: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(100))
    .backoff(1.5)
    .timeout(Duration::from_secs(180));
/// A nonce that the CA does not take is no failure (RFC 8555 section 6.5). The library tries each
/// request three times; so often are such three tried.
const NONCE_ROUNDS: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// What the CA says of the names.
    #[error("{0}")]
    Refused(String),
    #[error("the CA offers no challenge that may be used ({offered}): see acme.challenges")]
    NoChallenge { offered: String },
    #[error("the CA has no profile `{wanted}`: it has `{offered}`: see acme.profile")]
    NoProfile { wanted: String, offered: String },
    #[error("the CA: {text}")]
    Ca { text: String, retry_after: Option<Duration> },
    #[error("the CA takes none of our nonces")]
    Nonce,
    #[error("the CA does not know the account any more")]
    NoAccount,
    /// The CA does not know the order any more: the next one is placed anew.
    #[error("the CA does not know the order any more")]
    NoOrder,
    #[error("the certificate from the CA: {0}")]
    Certificate(#[from] PairError),
    #[error("the certificate from the CA is not for {0}")]
    Names(String),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Proof(#[from] ProofError),
    #[error("{0}")]
    Preflight(#[from] PreflightError),
    #[error("the signing request: {0}")]
    Request(#[from] rcgen::Error),
}

impl OrderError {
    pub fn blame(&self) -> Blame {
        match self {
            OrderError::Refused(_)
            | OrderError::NoChallenge { .. }
            | OrderError::NoProfile { .. } => Blame::Name,
            OrderError::Ca { .. }
            | OrderError::Nonce
            | OrderError::NoAccount
            | OrderError::NoOrder
            | OrderError::Certificate(_)
            | OrderError::Names(_) => Blame::Ca,
            OrderError::Store(_) | OrderError::Proof(_) | OrderError::Request(_) => Blame::Host,
            OrderError::Preflight(_) => Blame::Preflight,
        }
    }

    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            OrderError::Ca { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Nothing can come of the order any more.
    pub fn ends_order(&self) -> bool {
        !matches!(
            self,
            OrderError::Ca { .. } | OrderError::Nonce | OrderError::Store(_) | OrderError::Proof(_)
        )
    }
}

impl From<Error> for OrderError {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(problem) => problem.into(),
            Error::Other(other) => match other.downcast::<Fault>() {
                Ok(fault) => {
                    let retry_after = match *fault {
                        Fault::Status { retry_after, .. } => retry_after,
                        _ => None,
                    };
                    OrderError::Ca { text: fault.to_string(), retry_after }
                }
                Err(other) => OrderError::Ca { text: other.to_string(), retry_after: None },
            },
            // The CA would be asked later than anybody waits here.
            Error::Timeout(Some(at)) => OrderError::Ca {
                text: "it is not done yet".to_owned(),
                retry_after: Some(at.saturating_duration_since(Instant::now())),
            },
            other => OrderError::Ca { text: other.to_string(), retry_after: None },
        }
    }
}

impl From<Problem> for OrderError {
    fn from(problem: Problem) -> Self {
        let kind = problem.r#type.as_deref().unwrap_or_default();
        match kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or_default() {
            "badNonce" => OrderError::Nonce,
            "accountDoesNotExist" => OrderError::NoAccount,
            "serverInternal" | "rateLimited" => {
                OrderError::Ca { text: said(&problem), retry_after: None }
            }
            _ => OrderError::Refused(said(&problem)),
        }
    }
}

/// The CA's own words, with those about single names.
fn said(problem: &Problem) -> String {
    let detail = problem.detail.clone().or_else(|| problem.r#type.clone()).unwrap_or_default();
    let parts = problem.subproblems.iter().filter_map(|part| {
        let detail = part.detail.as_ref()?;
        let Some(Identifier::Dns(name)) = &part.identifier else { return Some(detail.clone()) };
        Some(format!("{name}: {detail}"))
    });
    std::iter::once(detail).chain(parts).collect::<Vec<_>>().join("; ")
}

/// What an order needs.
pub struct Shop {
    pub accounts: Accounts,
    pub shelf: Arc<Shelf>,
    pub proof: Arc<Proof>,
    pub gate: Gate,
}

/// A certificate to be had.
pub struct Errand {
    pub desired: Desired,
    pub directory: Directory,
    /// An order that is under way there.
    pub pending: Option<Pending>,
    pub experience: Experience,
    /// What the CA was shown, or is about to be.
    pub challenge: Option<ChallengeKind>,
    /// There is no certificate of these names yet: whether the CA could see us is not known.
    pub is_first: bool,
    /// The certificate whose place it takes.
    pub before: Option<Issued>,
    /// The CA is told so.
    pub says_before: bool,
}

/// How control over the names was shown before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Experience {
    pub worked: Option<ChallengeKind>,
    pub failed: Option<ChallengeKind>,
}

/// What became of an errand.
pub struct Outcome {
    pub result: Result<Issued, OrderError>,
    /// The order, where it can still come to something.
    pub pending: Option<Pending>,
    pub challenge: Option<ChallengeKind>,
}

impl Shop {
    /// Orders, or goes on with the order that is under way.
    pub async fn run(&self, mut errand: Errand) -> Outcome {
        let result = self.persist(&mut errand).await;
        let over = result.as_ref().map_or_else(OrderError::ends_order, |_| true);
        if over && let Some(pending) = errand.pending.take() {
            self.proof.take_down(&pending.answers).await;
        }
        Outcome { result, pending: errand.pending, challenge: errand.challenge }
    }

    /// Tries again what is no failure.
    async fn persist(&self, errand: &mut Errand) -> Result<Issued, OrderError> {
        let mut rounds = 0;
        loop {
            rounds += 1;
            match self.attempt(errand).await {
                Err(OrderError::Nonce) if rounds < NONCE_ROUNDS => {}
                Err(OrderError::NoOrder) if rounds < NONCE_ROUNDS => {
                    if let Some(pending) = errand.pending.take() {
                        self.proof.take_down(&pending.answers).await;
                    }
                }
                Err(error @ OrderError::NoAccount) => {
                    let reason = error.to_string();
                    self.accounts.discard(&errand.directory, &errand.desired, &reason).await;
                    return Err(error);
                }
                Err(error @ OrderError::Ca { .. }) => {
                    self.accounts.forget(&errand.directory, &errand.desired).await;
                    return Err(error);
                }
                result => return result,
            }
        }
    }

    async fn attempt(&self, errand: &mut Errand) -> Result<Issued, OrderError> {
        self.look_first(errand).await?;
        let account = self.accounts.get(&errand.directory, &errand.desired).await?;
        let known = errand.pending.as_ref().and_then(|pending| pending.order.clone());
        let mut order = match known {
            Some(url) => known_order(&account, url).await?,
            None => self.place(&account, errand).await?,
        };
        let chain_pem = match self.follow(errand, &mut order).await {
            Err(OrderError::Refused(text)) => {
                return Err(refusal(&account, order.url(), text).await);
            }
            chain => chain?,
        };
        let chain_pem = self.preferred_chain(errand, &account, &mut order, chain_pem).await;
        errand.issued(&chain_pem)
    }

    /// The chain that is wanted, where the CA has it.
    async fn preferred_chain(
        &self,
        errand: &Errand,
        account: &Account,
        order: &mut Order,
        default: String,
    ) -> String {
        let chains = self.accounts.chains();
        let wanted = errand.desired.preferred_chain.as_deref();
        let url = order.state().certificate.as_deref();
        let (Some(issuer), Some(url)) = (wanted, url) else { return default };
        match chains.by_issuer(account, url, issuer).await {
            Ok(chain) => chain,
            Err(offered) => {
                let id = errand.desired.id();
                let offered = offered.join("`, `");
                tracing::warn!("certificate {id}: no chain to `{issuer}`: the CA has `{offered}`");
                default
            }
        }
    }

    /// What the CA could not see is not ordered.
    async fn look_first(&self, errand: &mut Errand) -> Result<(), OrderError> {
        if !errand.is_first || errand.pending.is_some() {
            return Ok(());
        }
        let preferred = preference(&errand.desired.challenges, errand.experience);
        for name in &errand.desired.names {
            let works = self.proof.look(name, &preferred).await?;
            errand.experience.worked = works.or(errand.experience.worked);
        }
        errand.is_first = false;
        Ok(())
    }

    /// Writes down what it takes to go on with the order, places it, and writes down which it is. A
    /// disk that is full is found out before the CA has done anything.
    async fn place(&self, account: &Account, errand: &mut Errand) -> Result<Order, OrderError> {
        Self::check_profile(account, &errand.desired)?;
        let mut pending = self.prepare(errand).await?;
        let Errand { desired, directory, before, says_before, .. } = errand;
        let identifiers: Vec<Identifier> =
            desired.names.iter().map(|name| identifier(name)).collect();
        let mut new = NewOrder::new(&identifiers);
        if let Some(profile) = &desired.profile {
            new = new.profile(profile);
        }
        let before = before.as_ref().filter(|_| *says_before);
        if let Some(before) = before.and_then(ari_id) {
            new = new.replaces(before);
        }
        let passed = self.gate.pass().await;
        let order = account.new_order(&new).await?;
        pending.order = Some(order.url().to_owned());
        self.keep(desired, &pending);
        drop(passed);
        tracing::info!("certificate {}: ordered from {}", desired.id(), directory.url);
        errand.pending = Some(pending);
        Ok(order)
    }

    /// An order for a profile that the CA has not would be refused, or worse, be for another one.
    fn check_profile(account: &Account, desired: &Desired) -> Result<(), OrderError> {
        let Some(wanted) = &desired.profile else { return Ok(()) };
        let mut offered: Vec<&str> = account.profiles().map(|profile| profile.name).collect();
        offered.sort_unstable();
        match offered.as_slice() {
            [] => {
                let id = desired.id();
                tracing::warn!(
                    "certificate {id}: this CA has no profiles: `{wanted}` says nothing"
                );
                Ok(())
            }
            some if some.contains(&wanted.as_str()) => Ok(()),
            others => {
                Err(OrderError::NoProfile { wanted: wanted.clone(), offered: others.join("`, `") })
            }
        }
    }

    /// A key and a request of its own, unless a crash has left some.
    async fn prepare(&self, errand: &mut Errand) -> Result<Pending, OrderError> {
        if let Some(pending) = &errand.pending {
            return Ok(pending.clone());
        }
        let desired = &errand.desired;
        let (key_pem, csr_pem) = request(desired).await?;
        let pending = Pending {
            directory: errand.directory.url.clone(),
            order: None,
            names: desired.names.clone(),
            key_pem,
            csr_pem,
            answers: Vec::new(),
            placed: OffsetDateTime::now_utc(),
        };
        self.shelf.put_pending(desired.id(), &pending)?;
        errand.pending = Some(pending.clone());
        Ok(pending)
    }

    /// What is known of the order now. Where it cannot be written the order goes on all the same:
    /// only a crash would lose it.
    fn keep(&self, desired: &Desired, pending: &Pending) {
        if let Err(error) = self.shelf.put_pending(desired.id(), pending) {
            tracing::error!("certificate {}: {error}; the order goes on", desired.id());
        }
    }

    /// From wherever the order stands to the chain.
    async fn follow(&self, errand: &mut Errand, order: &mut Order) -> Result<String, OrderError> {
        loop {
            match order.state().status {
                OrderStatus::Pending => {
                    self.meet_challenges(errand, order).await?;
                    order.poll_ready(&POLLING).await?;
                }
                OrderStatus::Ready => order.finalize_csr(&errand.csr()?).await?,
                OrderStatus::Processing | OrderStatus::Valid => {
                    return Ok(order.poll_certificate(&POLLING).await?);
                }
                OrderStatus::Invalid => {
                    let text = order.state().error.as_ref().map(said).unwrap_or_default();
                    return Err(OrderError::Refused(text));
                }
            }
        }
    }

    /// Answers every challenge that is open, and tells the CA to look once all workers have the
    /// answers.
    async fn meet_challenges(
        &self,
        errand: &mut Errand,
        order: &mut Order,
    ) -> Result<(), OrderError> {
        let preferred = preference(&errand.desired.challenges, errand.experience);
        let (mut kinds, mut answers) = (Vec::new(), Vec::new());
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let authorization = authorization?;
            if authorization.status == AuthorizationStatus::Pending {
                let (kind, answer) = answer(authorization, &preferred)?;
                kinds.push(kind);
                answers.push(answer);
            }
        }
        errand.challenge = kinds.first().copied().or(errand.challenge);
        if let Some(pending) = &mut errand.pending {
            pending.answers.clone_from(&answers);
            self.keep(&errand.desired, pending);
        }
        self.proof.show(&answers).await?;
        tell_to_look(order, &kinds).await
    }
}

async fn tell_to_look(order: &mut Order, kinds: &[ChallengeKind]) -> Result<(), OrderError> {
    let mut kinds = kinds.iter();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let Some(kind) = kinds.next() else { break };
        // One that is not pending any more has been told before a crash.
        if let Some(mut challenge) = authorization.challenge(kind_of(*kind))
            && challenge.status == ChallengeStatus::Pending
        {
            challenge.set_ready().await?;
        }
    }
    Ok(())
}

impl Errand {
    fn pending(&self) -> Result<&Pending, OrderError> {
        self.pending.as_ref().ok_or(OrderError::NoOrder)
    }

    fn csr(&self) -> Result<CertificateSigningRequestDer<'static>, OrderError> {
        let pem = self.pending()?.csr_pem.as_bytes();
        CertificateSigningRequestDer::from_pem_slice(pem).map_err(|_| OrderError::NoOrder)
    }

    /// The certificate, once it is what was asked for.
    fn issued(&self, chain_pem: &str) -> Result<Issued, OrderError> {
        let Pending { key_pem, directory, .. } = self.pending()?;
        let pair = Pair::parse(chain_pem, key_pem)?;
        if let Some(missing) = self.desired.names.iter().find(|name| !pair.names.contains(name)) {
            return Err(OrderError::Names(missing.clone()));
        }
        let origin = Origin {
            directory: Some(directory.clone()),
            window: None,
            challenge: self.challenge,
            replaced: self.before.as_ref().map(|_| OffsetDateTime::now_utc()),
        };
        Ok(Issued { pair: Arc::new(pair), origin })
    }
}

/// What a CA calls a certificate that it issued.
fn ari_id(issued: &Issued) -> Option<CertificateIdentifier<'_>> {
    CertificateIdentifier::try_from(&issued.pair.leaf).ok()
}

/// The order that is under way, as the CA has it.
async fn known_order(account: &Account, url: String) -> Result<Order, OrderError> {
    match account.order(url).await.map_err(OrderError::from) {
        // RFC 8555 has no error of its own for it: 404 as often as "malformed" or "unauthorized".
        Err(OrderError::Refused(_)) => Err(OrderError::NoOrder),
        order => order,
    }
}

/// The CA's words on why an order is invalid: they stand with the challenge, if anywhere.
async fn refusal(account: &Account, url: &str, text: String) -> OrderError {
    match failed_challenges(account, url).await {
        Ok(reasons) if !reasons.is_empty() => OrderError::Refused(reasons.join("; ")),
        Ok(_) | Err(_) => OrderError::Refused(text),
    }
}

async fn failed_challenges(account: &Account, url: &str) -> Result<Vec<String>, Error> {
    let mut order = account.order(url.to_owned()).await?;
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let authorization = authorization?;
        let name = authorization.identifier().to_string();
        let errors =
            authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        reasons.extend(errors.map(|problem| format!("{name}: {}", said(problem))));
    }
    Ok(reasons)
}

/// What worked before comes first, and what has just failed last.
fn preference(configured: &[ChallengeKind], experience: Experience) -> Vec<ChallengeKind> {
    let Experience { worked, failed } = experience;
    let mut preferred = configured.to_vec();
    preferred.sort_by_key(|kind| (Some(*kind) == failed, Some(*kind) != worked));
    preferred
}

fn answer(
    authorization: AuthorizationHandle<'_>,
    preferred: &[ChallengeKind],
) -> Result<(ChallengeKind, Answer), OrderError> {
    let identifier = authorization.identifier().to_string();
    let offered = |kind: &&ChallengeKind| {
        authorization.challenges.iter().any(|challenge| challenge.r#type == kind_of(**kind))
    };
    let Some(&kind) = preferred.iter().find(offered) else {
        let offered = authorization.challenges.iter().map(|challenge| name_of(&challenge.r#type));
        return Err(OrderError::NoChallenge { offered: offered.collect::<Vec<_>>().join(", ") });
    };
    // The library's borrow lasts as long as the handle: this one is the shorter-lived.
    let mut authorization = authorization;
    let challenge = authorization.challenge(kind_of(kind)).expect("found above");
    let key_authorization = challenge.key_authorization().as_str().to_owned();
    let answer = match kind {
        ChallengeKind::Http01 => {
            Answer::Http01 { token: challenge.token.clone(), key_authorization }
        }
        ChallengeKind::TlsAlpn01 => Answer::TlsAlpn01 { identifier, key_authorization },
        ChallengeKind::Dns01 => Answer::Dns01 {
            name: record_name(&identifier),
            value: challenge.key_authorization().dns_value(),
        },
    };
    Ok((kind, answer))
}

fn kind_of(kind: ChallengeKind) -> ChallengeType {
    match kind {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
        ChallengeKind::Dns01 => ChallengeType::Dns01,
    }
}

fn name_of(kind: &ChallengeType) -> String {
    match kind {
        ChallengeType::Http01 => "http-01".to_owned(),
        ChallengeType::TlsAlpn01 => "tls-alpn-01".to_owned(),
        ChallengeType::Dns01 => "dns-01".to_owned(),
        ChallengeType::Unknown(name) => name.clone(),
        other => format!("{other:?}"),
    }
}

fn identifier(name: &str) -> Identifier {
    match name.parse() {
        Ok(address) => Identifier::Ip(address),
        Err(_) => Identifier::Dns(name.to_owned()),
    }
}

/// A new key, and the request for a certificate of it. On a thread for blocking work: an RSA key
/// takes a while.
async fn request(desired: &Desired) -> Result<(String, String), rcgen::Error> {
    let (names, kind) = (desired.names.clone(), desired.key);
    let make = move || {
        let key = key(kind)?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key)?;
        Ok((key.serialize_pem(), csr.pem()?))
    };
    tokio::task::spawn_blocking(make).await.expect("it does not panic")
}

fn key(kind: KeyKind) -> Result<KeyPair, rcgen::Error> {
    let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
    let ec = |algorithm: &'static SignatureAlgorithm| KeyPair::generate_for(algorithm);
    match kind {
        KeyKind::Ec256 => ec(&rcgen::PKCS_ECDSA_P256_SHA256),
        KeyKind::Ec384 => ec(&rcgen::PKCS_ECDSA_P384_SHA384),
        KeyKind::Rsa2048 => rsa(rcgen::RsaKeySize::_2048),
        KeyKind::Rsa3072 => rsa(rcgen::RsaKeySize::_3072),
        KeyKind::Rsa4096 => rsa(rcgen::RsaKeySize::_4096),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ChallengeKind::{Http01, TlsAlpn01};

    #[test]
    fn experience_chooses_the_challenge() {
        for (worked, failed, want) in [
            (None, None, [Http01, TlsAlpn01]),
            (Some(TlsAlpn01), None, [TlsAlpn01, Http01]),
            (None, Some(Http01), [TlsAlpn01, Http01]),
            (Some(Http01), Some(Http01), [TlsAlpn01, Http01]),
        ] {
            let got = preference(&[Http01, TlsAlpn01], Experience { worked, failed });
            assert_eq!(got, want, "{worked:?} {failed:?}");
        }
    }

    #[test]
    fn who_is_to_blame() {
        let problem = |kind: &str| Problem {
            r#type: Some(format!("urn:ietf:params:acme:error:{kind}")),
            detail: Some("no".to_owned()),
            status: None,
            subproblems: Vec::new(),
        };
        for (kind, want) in [
            ("rateLimited", Blame::Ca),
            ("serverInternal", Blame::Ca),
            ("badNonce", Blame::Ca),
            ("accountDoesNotExist", Blame::Ca),
            ("rejectedIdentifier", Blame::Name),
            ("unauthorized", Blame::Name),
            ("somethingNew", Blame::Name),
        ] {
            assert_eq!(OrderError::from(problem(kind)).blame(), want, "{kind}");
        }
    }
}
