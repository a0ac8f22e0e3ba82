//! Where the workers of a controller that died are found by the next one: a unix socket for each
//! worker, in a directory beside the control socket. The worker listens at it and answers once its
//! own controller is gone.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The directory of one control socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendezvous {
    directory: PathBuf,
}

/// One worker's socket. Its file goes away with this.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
}

/// A socket that was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub path: PathBuf,
    pub generation: u64,
    pub pid: u32,
}

impl Rendezvous {
    pub fn beside(control_socket: &Path) -> Self {
        let mut directory = control_socket.as_os_str().to_owned();
        directory.push(".workers");
        Rendezvous { directory: directory.into() }
    }

    /// Makes a worker's socket.
    ///
    /// # Errors
    /// When the directory cannot be made, or the socket not bound in it.
    pub fn open(&self, generation: u64, pid: u32) -> io::Result<(Place, UnixListener)> {
        let place = self.place(generation, pid);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        discard(&place.path)?;
        let listener = UnixListener::bind(&place.path)?;
        listener.set_nonblocking(true)?;
        Ok((place, listener))
    }

    /// The socket of a worker that has it already.
    pub fn place(&self, generation: u64, pid: u32) -> Place {
        Place { path: self.directory.join(format!("{generation}-{pid}")) }
    }

    /// Every socket that is there, oldest generation first.
    pub fn left(&self) -> Vec<Left> {
        // No directory: nobody was ever here.
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let mut left: Vec<_> = entries.filter_map(|entry| parse(entry.ok()?.path())).collect();
        left.sort_unstable_by_key(|left| (left.generation, left.pid));
        left
    }
}

impl Left {
    /// Its worker has ended.
    pub fn forget(&self) {
        let _ = discard(&self.path);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The next controller would find nobody there, and remove it.
        let _ = discard(&self.path);
    }
}

fn parse(path: PathBuf) -> Option<Left> {
    let (generation, pid) = path.file_name()?.to_str()?.split_once('-')?;
    let (generation, pid) = (generation.parse().ok()?, pid.parse().ok()?);
    Some(Left { path, generation, pid })
}

fn discard(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_is_found_by_the_next_one_until_its_place_is_given_up() {
        let directory = tempfile::tempdir().expect("tempdir");
        let rendezvous = Rendezvous::beside(&directory.path().join("control.sock"));
        assert_eq!(rendezvous.left(), []);
        let (ten, _listener) = rendezvous.open(10, 7).expect("open");
        let (nine, _other) = rendezvous.open(9, 8).expect("open");
        fs::write(rendezvous.directory.join("notes"), "").expect("a file of somebody else's");
        let left = rendezvous.left();
        assert_eq!(
            left.iter().map(|l| (l.generation, l.pid)).collect::<Vec<_>>(),
            [(9, 8), (10, 7)]
        );
        UnixStream::connect(&left[1].path).expect("somebody listens");
        drop(ten);
        assert_eq!(rendezvous.left(), left[..1]);
        std::mem::forget(nine);
        left[0].forget();
        assert_eq!(rendezvous.left(), []);
    }
}
