//! The only unsafe code of the crate: descriptors that the kernel just gave us, and memory that we
//! share with it or give back to it.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

// Not by name: it brings `mi_collect`.
use mimalloc as _;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::{libc, setsockopt_impl, sockopt_impl};
use tokio::io::unix::AsyncFd;

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

/// Makes a system call with zeros for arguments, for the sandbox's own test.
pub(crate) fn call_without_arguments(number: libc::c_long) -> io::Result<()> {
    // SAFETY: every pointer among the arguments is null and every length 0, so that the kernel reads and
    // writes none of our memory.
    let result = unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
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

sockopt_impl!(
    /// Who picks the socket for each connection to a SO_REUSEPORT group: a loaded eBPF program.
    /// Minimum kernel version: 4.19, for its kind (BPF_PROG_TYPE_SK_REUSEPORT).
    AttachReusePortEbpf,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_ATTACH_REUSEPORT_EBPF,
    OwnedFd
);

/// The first word of an eBPF array, mapped: a store is seen whole by the programs of all CPUs,
/// which the update by system call (a memcpy in the kernel) does not promise.
#[derive(Debug)]
pub(crate) struct SharedWord(NonNull<AtomicU64>);

impl SharedWord {
    /// Of what was mapped no more than this is used; the kernel maps whole pages.
    const LENGTH: NonZeroUsize = NonZeroUsize::new(size_of::<AtomicU64>()).expect("eight bytes");

    /// Of an array that was made BPF_F_MMAPABLE. Minimum kernel version: 5.5.
    pub(crate) fn map(array: &OwnedFd) -> io::Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, where nothing was before.
        let page = unsafe { mmap(None, Self::LENGTH, protection, MapFlags::MAP_SHARED, array, 0) }?;
        Ok(SharedWord(page.cast()))
    }

    pub(crate) fn load(&self) -> u64 {
        self.word().load(Ordering::Acquire)
    }

    pub(crate) fn store(&mut self, value: u64) {
        self.word().store(value, Ordering::Release);
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: mapped, and aligned as a page is, for as long as this value lives. Others write it
        // as one word too.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedWord {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference to it outlives this value. An error leaves
        // it in place, which harms nobody.
        let _ = unsafe { munmap(self.0.cast(), Self::LENGTH.get()) };
    }
}

// SAFETY: the mapping belongs to the process, and not to the thread that made it.
unsafe impl Send for SharedWord {}
/// Sets whether descriptors cross exec.
pub(crate) fn cross_exec(descriptors: &[RawFd], cross: bool) -> io::Result<()> {
    let flags = if cross { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    for &fd in descriptors {
        // SAFETY: the number is used for one fcntl that changes no more than a flag; the callers
        // own what it names.
        let descriptor = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl(descriptor, FcntlArg::F_SETFD(flags))?;
    }
    Ok(())
}

/// Watches a descriptor for events; it goes away with what is returned.
pub(crate) fn watch_descriptor(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names one open descriptor, always the same, until it is dropped, and is
    // dropped only after the AsyncFd has let go of it.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

/// What the allocator keeps of memory that is free goes back to the kernel.
pub fn give_back_memory() {
    unsafe extern "C" {
        fn mi_collect(force: bool);
    }
    // SAFETY: it takes any thread at any time, and frees nothing that is in use; the signature is that
    // of mimalloc.h.
    unsafe { mi_collect(true) }
}
