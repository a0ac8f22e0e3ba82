//! What the cookies of sticky routes are made with: one key for all generations, programs and boots, in
//! the state directory. Whoever has it can choose an upstream, and no more.

use std::path::Path;

use aws_lc_rs::rand;

use super::store::{Store, StoreError};
use crate::protocol::snapshot::StickyKey;

const FILE: &str = "sticky_key.json";

/// The key that is there, or a new one. Where it cannot be kept it holds until the next start: clients
/// get new cookies then.
pub fn load(state_dir: &Path) -> StickyKey {
    let mut problems = Vec::new();
    let key = kept(state_dir, &mut problems);
    for problem in problems {
        tracing::error!("{problem}");
    }
    key.unwrap_or_else(|error| {
        tracing::error!("{error}: clients of sticky routes get new cookies at the next start");
        fresh()
    })
}

fn kept(
    state_dir: &Path,
    problems: &mut Vec<super::certificates::Problem>,
) -> Result<StickyKey, StoreError> {
    let store = Store::open(state_dir.to_owned())?;
    if let Some(key) = store.read_json(FILE, problems)? {
        return Ok(key);
    }
    let key = fresh();
    store.write_json(FILE, &key)?;
    Ok(key)
}

fn fresh() -> StickyKey {
    let mut secret = [0; 32];
    rand::fill(&mut secret).expect("AWS-LC ends the process where the kernel has no randomness");
    StickyKey { secret }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_key_for_all_starts_and_a_new_one_where_the_file_is_none() {
        let directory = tempfile::tempdir().expect("temp dir");
        let first = load(directory.path());
        assert_eq!(load(directory.path()), first);
        let file = directory.path().join(FILE);
        let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&file, "{\"secret\":\"short\"}").expect("written");
        let second = load(directory.path());
        assert_ne!(second, first);
        assert_eq!(load(directory.path()), second);
    }
}
