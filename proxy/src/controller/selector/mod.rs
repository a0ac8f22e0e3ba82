//! The controller's hand on the program in the kernel (`ebpf/`) that picks a listener for each
//! connection: which generation takes how much, of all listen addresses at once.
//!
//! Minimum kernel version: 5.14, which migrates connections between listeners.

mod load;
mod parts;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, ReusePortSockArray};
use aya::util::nr_cpus;
use baton_layout::{AddressKey, COUNTERS, MAX_ADDRESSES, MAX_THREADS, address_key, socket_index};
pub use baton_layout::{Canary, Counters, Share, Slot, Steering, Target};
use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use socket2::SockRef;

pub use self::load::Unavailable;
pub use self::parts::{Incompatible, Parts};
use crate::sys::{AttachReusePortEbpf, SharedWord};

/// BPF_NOEXIST of include/uapi/linux/bpf.h: an entry that is there is not replaced.
const NO_EXIST: u64 = 1;

/// The program and its maps. The kernel keeps a program for as long as a group of sockets has it,
/// and the maps for as long as the program: dropping this stops nothing.
pub struct Selector {
    steering: SharedWord,
    addresses: HashMap<MapData, AddressKey, u32>,
    sockets: ReusePortSockArray<MapData>,
    counters: PerCpuArray<MapData, [u64; COUNTERS]>,
    parts: Parts<OwnedFd>,
}

impl std::fmt::Debug for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Selector").field("steering", &self.steering()).finish_non_exhaustive()
    }
}

/// A listen address in the maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressNumber(u32);

#[derive(Debug, thiserror::Error)]
pub enum SelectorError {
    #[error("selector: {address}: more than {MAX_ADDRESSES} listen addresses at one time")]
    TooManyAddresses { address: SocketAddr },
    #[error("selector: thread {thread}: more than {MAX_THREADS} worker threads")]
    TooManyThreads { thread: usize },
    #[error("selector: slot {slot}: another socket is there", slot = slot.number())]
    SlotTaken { slot: Slot },
    #[error("selector: slot {slot}: the socket has a slot already", slot = slot.number())]
    HasSlot { slot: Slot },
    #[error("selector: {step}: {source}")]
    Socket { step: &'static str, source: io::Error },
    #[error("selector: {step}: {source}")]
    Map { step: &'static str, source: MapError },
}

impl SelectorError {
    pub fn descriptor(source: io::Error) -> Self {
        SelectorError::Socket { step: "dup", source }
    }
}

impl Selector {
    /// Loads the program into the kernel, where nothing runs it before [`Selector::attach`].
    /// Dropped unattached, it leaves nothing behind, so this is a dry run too.
    ///
    /// # Errors
    /// [`Unavailable`], with what to do about it.
    pub fn load() -> Result<Self, Unavailable> {
        load::load()
    }

    /// The selector of the program that this process was before exec.
    ///
    /// # Errors
    /// [`Incompatible`] when the parts are not what this version makes: [`Selector::load`] anew.
    pub fn from_parts(parts: Parts<OwnedFd>) -> Result<Self, Incompatible> {
        parts.check_layout()?;
        let map = |fd: &OwnedFd| -> Result<Map, MapError> {
            Map::from_map_data(MapData::from_fd(fd.try_clone()?)?)
        };
        Ok(Selector {
            steering: SharedWord::map(&parts.steering).map_err(MapError::IoError)?,
            addresses: map(&parts.addresses)?.try_into()?,
            sockets: map(&parts.sockets)?.try_into()?,
            counters: map(&parts.counters)?.try_into()?,
            parts,
        })
    }

    /// The descriptors that cross an exec; all of them are CLOEXEC.
    pub fn parts(&self) -> Parts<BorrowedFd<'_>> {
        self.parts.as_ref().map(AsFd::as_fd)
    }

    /// The number of the address that `socket` is bound to: the one it has, or a free one.
    ///
    /// # Errors
    /// [`SelectorError::TooManyAddresses`], or what the kernel says.
    pub fn number(&mut self, socket: BorrowedFd<'_>) -> Result<AddressNumber, SelectorError> {
        let address = local_address(socket)
            .map_err(|source| SelectorError::Socket { step: "getsockname", source })?;
        let key = key(address);
        let known = self.known_addresses()?;
        if let Some((_, number)) = known.iter().find(|(known, _)| *known == key) {
            return Ok(AddressNumber(*number));
        }
        let free = |number: &u32| known.iter().all(|(_, taken)| taken != number);
        let number =
            (0..MAX_ADDRESSES).find(free).ok_or(SelectorError::TooManyAddresses { address })?;
        self.addresses.insert(key, number, NO_EXIST).map_err(map_error("address"))?;
        Ok(AddressNumber(number))
    }

    /// Gives the number of an address up, once no socket listens there any more.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn forget(&mut self, address: AddressNumber) -> Result<(), SelectorError> {
        let known = self.known_addresses()?;
        for (key, _) in known.iter().filter(|(_, number)| *number == address.0) {
            self.addresses.remove(key).map_err(map_error("address"))?;
        }
        Ok(())
    }

