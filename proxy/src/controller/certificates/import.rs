//! `baton certs --import`: copies certificates that others have got into the state directory, where
//! they are read as those of `tls.certificate_dirs` are.

use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::files::read;
use super::{Problem, directories, rfc3339};
use crate::controller::store::{SECRET, Store, StoreError, file_name};

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{0}")]
    Directory(Problem),
    #[error("{}: no certificate with its key in it (expected live/NAME/fullchain.pem and \
        privkey.pem, NAME.crt and NAME.key, or NAME/fullchain.pem and key.pem)", .0.display())]
    Nothing(PathBuf),
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// What became of an import.
#[derive(Debug, Default)]
pub struct Imported {
    /// One line each.
    pub certificates: Vec<String>,
    pub problems: Vec<Problem>,
}

/// Where imported ones are.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("imported")
}

/// Copies every pair of `from` that is good now; what is wrong with the others is told. One with the
/// same first name is replaced, unless it ends later.
///
/// # Errors
/// When there is nothing, or the state directory cannot be written.
pub fn import(from: &Path, state_dir: &Path) -> Result<Imported, ImportError> {
    import_at(from, state_dir, OffsetDateTime::now_utc())
}

fn import_at(from: &Path, state_dir: &Path, now: OffsetDateTime) -> Result<Imported, ImportError> {
    let found = directories::scan(from).map_err(ImportError::Directory)?;
    if found.is_empty() {
        return Err(ImportError::Nothing(from.to_owned()));
    }
    let store = Store::open(directory(state_dir))?;
    let mut imported = Imported::default();
    for files in found {
        let pair = match read(&files, now) {
            Ok(pair) => pair,
            Err(problem) => {
                imported.problems.push(problem);
                continue;
            }
        };
        // A reader refuses one without names.
        let file = file_name(&pair.names[0], "pem");
        let before = store.read_pair(&file, &mut imported.problems)?;
        if before.is_some_and(|before| before.not_after > pair.not_after) {
            let reason = "not imported: the one that is there ends later".to_owned();
            let thing = files.cert.display().to_string();
            imported.problems.push(Problem { thing, reason });
            continue;
        }
        store.write(&file, pair.to_pem().as_bytes(), SECRET)?;
        let (names, until) = (pair.names.join(", "), rfc3339(pair.not_after));
        imported.certificates.push(format!("{names} (until {until})"));
    }
    Ok(imported)
}
