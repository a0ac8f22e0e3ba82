//! Directories that static files are served from: opened before the sandbox closes, and the only files
//! that a worker can open from then on. The kernel keeps each path beneath its root.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};

/// The roots of one worker.
#[derive(Debug, Default)]
pub struct Roots(HashMap<PathBuf, Arc<OwnedFd>>);

impl Roots {
    /// One that is not there is left out, and said so in the log: its routes answer 503.
    pub fn open(paths: &[PathBuf]) -> Self {
        let opened = paths.iter().filter_map(|path| match open_root(path) {
            Ok(root) => Some((path.clone(), Arc::new(root))),
            Err(error) => {
                tracing::error!("static files: {}: {error}", path.display());
                None
            }
        });
        Roots(opened.collect())
    }

    pub fn get(&self, path: &Path) -> Option<&Arc<OwnedFd>> {
        self.0.get(path)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.values().map(|root| root.as_fd())
    }
}

fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// What a path beneath a root leads to.
#[derive(Debug)]
pub enum Opened {
    File(File),
    Directory,
    /// Nothing, or nothing that is served: it leads out of the root, or is neither.
    Nothing,
}

/// A file that is open, as it was then.
#[derive(Debug)]
pub struct File {
    descriptor: OwnedFd,
    /// In bytes.
    pub length: u64,
    pub modified: SystemTime,
}

/// How an attempt without waiting for a disk ended.
#[derive(Debug)]
pub enum Now<T> {
    Done(T),
    /// Only the disk knows.
    WouldBlock,
}

/// Opens what is in the kernel's caches already. Minimum kernel version: 5.12 (RESOLVE_CACHED); before
/// that it is always the disk that is asked.
pub fn open_now(root: &OwnedFd, path: &[u8]) -> io::Result<Now<Opened>> {
    match open_with(root, path, ResolveFlags::CACHED) {
        Err(Errno::AGAIN | Errno::INVAL) => Ok(Now::WouldBlock),
        other => Ok(Now::Done(other?)),
    }
}

/// Opens, whatever that takes.
pub fn open_beneath(root: &OwnedFd, path: &[u8]) -> io::Result<Opened> {
    loop {
        match open_with(root, path, ResolveFlags::empty()) {
            // A rename while the kernel went through `..` of a link.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

fn open_with(root: &OwnedFd, path: &[u8], more: ResolveFlags) -> Result<Opened, Errno> {
    // A pipe must not hold the thread until somebody writes to it.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    // Links may be followed while they stay beneath the root; those of /proc lead anywhere.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | more;
    match openat2(root, OsStr::from_bytes(path), flags, Mode::empty(), resolve) {
        Ok(descriptor) => opened(descriptor),
        Err(
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::LOOP
            | Errno::XDEV
            | Errno::NAMETOOLONG
            // A socket, or a device without its driver.
            | Errno::NXIO
            | Errno::NODEV,
        ) => Ok(Opened::Nothing),
        Err(error) => Err(error),
    }
}

fn opened(descriptor: OwnedFd) -> Result<Opened, Errno> {
    let status = fstat(&descriptor)?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => Ok(Opened::Directory),
        FileType::RegularFile => {
            let seconds = u64::try_from(status.st_mtime).unwrap_or(0);
            let nanoseconds = u32::try_from(status.st_mtime_nsec).unwrap_or(0);
            let modified = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
            let length = u64::try_from(status.st_size).unwrap_or(0);
            Ok(Opened::File(File { descriptor, length, modified }))
        }
        _ => Ok(Opened::Nothing),
    }
}

impl File {
    /// Reads what is in memory already.
    pub fn read_now(&self, buffer: &mut [u8], offset: u64) -> io::Result<Now<usize>> {
        let mut slices = [io::IoSliceMut::new(buffer)];
        match preadv2(&self.descriptor, &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) => Ok(Now::WouldBlock),
            other => Ok(Now::Done(other?)),
        }
    }

    pub fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match pread(&self.descriptor, &mut *buffer, offset) {
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_leads_out_of_a_root() {
        let outside = tempfile::tempdir().expect("temp dir");
        let directory = outside.path().join("root");
        fs::create_dir_all(directory.join("sub")).expect("sub");
        fs::write(outside.path().join("secret"), "hunter2").expect("secret");
        fs::write(directory.join("a"), "1234").expect("a");
        for (link, target) in [
            ("inside", "a"),
            ("sub/up", "../a"),
            ("out", "../secret"),
            ("absolute", "/etc/hostname"),
            ("loop", "loop"),
            ("proc", "/proc/self/root/etc/hostname"),
        ] {
            symlink(target, directory.join(link)).expect("link");
        }
        symlink(directory.join("a"), directory.join("absolute-inside")).expect("link");
        let roots = Roots::open(&[directory.clone(), outside.path().join("none")]);
        assert!(roots.get(&outside.path().join("none")).is_none());
        let root = roots.get(&directory).expect("it is there");
        for (path, want) in [
            ("a", "file of 4"),
            ("inside", "file of 4"),
            ("sub/up", "file of 4"),
            ("sub", "directory"),
            (".", "directory"),
            ("a/", "nothing"),
            ("none", "nothing"),
            ("out", "nothing"),
            ("absolute", "nothing"),
            ("absolute-inside", "nothing"),
            ("loop", "nothing"),
            ("proc", "nothing"),
            ("../secret", "nothing"),
            ("sub/../../secret", "nothing"),
            ("/etc/hostname", "nothing"),
        ] {
            let found = match open_beneath(root, path.as_bytes()).expect(path) {
                Opened::File(file) => format!("file of {}", file.length),
                Opened::Directory => "directory".to_owned(),
                Opened::Nothing => "nothing".to_owned(),
            };
            assert_eq!(found, want, "{path}");
        }
    }
}