    /// Runs the program for the group of `listening`, instead of any other program. For sockets that
    /// join the group later too. In the order number, register, steer, attach, no connection is
    /// decided by anything else.
    ///
    /// # Errors
    /// What the kernel says: EINVAL for a socket that has no SO_REUSEPORT or does not listen.
    pub fn attach(&self, listening: BorrowedFd<'_>) -> Result<(), SelectorError> {
        setsockopt(&listening, AttachReusePortEbpf, &self.parts.program).map_err(|errno| {
            SelectorError::Socket { step: "SO_ATTACH_REUSEPORT_EBPF", source: errno.into() }
        })
    }

    /// Puts a socket that listens where the program finds it. The entry goes away by itself when the
    /// socket is shut down, or closed by everyone who has it.
    ///
    /// # Errors
    /// [`SelectorError::SlotTaken`] while another socket is there, [`SelectorError::HasSlot`] when
    /// this one is anywhere in the maps.
    pub fn register(
        &mut self,
        slot: Slot,
        address: AddressNumber,
        thread: usize,
        listening: BorrowedFd<'_>,
    ) -> Result<(), SelectorError> {
        let thread = u16::try_from(thread)
            .ok()
            .filter(|thread| *thread < MAX_THREADS)
            .ok_or(SelectorError::TooManyThreads { thread })?;
        let index = socket_index(slot, address.0, thread);
        self.sockets.set(index, &listening, NO_EXIST).map_err(|source| match errno(&source) {
            Some(Errno::EEXIST) => SelectorError::SlotTaken { slot },
            Some(Errno::EBUSY) => SelectorError::HasSlot { slot },
            _ => SelectorError::Map { step: "register", source },
        })
    }

    /// From now on, for all addresses: one atomic store of 64 bits into the kernel's memory, which
    /// cannot fail.
    pub fn steer(&mut self, steering: Steering) {
        self.steering.store(steering.to_bits());
    }

    /// What was steered last, by whomever.
    pub fn steering(&self) -> Steering {
        Steering::from_bits(self.steering.load())
    }

    /// Of all CPUs, since [`Selector::reset_counters`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counters(&self, slot: Slot) -> Result<Counters, SelectorError> {
        let index = u32::from(slot.number());
        let values = self.counters.get(&index, 0).map_err(map_error("counters"))?;
        Ok(values.iter().copied().map(Counters::from_words).sum())
    }

    /// For a slot that a new generation takes, before anything is steered to it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reset_counters(&mut self, slot: Slot) -> Result<(), SelectorError> {
        let index = u32::from(slot.number());
        let zeros = || {
            let cpus = nr_cpus().map_err(|(_, source)| source)?;
            PerCpuValues::try_from(vec![[0; COUNTERS]; cpus])
        };
        let zeros = zeros().map_err(|source| map_error("counters")(source.into()))?;
        self.counters.set(index, zeros, 0).map_err(map_error("counters"))
    }

    fn known_addresses(&self) -> Result<Vec<(AddressKey, u32)>, SelectorError> {
        self.addresses.iter().collect::<Result<_, _>>().map_err(map_error("addresses"))
    }
}

fn local_address(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let address = SockRef::from(&socket).local_addr()?;
    address.as_socket().ok_or_else(|| io::Error::other("not an internet socket"))
}

fn key(address: SocketAddr) -> AddressKey {
    let ip = match address {
        SocketAddr::V4(v4) => v4.ip().to_ipv6_mapped(),
        SocketAddr::V6(v6) => *v6.ip(),
    };
    address_key(ip.octets(), address.port())
}

fn map_error(step: &'static str) -> impl Fn(MapError) -> SelectorError {
    move |source| SelectorError::Map { step, source }
}

/// The kernel's answer at the bottom of an error.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<Errno> {
    let mut causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error()).map(Errno::from_raw)
}
