//! The only unsafe code of the crate: descriptors that the kernel just gave us.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Takes ownership of a descriptor that recvmsg (SCM_RIGHTS) put into this process.
pub(crate) fn own_received(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel installed this descriptor for us in the recvmsg call that the caller has
    // just made; nothing else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Takes ownership of a descriptor that the parent passed by number across exec.
///
/// Called once for each number, before any other descriptor is opened.
pub(crate) fn own_inherited(fd: RawFd) -> OwnedFd {
    // SAFETY: the controller leaves exactly this descriptor open across exec for us, and main calls
    // this once, before anything else could have opened or owned it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Marks every descriptor beyond stderr close-on-exec: those that our parent left open.
pub(crate) fn seal_descriptors() -> io::Result<()> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok())
        else {
            continue;
        };
        if fd <= 2 {
            continue;
        }
        // SAFETY: the number is used for one fcntl that changes no more than a flag; where it has
        // been closed meanwhile, the kernel answers EBADF.
        let descriptor = unsafe { BorrowedFd::borrow_raw(fd) };
        match fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
            Ok(_) | Err(Errno::EBADF) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
