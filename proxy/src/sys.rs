//! The only unsafe code of the crate: descriptors that the kernel just gave us.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

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
