//! A selector pinned on a BPF file system outlives the controller: after a crash, the next one finds
//! the maps that steer the workers which serve on.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapError};
use aya::programs::sk_reuseport::SkReuseportAttachType;
use aya::programs::{ProgramError, SkReuseport};
use baton_layout::VERSION;

use super::parts::Parts;

/// Below where systemd mounts the BPF file system.
pub const PIN_DIRECTORY: &str = "/sys/fs/bpf/baton";

#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("selector: only the process that loaded it can pin it")]
    NotLoadedHere,
    #[error("selector: {path}: {source}", path = path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("selector: {path}: {source}", path = path.display())]
    Part { path: PathBuf, source: PartError },
}

/// What went wrong with one file.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    #[error("{0}")]
    Descriptor(#[from] io::Error),
    #[error("{0}")]
    Map(#[from] MapError),
    #[error("{0}")]
    Program(#[from] ProgramError),
    #[error("{0}")]
    Pin(#[from] aya::pin::PinError),
}

/// The files of a selector of this layout, which are below a directory of their own: another
/// version does not find them.
fn files(directory: &Path) -> Parts<PathBuf> {
    let of_this_layout = directory.join(format!("v{VERSION}"));
    Parts {
        layout: VERSION,
        steering: "steering",
        addresses: "addresses",
        sockets: "sockets",
        counters: "counters",
        program: "program",
    }
    .map(|name| of_this_layout.join(name))
}

pub(super) fn pin(
    parts: &Parts<OwnedFd>,
    program: &mut SkReuseport,
    directory: &Path,
) -> Result<(), PinError> {
    unpin(directory)?;
    let files = files(directory);
    make_directory(&files)?;
    for (map, path) in [
        (&parts.steering, &files.steering),
        (&parts.addresses, &files.addresses),
        (&parts.sockets, &files.sockets),
        (&parts.counters, &files.counters),
    ] {
        pin_map(map, path).map_err(at(path))?;
    }
    program.pin(&files.program).map_err(|e| at(&files.program)(e.into()))
}

fn make_directory(files: &Parts<PathBuf>) -> Result<(), PinError> {
    let path = files.program.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| PinError::Directory { path: path.to_owned(), source })
}

fn pin_map(map: &OwnedFd, path: &Path) -> Result<(), PartError> {
    Ok(MapData::from_fd(map.try_clone()?)?.pin(path)?)
}

/// What [`super::Selector::pin`] pinned; none where nothing was pinned by this version.
///
/// # Errors
/// [`PinError`] when a part is missing or cannot be had.
pub fn pinned(directory: &Path) -> Result<Option<Parts<OwnedFd>>, PinError> {
    let files = files(directory);
    if !files.program.exists() {
        return Ok(None);
    }
    let map = |path: &PathBuf| open_map(path).map_err(at(path));
    Ok(Some(Parts {
        layout: VERSION,
        steering: map(&files.steering)?,
        addresses: map(&files.addresses)?,
        sockets: map(&files.sockets)?,
        counters: map(&files.counters)?,
        program: open_program(&files.program).map_err(at(&files.program))?,
    }))
}

fn open_map(path: &Path) -> Result<OwnedFd, PartError> {
    Ok(MapData::from_pin(path)?.fd().as_fd().try_clone_to_owned()?)
}

fn open_program(path: &Path) -> Result<OwnedFd, PartError> {
    let program = SkReuseport::from_pin(path, SkReuseportAttachType::SelectOrMigrate)?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

/// Removes what this version pinned. What is attached and mapped stays so.
///
/// # Errors
/// [`PinError::Directory`], not for what is not there.
pub fn unpin(directory: &Path) -> Result<(), PinError> {
    let files = files(directory);
    let path = files.program.parent().unwrap_or(directory);
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(PinError::Directory { path: path.to_owned(), source: e })
        }
        _ => Ok(()),
    }
}

fn at(path: &Path) -> impl Fn(PartError) -> PinError {
    move |source| PinError::Part { path: path.to_owned(), source }
}
