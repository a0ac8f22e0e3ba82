//! Who comes with a password that the route knows (RFC 7617).

use std::collections::HashMap;
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine};

use super::verifier::{Verdict, Verifier};
use crate::protocol::options::basic_auth::Credential;
use crate::worker::message::Fields;

/// Longest name and password together, in bytes: what it costs to look at one grows with it.
const MAX_BYTES: usize = 512;

#[derive(Debug)]
pub struct BasicAuth {
    hashes: HashMap<Box<[u8]>, Arc<str>>,
    /// What is looked at for a name that nobody has, so that it takes as long.
    stand_in: Option<Arc<str>>,
}

impl BasicAuth {
    pub fn compile(credentials: Vec<Credential>) -> Self {
        let mut hashes = HashMap::new();
        let mut stand_in = None;
        for Credential { user, hash } in credentials {
            let hash: Arc<str> = hash.into();
            stand_in.get_or_insert_with(|| hash.clone());
            // As with Apache and nginx, of two lines for one name the first counts.
            hashes.entry(user.into_bytes().into()).or_insert(hash);
        }
        BasicAuth { hashes, stand_in }
    }

    pub async fn verdict(&self, verifier: &Verifier, fields: &Fields) -> Verdict {
        let (Some((user, password)), Some(stand_in)) = (shown(fields), &self.stand_in) else {
            return Verdict::Wrong;
        };
        let hash = self.hashes.get(user.as_slice());
        let verdict = verifier.verify(hash.unwrap_or(stand_in), &user, &password).await;
        match verdict {
            Verdict::Right if hash.is_none() => Verdict::Wrong,
            verdict => verdict,
        }
    }
}

/// Name and password of the one `Authorization` that a request has.
fn shown(fields: &Fields) -> Option<(Vec<u8>, Vec<u8>)> {
    let [value] = fields.all("authorization")[..] else { return None };
    let (scheme, encoded) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut user = BASE64_STANDARD.decode(encoded.trim_ascii()).ok()?;
    let colon = memchr::memchr(b':', &user)?;
    if user.len() > MAX_BYTES {
        return None;
    }
    let password = user.split_off(colon + 1);
    user.truncate(colon);
    Some((user, password))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue};

    fn fields(values: &[&str]) -> Fields {
        let mut map = HeaderMap::new();
        for value in values {
            map.append("authorization", HeaderValue::from_str(value).expect("a value"));
        }
        Fields::Map(map)
    }

    #[test]
    fn what_a_client_shows() {
        let good = || Some((b"alice".to_vec(), b"a:b".to_vec()));
        let long = format!("Basic {}", BASE64_STANDARD.encode("a:".to_owned() + &"x".repeat(600)));
        for (values, want) in [
            (&["Basic YWxpY2U6YTpi"][..], good()),
            (&["bAsIc  YWxpY2U6YTpi "], good()),
            (&[], None),
            (&["Basic YWxpY2U6YTpi", "Basic YWxpY2U6YTpi"], None),
            (&["Bearer YWxpY2U6YTpi"], None),
            (&["Basic"], None),
            (&["Basic ü"], None),
            (&["Basic YWxpY2U="], None),
            (&["Basic Og=="], Some((vec![], vec![]))),
            (&[&long], None),
        ] {
            assert_eq!(shown(&fields(values)), want, "{values:?}");
        }
    }

    #[tokio::test]
    async fn nobody_gets_in_where_no_line_can_be_used() {
        let nobody = BasicAuth::compile(Vec::new());
        let verdict = nobody.verdict(&Verifier::default(), &fields(&["Basic Og=="])).await;
        assert_eq!(verdict, Verdict::Wrong);
    }

    #[tokio::test]
    async fn a_name_and_its_own_password_go_together() {
        // openssl passwd -5 -salt saltsalt one, and two.
        let line = |user: &str, hash: &str| Credential { user: user.into(), hash: hash.into() };
        let auth = BasicAuth::compile(vec![line("alice", ONE), line("bob", TWO), line("bob", ONE)]);
        let verifier = Verifier::default();
        for (said, want) in [
            ("alice:one", Verdict::Right),
            // Out of what is remembered.
            ("alice:one", Verdict::Right),
            ("alice:two", Verdict::Wrong),
            ("bob:two", Verdict::Right),
            ("bob:one", Verdict::Wrong),
            // The password of the stand-in.
            ("mallory:one", Verdict::Wrong),
            ("mallory:one", Verdict::Wrong),
            (":one", Verdict::Wrong),
            ("alice:", Verdict::Wrong),
        ] {
            let value = format!("Basic {}", BASE64_STANDARD.encode(said));
            assert_eq!(auth.verdict(&verifier, &fields(&[&value])).await, want, "{said}");
        }
    }

    const ONE: &str = "$5$saltsalt$Xrzp1lrdTubHSU4u0iqRxZwBPbSpWgYCCIE1mGPjVM4";
    const TWO: &str = "$5$saltsalt$ab/jD0Rxktb8s4TEa8aSpeYgPEOtF2tr5MaSbOSF7K2";
}
