//! CAs whose clients are let in: files that the configuration names, and nginx-proxy's, by host. They
//! are other people's: only read. Where clients have to show a certificate and no CA can be read,
//! nobody gets in.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use super::Problem;
use crate::config::VerifyClient;
use crate::controller::routes::HostEntry;
use crate::protocol::snapshot::ClientAuth;

/// For every host that has none of its own.
const FOR_ALL: &str = "ca.crt";
/// Behind the name of a host.
const SUFFIX: &str = ".ca.crt";
/// Of one PEM block.
const CERTIFICATE: &str = "CERTIFICATE";

#[derive(Debug, Default)]
pub struct ClientCas {
    directory: Option<PathBuf>,
    /// Every file that was found or named; none where it was never read.
    files: BTreeMap<PathBuf, Option<String>>,
}

impl ClientCas {
    /// Reads all of them anew. One that was good before and is not now stays in service.
    pub fn set<'a>(
        &mut self,
        directory: Option<&Path>,
        named: impl Iterator<Item = &'a PathBuf>,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        let found = match directory.map(list).transpose() {
            Ok(found) => found.unwrap_or_default(),
            Err(problem) => {
                problems.push(problem);
                // Those that were in it go on to hold.
                self.files.keys().cloned().collect()
            }
        };
        let mut before = std::mem::take(&mut self.files);
        for path in found.into_iter().chain(named.cloned()) {
            let known = before.remove(&path).flatten();
            let read = read(&path).map_err(|reason| {
                let kept = if known.is_some() { "; what was read before holds" } else { "" };
                let thing = path.display().to_string();
                problems.push(Problem { thing, reason: format!("{reason}{kept}") });
            });
            self.files.insert(path, read.ok().or(known));
        }
        self.directory = directory.map(Path::to_owned);
        problems
    }

    /// What clients of this host have to show.
    pub fn of(&self, host: &HostEntry, problems: &mut Vec<Problem>) -> Option<ClientAuth> {
        let verify = host.clients.verify;
        if verify == Some(VerifyClient::Off) {
            return None;
        }
        let file = self.file(host);
        if file.is_none() && verify.is_some() {
            problems.push(Problem {
                thing: host.pattern.to_string(),
                reason: "clients are to show a certificate, and there is no CA for them: nobody \
                         gets in"
                    .to_owned(),
            });
        }
        if file.is_none() && verify.is_none() {
            return None;
        }
        let ca_pem = file.and_then(|path| self.files.get(&path)?.clone()).unwrap_or_default();
        Some(ClientAuth { ca_pem, required: verify != Some(VerifyClient::Optional) })
    }

    /// The configuration's, else that of the host, else the one for all.
    fn file(&self, host: &HostEntry) -> Option<PathBuf> {
        if let Some(path) = &host.clients.ca {
            return Some(path.clone());
        }
        let directory = self.directory.as_ref()?;
        // nginx-proxy looks by the name of the certificate.
        let by_name = host.wish.cert_name.iter().map(|named| format!("{}{SUFFIX}", named.name));
        let names = by_name.chain([format!("{}{SUFFIX}", host.pattern), FOR_ALL.to_owned()]);
        names.map(|name| directory.join(name)).find(|path| self.files.contains_key(path))
    }
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, Problem> {
    let failed = |error: io::Error| Problem {
        thing: directory.display().to_string(),
        reason: format!("cannot be read: {error}"),
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == FOR_ALL || name.ends_with(SUFFIX) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The certificates of a file, and nothing else that it may hold: it goes to workers.
fn read(path: &Path) -> Result<String, String> {
    let text = fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    let blocks = pem::parse_many(&text).map_err(|error| error.to_string())?;
    let certificates: Vec<_> = blocks.into_iter().filter(|b| b.tag() == CERTIFICATE).collect();
    if certificates.is_empty() {
        return Err("no certificate in it (expected PEM)".to_owned());
    }
    for certificate in &certificates {
        let der = CertificateDer::from_slice(certificate.contents());
        RootCertStore::empty().add(der).map_err(|error| error.to_string())?;
    }
    Ok(pem::encode_many(&certificates))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::certificates::issue;
    use crate::controller::routes::Clients;
    use time::OffsetDateTime;

    fn host(pattern: &str, ca: Option<PathBuf>, verify: Option<VerifyClient>) -> HostEntry {
        HostEntry { clients: Clients { ca, verify }, ..HostEntry::new(pattern) }
    }

    fn ca() -> issue::Issued {
        issue::root("Clients", OffsetDateTime::now_utc()).expect("root")
    }

    #[test]
    fn the_host_has_its_own_file_before_the_one_for_all() {
        use VerifyClient::{Off, Optional, Required};
        let directory = tempfile::tempdir().expect("temp dir");
        let [own, all, named] = [ca(), ca(), ca()].map(|ca| ca.chain_pem);
        let file = |name: &str| directory.path().join(name);
        fs::write(file("a.test.ca.crt"), &own).expect("write");
        fs::write(file("ca.crt"), &all).expect("write");
        fs::write(file("named.pem"), &named).expect("write");
        let mut cas = ClientCas::default();
        let named_file = file("named.pem");
        assert_eq!(cas.set(Some(directory.path()), [&named_file].into_iter()), []);
        for (name, ca, verify, want) in [
            ("a.test", None, None, Some((&own, true))),
            ("a.test", None, Some(Optional), Some((&own, false))),
            ("a.test", None, Some(Off), None),
            ("b.test", None, Some(Required), Some((&all, true))),
            ("b.test", Some(&named_file), None, Some((&named, true))),
        ] {
            let mut problems = Vec::new();
            let got = cas.of(&host(name, ca.cloned(), verify), &mut problems);
            let blocks = |pem: &str| pem::parse_many(pem).expect("PEM");
            let got = got.map(|auth| (blocks(&auth.ca_pem), auth.required));
            assert_eq!(got, want.map(|(pem, r)| (blocks(pem), r)), "{name} {verify:?}");
            assert_eq!(problems, []);
        }
    }

    #[test]
    fn nobody_gets_in_without_a_ca_and_no_key_leaves_the_file() {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("ca.pem");
        let mut cas = ClientCas::default();
        let nobody = Some(ClientAuth { ca_pem: String::new(), required: true });

        let problems = cas.set(None, [&path].into_iter());
        assert!(problems[0].reason.starts_with("cannot be read: "), "{problems:?}");
        assert_eq!(cas.of(&host("a.test", Some(path.clone()), None), &mut Vec::new()), nobody);

        let mut told = Vec::new();
        let alone = host("a.test", None, Some(VerifyClient::Required));
        assert_eq!(cas.of(&alone, &mut told), nobody);
        assert_eq!(
            told[0].to_string(),
            "a.test: clients are to show a certificate, and there is no CA for them: nobody gets in"
        );
        assert_eq!(cas.of(&host("b.test", None, None), &mut Vec::new()), None);

        let issue::Issued { chain_pem, key_pem } = ca();
        fs::write(&path, format!("{key_pem}{chain_pem}")).expect("write");
        assert_eq!(cas.set(None, [&path].into_iter()), []);
        let host = host("a.test", Some(path.clone()), None);
        let pem = cas.of(&host, &mut Vec::new()).expect("a CA").ca_pem;
        assert!(pem.contains("BEGIN CERTIFICATE") && !pem.contains("PRIVATE"), "{pem}");

        fs::write(&path, "torn").expect("write");
        let [problem] = &cas.set(None, [&path].into_iter())[..] else { panic!("one problem") };
        assert_eq!(
            problem.reason,
            "no certificate in it (expected PEM); what was read before holds"
        );
        assert_eq!(cas.of(&host, &mut Vec::new()).expect("a CA").ca_pem, pem);
    }
}
