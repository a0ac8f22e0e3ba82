//! The control socket's file: claimed by one controller, for its own user alone.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use crate::sys;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// A listening socket at its path; the file goes away with it.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("control socket {path}: another baton is running (pid {pid}): stop it first, or give \
        this one a `control_socket` of its own", path = path.display())]
    Running { path: PathBuf, pid: i32 },
    #[error("control socket {path}: permission denied: run as root, or set `control_socket` to a \
        path that this user may write", path = path.display())]
    Denied { path: PathBuf },
    #[error("control socket {path}: there is a file that is not a socket: move it away",
        path = path.display())]
    NotASocket { path: PathBuf },
    #[error("control socket {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl ControlSocket {
    /// Listens at `path`, in the place of a socket that a dead controller left.
    ///
    /// # Errors
    /// [`ClaimError::Running`] when a live controller answers there.
    pub fn claim(path: &Path) -> Result<Self, ClaimError> {
        match StdStream::connect(path) {
            Ok(stream) => {
                let pid = getsockopt(&stream, PeerCredentials).map_or(0, |peer| peer.pid());
                return Err(ClaimError::Running { path: path.to_owned(), pid });
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => discard(path)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => make_directory(path)?,
            Err(e) => return Err(explain(path, e)),
        }
        let listener = listen(path).map_err(|e| explain(path, e))?;
        Ok(ControlSocket { listener, path: path.to_owned() })
    }
}

impl ControlSocket {
    /// Takes over the listening socket of the program that this process was.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub fn resume(path: &Path, socket: RawFd) -> io::Result<Self> {
        let listener = StdListener::from(sys::own_inherited(socket));
        listener.set_nonblocking(true)?;
        Ok(ControlSocket { listener: UnixListener::from_std(listener)?, path: path.to_owned() })
    }

    pub fn descriptor(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Whoever comes next would find it stale and replace it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Connecting is refused by a stale socket, and by a file that never was one.
fn discard(path: &Path) -> Result<(), ClaimError> {
    use std::os::unix::fs::FileTypeExt;
    let metadata = fs::symlink_metadata(path).map_err(|e| explain(path, e))?;
    if !metadata.file_type().is_socket() {
        return Err(ClaimError::NotASocket { path: path.to_owned() });
    }
    fs::remove_file(path).map_err(|e| explain(path, e))
}

fn make_directory(path: &Path) -> Result<(), ClaimError> {
    let Some(directory) = path.parent() else { return Ok(()) };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o755).create(directory).map_err(|e| explain(path, e))
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // bind makes the file with the mode that the socket has (Linux, unix_bind): there is no moment at
    // which others can open it.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(StdListener::from(OwnedFd::from(socket)))
}

fn explain(path: &Path, source: io::Error) -> ClaimError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => ClaimError::Denied { path },
        _ => ClaimError::Io { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_live_one_is_refused_and_a_stale_one_replaced() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("run/control.sock");
        let first = ControlSocket::claim(&path).expect("first");
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        match ControlSocket::claim(&path) {
            Err(ClaimError::Running { pid, .. }) => assert_eq!(pid, std::process::id() as i32),
            other => panic!("{other:?}"),
        }
        drop(first);
        assert!(!path.exists());

        drop(StdListener::bind(&path).expect("stale"));
        ControlSocket::claim(&path).expect("in the place of a stale one");
    }

    #[tokio::test]
    async fn a_file_of_another_kind_is_left_alone() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("control.sock");
        fs::write(&path, "precious").expect("write");
        let claimed = ControlSocket::claim(&path);
        assert!(matches!(claimed, Err(ClaimError::NotASocket { .. })), "{claimed:?}");
        assert_eq!(fs::read_to_string(&path).expect("read"), "precious");
    }
}
