//! The state directory as a store: what baton makes outlives it, whole or not at all, and what
//! somebody else put there is never overwritten.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::certificates::{Pair, Problem};

/// Owner alone.
pub const SECRET: u32 = 0o600;
/// Owner writes, everybody reads.
pub const PUBLIC: u32 = 0o644;
const DIRECTORY: u32 = 0o700;
/// Most files set aside under one name: whoever has that many has another problem.
const SET_ASIDE_LIMIT: u32 = 100;

#[derive(Debug, thiserror::Error)]
#[error("{path}: {action}: {source}{}", advice(.source))]
pub struct StoreError {
    pub path: PathBuf,
    pub action: &'static str,
    pub source: io::Error,
}

/// What to do about it.
pub fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": make room on that disk",
        io::ErrorKind::ReadOnlyFilesystem => {
            ": mount it to be written to, or set another `state_dir`"
        }
        io::ErrorKind::PermissionDenied => {
            ": run as root, give it to this user (chown -R), or set another `state_dir`"
        }
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            ": there is a file: set `state_dir` to a directory"
        }
        _ => "",
    }
}

/// One directory of the store.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// Creates the directory, readable by its owner alone, when it is not there.
    pub fn open(directory: PathBuf) -> Result<Self, StoreError> {
        if directory.is_dir() {
            // Not even asked for: a disk that takes no writes lets mkdir(2) wait.
            return Ok(Store { directory });
        }
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY)
            .create(&directory)
            .map_err(failed("create", &directory))?;
        Ok(Store { directory })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// None when it is not there.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// A pair that baton wrote. A file that is none is set aside and reported.
    pub fn read_pair(
        &self,
        name: &str,
        problems: &mut Vec<Problem>,
    ) -> Result<Option<Pair>, StoreError> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        match Pair::from_pem(&String::from_utf8_lossy(&bytes)) {
            Ok(pair) => Ok(Some(pair)),
            Err(error) => {
                problems.push(self.set_aside(name, &error.to_string())?);
                Ok(None)
            }
        }
    }

    /// JSON that baton wrote. A file that is none, or has another shape, is set aside and reported.
    pub fn read_json<T: DeserializeOwned>(
        &self,
        name: &str,
        problems: &mut Vec<Problem>,
    ) -> Result<Option<T>, StoreError> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                // Without what the file has: it may be a key.
                let at = format!("not what baton writes (line {})", error.line());
                problems.push(self.set_aside(name, &at)?);
                Ok(None)
            }
        }
    }

    /// Secret, as everything is that only baton reads.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), StoreError> {
        let mut bytes = serde_json::to_vec_pretty(value).expect("its keys are strings");
        bytes.push(b'\n');
        self.write(name, &bytes, SECRET)
    }

    /// The files whose name ends like this, sorted.
    pub fn list(&self, suffix: &str) -> Result<Vec<String>, StoreError> {
        let failed = |error| failed("list", &self.directory)(error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            // Names of ours are UTF-8; those being written begin with a dot.
            names.extend(
                name.into_string()
                    .ok()
                    .filter(|name| name.ends_with(suffix) && !name.starts_with('.')),
            );
        }
        names.sort();
        Ok(names)
    }

    /// One that is not there is as well.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Ok(()) => self.sync().map_err(failed("remove", &path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("remove", &path)(error)),
        }
    }

    /// Replaces the file as a whole: a crash leaves the old one or the new one.
    pub fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
        let path = self.path(name);
        self.replace(&path, bytes, mode).map_err(failed("write", &path))
    }

    fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".writing-")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(&self.directory)?;
        file.write_all(bytes)?;
        // The umask has had its say on the mode above.
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        self.sync()
    }

    /// A rename and a removal outlive a crash once the directory is on disk.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    /// Renames a file that is not what baton writes to NAME.bad-1, .bad-2 and so on.
    pub fn set_aside(&self, name: &str, reason: &str) -> Result<Problem, StoreError> {
        let path = self.path(name);
        let free = (1..=SET_ASIDE_LIMIT)
            .map(|number| format!("{name}.bad-{number}"))
            .find(|aside| self.path(aside).symlink_metadata().is_err())
            .ok_or_else(|| failed("set aside", &path)(io::ErrorKind::AlreadyExists.into()))?;
        fs::rename(&path, self.path(&free)).map_err(failed("set aside", &path))?;
        Ok(Problem {
            thing: path.display().to_string(),
            reason: format!("{reason}; set aside as {free}"),
        })
    }
}

