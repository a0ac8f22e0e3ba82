//! Binds the public sockets; only the controller does, so that all have the same owner.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::port_holder::{self, Holder};
use crate::config::Listen;
use crate::protocol::frame::ListenerSlot;
use crate::protocol::settings::ListenerKind;
use crate::sys;

/// Connections that wait for accept, for each socket. The kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Sockets that cross exec: see [`super::upgrade::state`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BoundState {
    pub slot: ListenerSlot,
    pub socket: RawFd,
}

/// Every public socket: one for each listen address and worker thread, all of one SO_REUSEPORT
/// group for each address. The controller keeps them, so that accept queues outlive a worker.
#[derive(Debug, Default)]
pub struct Listeners {
    sockets: Vec<Bound>,
}

#[derive(Debug)]
struct Bound {
    slot: ListenerSlot,
    socket: OwnedFd,
}

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("listener {address}: address in use{}: stop it, or choose another listen.{} address",
        holder.as_ref().map(|h| format!(" by {h}")).unwrap_or_default(), kind.as_str())]
    InUse { address: SocketAddr, kind: ListenerKind, holder: Option<Holder> },
    #[error("listener {address}: permission denied: a port below 1024 needs root or \
        CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE), or choose \
        another listen.{} address; where baton has that, SELinux or AppArmor refuses it: see \
        `journalctl -k`", kind.as_str())]
    Denied { address: SocketAddr, kind: ListenerKind },
    #[error(
        "listener {address}: this host has no such address: `ip address` shows those that it has; \
        write one of them, or [::] for all"
    )]
    NoSuchAddress { address: SocketAddr },
    #[error("listener {address}: {step}: {source}")]
    Io { address: SocketAddr, step: &'static str, source: io::Error },
}

/// Binds every address of `listen` for `threads` worker threads; all or none.
///
/// # Errors
/// [`BindError`] of the first address that cannot be had. A listener that is there already is one
/// even where the kernel would let us join it (SO_REUSEPORT and the same user): it would take a
/// share of our connections.
pub fn bind(listen: &Listen, threads: usize) -> Result<Listeners, BindError> {
    bind_beside(listen, threads, &Listeners::default())
}

/// As [`bind`], for another generation: where `ours` listens already, the new sockets join its
/// SO_REUSEPORT group. Until something steers connections, the kernel shares them out among both.
///
/// # Errors
/// As [`bind`].
pub fn bind_beside(
    listen: &Listen,
    threads: usize,
    ours: &Listeners,
) -> Result<Listeners, BindError> {
    let mut sockets = Vec::new();
    for (wanted, kind) in addresses(listen) {
        let beside = ours.bound(wanted, kind).map(|bound| bound.slot.address);
        sockets.extend(bind_group(wanted, kind, threads, beside)?);
    }
    Ok(Listeners { sockets })
}

/// The very same sockets for another generation; only addresses that `ours` lacks are bound.
///
/// Every socket is served, whatever the number of threads: with fewer threads than sockets a thread
/// has several, with more a socket is served by several.
///
/// # Errors
/// As [`bind`].
pub fn inherit(listen: &Listen, threads: usize, ours: &Listeners) -> Result<Listeners, BindError> {
    let mut sockets = Vec::new();
    for (wanted, kind) in addresses(listen) {
        let group: Vec<&Bound> =
            ours.sockets.iter().filter(|bound| bound.is_for(wanted, kind)).collect();
        if group.is_empty() {
            sockets.extend(bind_group(wanted, kind, threads, None)?);
        }
        for index in 0..group.len().max(threads) * usize::from(!group.is_empty()) {
            let old = group[index % group.len()];
            let address = old.slot.address;
            let socket = old.socket.try_clone().map_err(explain(address, kind, "dup"))?;
            let slot = ListenerSlot { wanted, address, kind, thread: index % threads };
            sockets.push(Bound { slot, socket });
        }
    }
    Ok(Listeners { sockets })
}

fn addresses(listen: &Listen) -> impl Iterator<Item = (SocketAddr, ListenerKind)> {
    let http = listen.http.iter().map(|address| (*address, ListenerKind::Http));
    let https = listen.https.iter().map(|address| (*address, ListenerKind::Https));
    http.chain(https)
}

