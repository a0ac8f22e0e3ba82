//! What baton signs itself: the shapes of its three kinds of certificate.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

/// Of the root and the default certificate: replacing them costs people work.
pub(super) const ROOT_LIFE: Duration = Duration::days(3650);
/// Of a certificate that the local CA issues.
pub(super) const LEAF_LIFE: Duration = Duration::days(90);
/// Clients' clocks may be this far behind.
const CLOCK_SKEW: Duration = Duration::hours(1);
/// X.520 upper bound of a common name (RFC 5280 appendix A.1, ub-common-name).
const COMMON_NAME_LIMIT: usize = 64;

/// PEM texts of a new certificate and its key.
pub(super) struct Issued {
    pub chain_pem: String,
    pub key_pem: String,
}

/// A root that signs leafs and nothing else.
pub(super) fn root(name: &str, now: OffsetDateTime) -> Result<Issued, rcgen::Error> {
    let mut params = params(name, now, ROOT_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    self_signed(&params)
}

/// Good for no name: it exists so that a handshake can be answered at all.
pub(super) fn default(name: &str, now: OffsetDateTime) -> Result<Issued, rcgen::Error> {
    let mut params = params(name, now, ROOT_LIFE);
    for_servers(&mut params);
    self_signed(&params)
}

/// Good for one name: a host, `*.host`, or an IP address.
pub(super) fn leaf(
    name: &str,
    issuer: &Issuer<'_, KeyPair>,
    now: OffsetDateTime,
) -> Result<Issued, rcgen::Error> {
    let mut params = params(name, now, LEAF_LIFE);
    params.subject_alt_names = CertificateParams::new(vec![name.to_owned()])?.subject_alt_names;
    params.use_authority_key_identifier_extension = true;
    for_servers(&mut params);
    let key = key()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok(Issued { chain_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

fn params(name: &str, now: OffsetDateTime, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + life;
    params.distinguished_name = DistinguishedName::new();
    if name.len() <= COMMON_NAME_LIMIT {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params
}

fn for_servers(params: &mut CertificateParams) {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
}

fn self_signed(params: &CertificateParams) -> Result<Issued, rcgen::Error> {
    let key = key()?;
    let certificate = params.self_signed(&key)?;
    Ok(Issued { chain_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

/// P-256 is what every client takes and the cheapest to sign with.
fn key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
}
