//! Files with passwords, named as nginx-proxy names them: HOST, or HOST_HASH for one path, with the
//! SHA-1 of the path. They are other people's: only read.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::certificates::Problem;
use super::routes::HostEntry;
use crate::protocol::options::basic_auth::{Credential, credentials};

/// Longest file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Default)]
pub struct Htpasswd {
    /// By the name of the file. A file of which nothing can be used lets nobody in.
    files: BTreeMap<String, Vec<Credential>>,
}

impl Htpasswd {
    /// Reads all of them anew. What was good before, and cannot be read now, stays in service.
    pub fn read(&mut self, directory: Option<&Path>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let Some(directory) = directory else {
            self.files.clear();
            return problems;
        };
        let names = match list(directory) {
            Ok(names) => names,
            Err(error) => {
                problems.push(problem(directory, format!("cannot be read: {error}")));
                return problems;
            }
        };
        let mut before = std::mem::take(&mut self.files);
        for name in names {
            let path = directory.join(&name);
            let known = before.remove(&name);
            let read = match lines(&path) {
                Ok(text) => {
                    let read = credentials(&text);
                    problems.extend(read.bad.into_iter().map(|bad| problem(&path, bad)));
                    read.good
                }
                Err(reason) => {
                    let kept = if known.is_some() { "; what was read before holds" } else { "" };
                    problems.push(problem(&path, format!("{reason}{kept}")));
                    known.unwrap_or_default()
                }
            };
            if read.is_empty() {
                let reason = "has no line that can be used: nobody gets in".to_owned();
                problems.push(problem(&path, reason));
            }
            self.files.insert(name, read);
        }
        problems
    }

    /// Routes that have a file, and say nothing of their own.
    pub fn guard(&self, hosts: &mut [HostEntry]) {
        if self.files.is_empty() {
            return;
        }
        for host in hosts {
            let name = host.pattern.to_string();
            for route in &mut host.routes {
                if route.options.basic_auth.is_none() {
                    route.options.basic_auth = self.of(&name, &route.path.to_string()).cloned();
                }
            }
        }
    }

    fn of(&self, host: &str, path: &str) -> Option<&Vec<Credential>> {
        let of_path = self.files.get(&format!("{host}_{}", sha1(path)));
        of_path.or_else(|| self.files.get(host))
    }
}

fn problem(path: &Path, reason: String) -> Problem {
    Problem { thing: path.display().to_string(), reason }
}

fn list(directory: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
            && entry.path().is_file()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn lines(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot be read: {error}");
    if fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
        return Err(format!("is longer than {MAX_BYTES} bytes"));
    }
    fs::read_to_string(path).map_err(failed)
}

fn sha1(text: &str) -> String {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "$5$saltsalt$gOjOtoMpVhru2uyjeJSEc/JaLQWOXMNmlOnj6T4AtC.";

    #[test]
    fn the_file_of_a_path_stands_before_that_of_its_host() {
        let directory = tempfile::tempdir().expect("temp dir");
        let write = |name: &str, text: &str| {
            fs::write(directory.path().join(name), text).expect("it is written");
        };
        write("a.test", &format!("alice:{LINE}\n"));
        // printf /api | sha1sum
        write("a.test_ada91241341ae792ecf0a59cad28616a77bab856", &format!("bob:{LINE}\n"));
        write("torn.test", "alice:hunter2\n");
        write(".hidden", &format!("alice:{LINE}\n"));
        let mut htpasswd = Htpasswd::default();
        let problems = htpasswd.read(Some(directory.path()));
        let users = |htpasswd: &Htpasswd, host: &str, path: &str| {
            let found = htpasswd.of(host, path)?;
            Some(found.iter().map(|line| line.user.clone()).collect::<Vec<_>>().join(","))
        };
        for (host, path, want) in [
            ("a.test", "/", Some("alice")),
            ("a.test", "/api", Some("bob")),
            ("a.test", "/api/", Some("alice")),
            ("b.test", "/", None),
            (".hidden", "/", None),
            ("torn.test", "/", Some("")),
        ] {
            assert_eq!(users(&htpasswd, host, path).as_deref(), want, "{host}{path}");
        }
        let shown = format!("{problems:?} {htpasswd:?}");
        assert_eq!(problems.len(), 2, "{shown}");
        assert!(!shown.contains("hunter2") && !shown.contains("$5$"), "{shown}");

        // A file that is there and cannot be read does not open its host.
        fs::write(directory.path().join("a.test"), [0xff]).expect("it is written");
        assert_eq!(htpasswd.read(Some(directory.path())).len(), 3);
        assert_eq!(users(&htpasswd, "a.test", "/").as_deref(), Some("alice"));
        htpasswd.read(Some(Path::new("/nowhere")));
        assert_eq!(users(&htpasswd, "a.test", "/").as_deref(), Some("alice"));
        htpasswd.read(None);
        assert_eq!(users(&htpasswd, "a.test", "/"), None);
    }
}
