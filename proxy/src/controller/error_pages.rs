//! A directory with pages for errors, read at the start and at a reload: `502.html`, or `5xx.html` for a
//! class; a directory in it holds those of the routes that name it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::certificates::Problem;

/// Longest page, in bytes, and of all of them: they travel with each snapshot.
const MAX_BYTES: u64 = 64 * 1024;
const MAX_ALL_BYTES: usize = 1 << 20;
/// nginx's own, for 500, 502, 503 and 504.
const NGINX_PAGE: &str = "50x";

/// Pages by status or class, by the name of their set; that without one is for all routes.
pub type Sets = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Debug, Default)]
pub struct ErrorPages(Sets);

impl ErrorPages {
    /// Reads all of them anew. What was good before, and cannot be read now, stays in service.
    pub fn read(&mut self, directory: Option<&Path>) -> Vec<Problem> {
        let Some(directory) = directory else {
            self.0.clear();
            return Vec::new();
        };
        let mut reader = Reader { before: std::mem::take(&mut self.0), ..Reader::default() };
        if let Err(error) = reader.all(directory) {
            reader.problem(directory, format!("cannot be read: {error}; the pages before stay"));
            self.0 = reader.before;
        } else {
            self.0 = reader.sets;
        }
        reader.problems
    }

    pub fn sets(&self) -> &Sets {
        &self.0
    }
}

#[derive(Default)]
struct Reader {
    before: Sets,
    sets: Sets,
    bytes: usize,
    problems: Vec<Problem>,
}

impl Reader {
    fn problem(&mut self, path: &Path, reason: String) {
        self.problems.push(Problem { thing: path.display().to_string(), reason });
    }

    fn all(&mut self, directory: &Path) -> io::Result<()> {
        for (name, path) in entries(directory)? {
            if !path.is_dir() {
                self.page("", &name, &path);
                continue;
            }
            for (page, path) in entries(&path)? {
                self.page(&name, &page, &path);
            }
        }
        Ok(())
    }

    fn page(&mut self, set: &str, file: &str, path: &Path) {
        let status = match status(file) {
            Some(status) => status,
            // Pictures and styles that pages share lie beside them in nginx-proxy's directory.
            None if !file.ends_with(".html") => return,
            None => {
                let reason = "is not named by a status from 400 to 599, or 4xx or 5xx, and .html";
                return self.problem(path, reason.to_owned());
            }
        };
        let known = self.before.get(set).and_then(|pages| pages.get(&status)).cloned();
        let html = match html(path) {
            Ok(html) if self.bytes + html.len() <= MAX_ALL_BYTES => html,
            Ok(_) => {
                let reason = format!("is left out: all pages are more than {MAX_ALL_BYTES} bytes");
                return self.problem(path, reason);
            }
            Err(reason) => {
                let kept = if known.is_some() { "; what was read before holds" } else { "" };
                self.problem(path, format!("{reason}{kept}"));
                match known {
                    Some(known) => known,
                    None => return,
                }
            }
        };
        self.bytes += html.len();
        self.sets.entry(set.to_owned()).or_default().insert(status, html);
    }
}

/// What a file is for: a status, or a class as `5xx`.
fn status(file: &str) -> Option<String> {
    let name = file.strip_suffix(".html")?;
    let is_error = name.len() == 3 && name.parse().is_ok_and(|code| (400..600).contains(&code));
    match name {
        NGINX_PAGE => Some("5xx".to_owned()),
        "4xx" | "5xx" => Some(name.to_owned()),
        _ => is_error.then(|| name.to_owned()),
    }
}

fn entries(directory: &Path) -> io::Result<Vec<(String, std::path::PathBuf)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
        {
            entries.push((name, entry.path()));
        }
    }
    entries.sort();
    Ok(entries)
}

fn html(path: &Path) -> Result<String, String> {
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::InvalidData => "is not UTF-8".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    if fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
        return Err(format!("is longer than {MAX_BYTES} bytes"));
    }
    fs::read_to_string(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_what_they_are_for() {
        for (file, want) in [
            ("502.html", Some("502")),
            ("404.html", Some("404")),
            ("5xx.html", Some("5xx")),
            ("50x.html", Some("5xx")),
            ("302.html", None),
            ("600.html", None),
            ("+50.html", None),
            ("index.html", None),
            ("502.htm", None),
        ] {
            assert_eq!(status(file).as_deref(), want, "{file}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_and_what_was_good_stays() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("shop")).expect("a directory");
        for (name, html) in [("502.html", "bad gateway"), ("shop/5xx.html", "shop")] {
            fs::write(path(name), html).expect("written");
        }
        fs::write(path("style.css"), "p {}").expect("written");
        let mut pages = ErrorPages::default();
        assert_eq!(pages.read(Some(directory.path())), []);
        let of = |pages: &ErrorPages, set: &str, status: &str| {
            pages.sets().get(set).and_then(|pages| pages.get(status)).cloned()
        };
        assert_eq!(of(&pages, "", "502").as_deref(), Some("bad gateway"));
        assert_eq!(of(&pages, "shop", "5xx").as_deref(), Some("shop"));

        fs::write(path("502.html"), [0xff]).expect("written");
        fs::write(path("oops.html"), "").expect("written");
        fs::write(path("503.html"), vec![b' '; 70_000]).expect("written");
        let said: Vec<_> =
            pages.read(Some(directory.path())).into_iter().map(|p| p.reason).collect();
        assert_eq!(
            said,
            [
                "is not UTF-8; what was read before holds",
                "is longer than 65536 bytes",
                "is not named by a status from 400 to 599, or 4xx or 5xx, and .html",
            ]
        );
        assert_eq!(of(&pages, "", "502").as_deref(), Some("bad gateway"));

        let gone = pages.read(Some(&path("absent")));
        assert_eq!((gone.len(), of(&pages, "shop", "5xx").is_some()), (1, true));
        assert_eq!(pages.read(None), []);
        assert!(pages.sets().is_empty());
    }
}
