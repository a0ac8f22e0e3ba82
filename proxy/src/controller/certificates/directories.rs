//! Directories of certificates that others keep (certbot, acme-companion) or that were imported: which
//! files in them belong together.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::Problem;
use crate::config::CertificateFiles;

/// Entries of one directory that are looked at: with more it is another directory than was meant.
const MOST_ENTRIES: usize = 10_000;
/// certbot's directory of links to what is newest.
const LIVE: &str = "live";
/// nginx-proxy's own, for no name.
const DEFAULT: &str = "default.crt";

/// The pairs in a directory, each once, sorted.
pub fn scan(directory: &Path) -> Result<Vec<CertificateFiles>, Problem> {
    let mut found = of_names(directory)?;
    let live = directory.join(LIVE);
    if live.is_dir() {
        found.extend(of_names(&live)?);
    }
    // acme-companion links NAME.crt to NAME/fullchain.pem.
    let mut seen = BTreeSet::new();
    found.retain(|files| {
        let real = fs::canonicalize(&files.cert).unwrap_or_else(|_| files.cert.clone());
        seen.insert(real)
    });
    Ok(found)
}

/// `NAME.crt` and `NAME.key`, `NAME.pem` with both, `NAME/fullchain.pem` and `privkey.pem` or
/// `key.pem`.
fn of_names(directory: &Path) -> Result<Vec<CertificateFiles>, Problem> {
    let failed = |error: &dyn std::fmt::Display| Problem {
        thing: directory.display().to_string(),
        reason: format!("cannot be read: {error}"),
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| failed(&error))?.take(MOST_ENTRIES) {
        paths.push(entry.map_err(|error| failed(&error))?.path());
    }
    paths.sort();
    Ok(paths.iter().filter_map(|path| pair_at(path)).collect())
}

fn pair_at(path: &Path) -> Option<CertificateFiles> {
    let both = |cert: PathBuf, key: PathBuf| {
        (cert.is_file() && key.is_file()).then_some(CertificateFiles { cert, key })
    };
    let name = path.file_name()?.to_str()?;
    if name.starts_with('.') || name == DEFAULT {
        return None;
    }
    if path.is_dir() {
        let chain = || path.join("fullchain.pem");
        let certbot = both(chain(), path.join("privkey.pem"));
        return certbot.or_else(|| both(chain(), path.join("key.pem")));
    }
    if let Some(stem) = name.strip_suffix(".crt") {
        return both(path.to_owned(), path.with_file_name(format!("{stem}.key")));
    }
    // As the import writes it.
    name.ends_with(".pem").then(|| both(path.to_owned(), path.to_owned())).flatten()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_belongs_together_is_found_in_every_layout() {
        let temporary = tempfile::tempdir().expect("temporary directory");
        let write = |name: &str| {
            let path = temporary.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            fs::write(path, "").expect("write");
        };
        for name in [
            "live/a.example.com/fullchain.pem",
            "live/a.example.com/privkey.pem",
            "live/README",
            "archive/a.example.com/fullchain1.pem",
            "b.example.com/fullchain.pem",
            "b.example.com/key.pem",
            "c.example.com.crt",
            "c.example.com.key",
            "c.example.com.ca.crt",
            "alone.crt",
            "default.crt",
            "default.key",
            "both.pem",
        ] {
            write(name);
        }
        symlink("b.example.com/fullchain.pem", temporary.path().join("b.example.com.crt"))
            .expect("link");
        symlink("b.example.com/key.pem", temporary.path().join("b.example.com.key")).expect("link");

        let found = scan(temporary.path()).expect("scan");
        let relative = |path: &Path| {
            path.strip_prefix(temporary.path()).expect("below it").display().to_string()
        };
        let found: Vec<_> = found.iter().map(|f| (relative(&f.cert), relative(&f.key))).collect();
        let want = [
            ("b.example.com/fullchain.pem", "b.example.com/key.pem"),
            ("both.pem", "both.pem"),
            ("c.example.com.crt", "c.example.com.key"),
            ("live/a.example.com/fullchain.pem", "live/a.example.com/privkey.pem"),
        ];
        assert_eq!(found, want.map(|(cert, key)| (cert.to_owned(), key.to_owned())));
    }

    #[test]
    fn a_directory_that_is_not_there_is_a_problem() {
        let problem = scan(Path::new("/nonexistent/directory")).expect_err("not there");
        assert_eq!(
            problem.to_string(),
            "/nonexistent/directory: cannot be read: No such file or directory (os error 2)"
        );
    }
}
