//! What somebody would try from inside a worker, tried: each has to be refused, and what a worker needs
//! has to work.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use rustix::fs::{CWD, Mode, OFlags, RawDir, ResolveFlags, openat2};

use super::{Incomplete, enter};
use crate::protocol::settings::Sandbox;
use crate::sys;
use crate::worker::files::{Roots, open_beneath};

/// System calls that give what a worker must not have, with arguments that mean nothing: without the
/// sandbox the kernel would complain of those.
const CALLS: [(&str, libc::c_long); 12] = [
    ("bpf", libc::SYS_bpf),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("mount", libc::SYS_mount),
    ("unshare", libc::SYS_unshare),
    ("setns", libc::SYS_setns),
    ("keyctl", libc::SYS_keyctl),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("init_module", libc::SYS_init_module),
    ("memfd_create", libc::SYS_memfd_create),
];

/// One line for each try: what, and what came of it.
///
/// # Errors
/// When the sandbox cannot be entered.
pub fn run(
    mode: Sandbox,
    upstream: SocketAddr,
    socket_file: &str,
    root: Option<PathBuf>,
) -> Result<Vec<String>, Incomplete> {
    let roots = Roots::open(root.as_slice());
    let layers = enter(mode, &roots)?;
    let mut said: Vec<String> =
        layers.active.iter().map(|layer| format!("layer {layer}")).collect();
    said.extend(layers.missing.iter().map(|layer| format!("no layer {layer}")));
    let mut tell = |what: &str, done: io::Result<()>| {
        let outcome = match done {
            Ok(()) => "done".to_owned(),
            Err(error) if is_refusal(&error) => "refused".to_owned(),
            Err(error) => format!("failed: {error}"),
        };
        said.push(format!("{what}: {outcome}"));
    };
    tell("connect to an upstream", TcpStream::connect(upstream).map(drop));
    tell(
        "start a thread",
        std::thread::Builder::new().spawn(|| ()).map(|thread| drop(thread.join())),
    );
    tell("open a file to read", File::open("/etc/hostname").map(drop));
    for (what, path) in
        [("by its path", "/etc/hostname"), ("by way of /proc", "/proc/self/root/etc/hostname")]
    {
        tell(&format!("open a file {what}"), open_anywhere(path));
    }
    if let Some(opened) = root.and_then(|root| roots.get(&root).cloned()) {
        tell("open a static file", open_beneath(&opened, b"index.html").map(drop));
        tell("list a root", list(&opened));
        tell("write to a static file", write_to(&opened));
    }
    tell("open a file to write", File::create("/tmp/baton-self-test").map(drop));
    tell("connect to a unix socket", UnixStream::connect(socket_file).map(drop));
    tell("listen", TcpListener::bind("127.0.0.1:0").map(drop));
    tell("run a program", Command::new("/bin/true").status().map(drop));
    for (name, family) in [
        ("unix", AddressFamily::Unix),
        ("netlink", AddressFamily::Netlink),
        ("packet", AddressFamily::Packet),
        ("vsock", AddressFamily::Vsock),
    ] {
        let made = socket(family, SockType::Datagram, SockFlag::empty(), None);
        tell(&format!("make a {name} socket"), made.map(drop).map_err(io::Error::from));
    }
    for (name, call) in CALLS {
        tell(&format!("call {name}"), sys::call_without_arguments(call));
    }
    Ok(said)
}

/// By the system call that static files are opened by, without what keeps it beneath a root.
fn open_anywhere(path: &str) -> io::Result<()> {
    let (flags, resolve) = (OFlags::RDONLY, ResolveFlags::empty());
    Ok(openat2(CWD, path, flags, Mode::empty(), resolve).map(drop)?)
}

fn write_to(root: &OwnedFd) -> io::Result<()> {
    let (flags, resolve) = (OFlags::WRONLY, ResolveFlags::empty());
    Ok(openat2(root, "index.html", flags, Mode::empty(), resolve).map(drop)?)
}

fn list(root: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let directory = openat2(root, ".", flags, Mode::empty(), ResolveFlags::empty())?;
    let mut buffer = Vec::with_capacity(1024);
    let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
    match entries.next() {
        Some(Err(error)) => Err(error.into()),
        _ => Ok(()),
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}
