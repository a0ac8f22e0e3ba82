//! The default certificate: what a handshake for an unknown name is answered with.

use time::OffsetDateTime;

use super::pair::Pair;
use super::{CertificateError, Problem, issue};
use crate::controller::store::{SECRET, Store};

const FILE: &str = "default.pem";
const NAME: &str = "baton default certificate";

/// The one of the store, or a new one where there is none, or it has had two thirds of its life.
pub(super) fn load_or_issue(
    store: &Store,
    now: OffsetDateTime,
    problems: &mut Vec<Problem>,
) -> Result<Pair, CertificateError> {
    if let Some(pair) = store.read_pair(FILE, problems)?
        && pair.is_valid(now)
        && now < pair.renewal()
    {
        return Ok(pair);
    }
    let issued = issue::default(NAME, now)?;
    let pair = Pair::parse(&issued.chain_pem, &issued.key_pem)?;
    store.write(FILE, pair.to_pem().as_bytes(), SECRET)?;
    Ok(pair)
}