/// `+.app.test.pem` for `*.app.test`: a star in a file name invites accidents, and no host name has
/// a plus.
pub fn file_name(name: &str, extension: &str) -> String {
    format!("{}.{extension}", name.replace('*', "+"))
}

/// The other way.
pub fn name_of_file(file: &str, extension: &str) -> Option<String> {
    let name = file.strip_suffix(extension)?.strip_suffix('.')?;
    Some(name.replace('+', "*"))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError { path, action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_disk_is_said_with_what_to_do() {
        for (number, want) in [
            (
                nix::errno::Errno::ENOSPC,
                "/s/a: write: No space left on device (os error 28): make room on that disk",
            ),
            (nix::errno::Errno::EIO, "/s/a: write: Input/output error (os error 5)"),
        ] {
            let error = failed("write", Path::new("/s/a"))(number.into());
            assert_eq!(error.to_string(), want);
        }
    }

    #[test]
    fn names_of_files_lead_back() {
        for (name, file) in [("a.test", "a.test.pem"), ("*.a.test", "+.a.test.pem")] {
            assert_eq!(file_name(name, "pem"), file);
            assert_eq!(name_of_file(file, "pem").as_deref(), Some(name));
        }
        assert_eq!(name_of_file("a.test.pem.bad-1", "pem"), None);
    }

    #[test]
    fn json_of_another_shape_is_set_aside_and_not_repeated() {
        let temporary = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(temporary.path().to_owned()).expect("open");
        store.write_json("x.json", &["secret"]).expect("write");
        assert_eq!(store.list(".json").expect("list"), ["x.json"]);
        let mut problems = Vec::new();
        assert_eq!(store.read_json::<u32>("x.json", &mut problems).expect("read"), None);
        let [problem] = problems.as_slice() else { panic!("one problem: {problems:?}") };
        assert_eq!(problem.reason, "not what baton writes (line 1); set aside as x.json.bad-1");
        assert_eq!(store.list(".json").expect("list"), [""; 0]);
        store.remove("x.json").expect("it is not there");
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("metadata").permissions().mode() & 0o777
    }

    #[test]
    fn files_are_replaced_whole_and_have_their_mode() {
        let temporary = tempfile::tempdir().expect("temporary directory");
        let directory = temporary.path().join("a/b");
        let store = Store::open(directory.clone()).expect("open");
        assert_eq!(mode(&directory), 0o700);

        assert_eq!(store.read("x").expect("read"), None);
        store.write("x", b"one", SECRET).expect("write");
        assert_eq!(mode(&store.path("x")), 0o600);
        store.write("x", b"two", PUBLIC).expect("write again");
        assert_eq!(mode(&store.path("x")), 0o644);
        assert_eq!(store.read("x").expect("read").as_deref(), Some(&b"two"[..]));
        assert_eq!(fs::read_dir(&directory).expect("list").count(), 1, "no temporary file is left");
    }

    #[test]
    fn what_is_set_aside_is_kept() {
        let temporary = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(temporary.path().to_owned()).expect("open");
        for (content, want) in [("one", "x.pem.bad-1"), ("two", "x.pem.bad-2")] {
            fs::write(store.path("x.pem"), content).expect("write");
            let mut problems = Vec::new();
            assert!(store.read_pair("x.pem", &mut problems).expect("read").is_none());
            assert_eq!(fs::read_to_string(store.path(want)).expect(want), content);
            let [problem] = problems.as_slice() else { panic!("one problem: {problems:?}") };
            assert_eq!(
                problem.reason,
                format!("no private key in it (expected PEM); set aside as {want}")
            );
        }
        assert_eq!(store.read("x.pem").expect("read"), None);
    }
}