impl Listeners {
    /// Every slot with its socket.
    pub fn slots(&self) -> impl Iterator<Item = (ListenerSlot, BorrowedFd<'_>)> {
        self.sockets.iter().map(|bound| (bound.slot, bound.socket.as_fd()))
    }

    /// Each address once, as it was bound: with the port that the kernel chose for port 0.
    pub fn addresses(&self) -> Vec<(SocketAddr, ListenerKind)> {
        let mut addresses = Vec::new();
        for Bound { slot, .. } in &self.sockets {
            let address = (slot.address, slot.kind);
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    pub fn state(&self) -> Vec<BoundState> {
        let state =
            |bound: &Bound| BoundState { slot: bound.slot, socket: bound.socket.as_raw_fd() };
        self.sockets.iter().map(state).collect()
    }

    /// Takes over sockets that crossed exec.
    pub fn resume(state: Vec<BoundState>) -> Self {
        let bound = |state: BoundState| Bound {
            slot: state.slot,
            socket: sys::own_inherited(state.socket),
        };
        Listeners { sockets: state.into_iter().map(bound).collect() }
    }

    /// Takes over sockets that a worker handed to us, as far as they are what it says.
    pub fn adopt(handed: Vec<(ListenerSlot, OwnedFd)>) -> Self {
        let is_true = |slot: &ListenerSlot, socket: &OwnedFd| {
            let socket = socket2::SockRef::from(socket);
            let address = socket.local_addr().ok().and_then(|address| address.as_socket());
            address == Some(slot.address) && socket.is_listener().unwrap_or(false)
        };
        let sockets = handed.into_iter().filter(|(slot, socket)| is_true(slot, socket));
        Listeners { sockets: sockets.map(|(slot, socket)| Bound { slot, socket }).collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    fn bound(&self, wanted: SocketAddr, kind: ListenerKind) -> Option<&Bound> {
        self.sockets.iter().find(|bound| bound.is_for(wanted, kind))
    }

    /// Ends the listening, whoever else has a descriptor: the kernel migrates what waits in the
    /// queues. For a worker that hangs.
    pub fn shut_down(&self) {
        for Bound { socket, .. } in &self.sockets {
            // It may have been closed by shutdown before.
            let _ = socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Bound {
    /// Whether a configuration that lists this address means this socket. With port 0 the address
    /// alone does not tell: each listing has a port of its own.
    fn is_for(&self, wanted: SocketAddr, kind: ListenerKind) -> bool {
        self.slot.wanted == wanted && (wanted.port() != 0 || self.slot.kind == kind)
    }
}

/// One socket for each thread, all on one address.
fn bind_group(
    wanted: SocketAddr,
    kind: ListenerKind,
    threads: usize,
    beside: Option<SocketAddr>,
) -> Result<Vec<Bound>, BindError> {
    let explain = |address, step| explain(address, kind, step);
    let mut address = match beside {
        Some(address) => address,
        None => first_address(wanted, kind)?,
    };
    let mut group = Vec::with_capacity(threads);
    for thread in 0..threads {
        let socket = open(address).map_err(explain(address, "socket"))?;
        socket.set_reuse_port(true).map_err(explain(address, "SO_REUSEPORT"))?;
        socket.bind(&SockAddr::from(address)).map_err(explain(address, "bind"))?;
        socket.listen(BACKLOG).map_err(explain(address, "listen"))?;
        // Port 0: the sockets of the other threads join the port that this one was given.
        address = local_address(&socket).map_err(explain(address, "getsockname"))?;
        let slot = ListenerSlot { wanted, address, kind, thread };
        group.push(Bound { slot, socket: OwnedFd::from(socket) });
    }
    Ok(group)
}

/// The address where nobody listens yet: the one that is wanted, or IPv4's in its place.
fn first_address(wanted: SocketAddr, kind: ListenerKind) -> Result<SocketAddr, BindError> {
    match refuse_company(wanted) {
        Ok(()) => Ok(wanted),
        Err(source) if lacks_ipv6(wanted, &source) => {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, wanted.port()));
            tracing::warn!("listener {wanted}: this kernel has no IPv6: listening on {address}");
            refuse_company(address).map_err(explain(address, kind, "bind"))?;
            Ok(address)
        }
        Err(source) => Err(explain(wanted, kind, "bind")(source)),
    }
}

/// Fails with EADDRINUSE where anybody listens already: a bind without SO_REUSEPORT conflicts with
/// every listening socket, one of the same user with SO_REUSEPORT included.
fn refuse_company(address: SocketAddr) -> io::Result<()> {
    open(address)?.bind(&SockAddr::from(address))
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    // socket2 sets CLOEXEC.
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections in TIME_WAIT do not keep us from coming back.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an internet socket"))
}

/// A kernel without IPv6 has no such sockets, or no such addresses.
fn lacks_ipv6(address: SocketAddr, error: &io::Error) -> bool {
    address.is_ipv6()
        && address.ip().is_unspecified()
        && matches!(errno(error), Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)
}

fn explain(
    address: SocketAddr,
    kind: ListenerKind,
    step: &'static str,
) -> impl Fn(io::Error) -> BindError {
    move |source| match errno(&source) {
        Errno::EADDRINUSE => {
            BindError::InUse { address, kind, holder: port_holder::holder(address) }
        }
        Errno::EACCES => BindError::Denied { address, kind },
        Errno::EADDRNOTAVAIL => BindError::NoSuchAddress { address },
        _ => BindError::Io { address, step, source },
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn listen(http: &str) -> Listen {
        Listen { http: vec![http.parse().expect("address")], https: vec![] }
    }

    #[test]
    fn the_threads_share_the_port_that_the_first_was_given() {
        let listeners = bind(&listen("127.0.0.1:0"), 3).expect("bind");
        let addresses = listeners.addresses();
        assert_eq!(addresses.len(), 1);
        assert_ne!(addresses[0].0.port(), 0);
        let slots: Vec<_> = listeners.slots().map(|(slot, _)| slot).collect();
        assert_eq!(slots.iter().map(|slot| slot.thread).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(slots.iter().all(|slot| slot.address == addresses[0].0));
        TcpStream::connect(addresses[0].0).expect("connect");
    }

    #[test]
    fn a_foreign_listener_is_named() {
        let foreign = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = foreign.local_addr().expect("address");
        match bind(&listen(&address.to_string()), 1) {
            Err(BindError::InUse { address: named, holder: Some(holder), .. }) => {
                assert_eq!((named, holder.pid), (address, std::process::id()));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_second_baton_of_the_same_user_is_refused() {
        let first = bind(&listen("127.0.0.1:0"), 2).expect("bind");
        let address = first.addresses()[0].0;
        let second = bind(&listen(&address.to_string()), 2);
        assert!(matches!(second, Err(BindError::InUse { .. })), "{second:?}");
        drop(first);
        bind(&listen(&address.to_string()), 2).expect("bind after the first is gone");
    }

    #[test]
    fn the_ipv6_wildcard_takes_ipv4_too() {
        let listeners = bind(&listen("[::]:0"), 1).expect("bind");
        let port = listeners.addresses()[0].0.port();
        TcpStream::connect(("127.0.0.1", port)).expect("connect");
    }

    #[test]
    fn errors_say_what_to_do() {
        let address = "0.0.0.0:80".parse().expect("address");
        let kind = ListenerKind::Http;
        let holder = Some(Holder { pid: 7, name: "nginx".into() });
        assert_eq!(
            BindError::InUse { address, kind, holder }.to_string(),
            "listener 0.0.0.0:80: address in use by nginx (pid 7): stop it, or choose another \
             listen.http address"
        );
        assert_eq!(
            BindError::Denied { address, kind }.to_string(),
            "listener 0.0.0.0:80: permission denied: a port below 1024 needs root or \
             CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE), or choose \
             another listen.http address; where baton has that, SELinux or AppArmor refuses it: see \
             `journalctl -k`"
        );
    }
}
