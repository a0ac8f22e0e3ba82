//! The selector: picks the listener of each connection. The kernel runs it for the SO_REUSEPORT
//! group of every listen address, for a new connection and for one that waits at a listener that
//! closes (attach type BPF_SK_REUSEPORT_SELECT_OR_MIGRATE).
//!
//! Minimum kernel version: 5.14.

#![no_std]
#![no_main]

use aya_ebpf::bindings::{BPF_F_MMAPABLE, bpf_sock, sk_action};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_get_smp_processor_id};
use aya_ebpf::macros::{map, sk_reuseport};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, ReusePortSockArray};
use aya_ebpf::programs::SkReuseportContext;
use baton_layout::{
    AddressKey, COUNTERS, MAPPED, MAX_ADDRESSES, MAX_SLOTS, MAX_SOCKETS, Steering, Target,
    socket_index,
};

/// AF_INET of include/linux/socket.h.
const AF_INET: u32 = 2;

/// The one word: [`Steering`]. Mapped into the controller, because a store is atomic and the update
/// by system call is a memcpy.
#[map(name = "STEERING")]
static STEERING: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Number of each listen address.
#[map(name = "ADDRESSES")]
static ADDRESSES: HashMap<AddressKey, u32> = HashMap::with_max_entries(MAX_ADDRESSES, 0);

/// Every socket, at its [`socket_index`].
#[map(name = "SOCKETS")]
static SOCKETS: ReusePortSockArray = ReusePortSockArray::with_max_entries(MAX_SOCKETS, 0);

/// [`baton_layout::Counters`] of each slot.
#[map(name = "COUNTERS")]
static SLOT_COUNTERS: PerCpuArray<[u64; COUNTERS]> =
    PerCpuArray::with_max_entries(MAX_SLOTS as u32, 0);

/// Connections of each listen address that this CPU has seen.
#[map(name = "SEEN")]
static SEEN: PerCpuArray<u32> = PerCpuArray::with_max_entries(MAX_ADDRESSES, 0);

/// Always lets the connection in. Where nothing was selected, the kernel hashes over all sockets of
/// the group: later than usual is better than refused.
#[sk_reuseport(migrate)]
pub fn select(ctx: SkReuseportContext) -> u32 {
    if let Some(steering) = steering() {
        let event = match ctx.migrating_sk() {
            None => Event::Selected,
            Some(_) => Event::Migrated,
        };
        choose(&ctx, steering, event);
    }
    sk_action::SK_PASS
}

/// What happened, as the word of the counters.
#[derive(Clone, Copy, PartialEq)]
enum Event {
    Selected = 0,
    Migrated = 1,
    Failed = 2,
}

#[inline(always)]
fn choose(ctx: &SkReuseportContext, steering: Steering, event: Event) {
    let Some(address) = address(ctx) else { return count(steering.active(), Event::Failed) };
    let number = number(address);
    // A connection that lost its listener is not for trials.
    if event == Event::Selected {
        // SAFETY: the helper has no preconditions.
        let picked = steering.pick(|| unsafe { bpf_get_prandom_u32() });
        if picked != steering.active() {
            if offer(ctx, address, picked, number) {
                return count(picked, event);
            }
            count(picked, Event::Failed);
        }
    }
    let active = steering.active();
    if offer(ctx, address, active, number) || offer_any(ctx, address, active) {
        return count(active, event);
    }
    count(active, Event::Failed);
}

/// Selects the socket of the thread whose turn it is.
#[inline(always)]
fn offer(ctx: &SkReuseportContext, address: u32, target: Target, number: u32) -> bool {
    select_socket(ctx, socket_index(target.slot(), address, target.thread(number)))
}

/// Selects a socket of the first threads. All of a generation come and go together, so this is for
/// the moment between. No loop: without CAP_PERFMON the verifier follows every branch the wrong way
/// too, for the processor's sake, and finds a loop of 256 turns too complex.
#[inline(always)]
fn offer_any(ctx: &SkReuseportContext, address: u32, target: Target) -> bool {
    let first = socket_index(target.slot(), address, 0);
    select_socket(ctx, first)
        || select_socket(ctx, first + 1)
        || select_socket(ctx, first + 2)
        || select_socket(ctx, first + 3)
}

#[inline(always)]
fn select_socket(ctx: &SkReuseportContext, index: u32) -> bool {
    SOCKETS.select_reuseport(ctx, index).is_ok()
}

/// Counts a connection. Each CPU counts for itself, so that none waits for another, and from another
/// number, so that the first connections of all do not come to one thread.
#[inline(always)]
fn number(address: u32) -> u32 {
    let Some(seen) = SEEN.get_ptr_mut(address) else { return 0 };
    // SAFETY: a value of this CPU, as in `count`; the helper has no preconditions.
    unsafe {
        *seen = (*seen).wrapping_add(1);
        (*seen).wrapping_add(bpf_get_smp_processor_id())
    }
}

#[inline(always)]
fn steering() -> Option<Steering> {
    let word = STEERING.get_ptr(0)?;
    // SAFETY: the map holds a word there, always. Volatile makes it one load of 64 bits: two could
    // see two words.
    Some(Steering::from_bits(unsafe { word.read_volatile() }))
}

#[inline(always)]
fn count(target: Target, event: Event) {
    if let Some(counters) = SLOT_COUNTERS.get_ptr_mut(u32::from(target.slot().number())) {
        // SAFETY: a slot of this CPU, which runs nothing else meanwhile: the kernel calls the
        // program with bottom halves disabled.
        unsafe { (*counters)[event as usize] += 1 };
    }
}

/// The number of the listen address that this group belongs to.
#[inline(always)]
fn address(ctx: &SkReuseportContext) -> Option<u32> {
    // SAFETY: an entry goes away only after the sockets of its address did.
    unsafe { ADDRESSES.get(key(ctx)) }.copied()
}

/// A listener keeps its IP address when it is closed, but not its port: the connection that is moved
/// has it still.
#[inline(always)]
fn key(ctx: &SkReuseportContext) -> AddressKey {
    let listener = ctx.sk().sock;
    let mut port = port(listener);
    if let Some(migrating) = ctx.migrating_sk() {
        port = self::port(migrating.sock);
    }
    let [a, b, c, d] = ip(listener);
    [a, b, c, d, port]
}

#[inline(always)]
fn port(socket: *const bpf_sock) -> u32 {
    // SAFETY: a socket that the kernel holds while the program runs. Volatile, because the verifier
    // wants an instruction for each of the two kinds of sockets, and the compiler would share one.
    unsafe { (&raw const (*socket).src_port).read_volatile() }
}

#[inline(always)]
fn ip(socket: *const bpf_sock) -> [u32; 4] {
    // SAFETY: a socket that the kernel holds while the program runs. Volatile, because the verifier
    // wants each word read by itself.
    unsafe {
        if (*socket).family == AF_INET {
            return [0, 0, MAPPED, (*socket).src_ip4];
        }
        let words = (&raw const (*socket).src_ip6).cast::<u32>();
        [0, 1, 2, 3].map(|at| words.add(at).read_volatile())
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"MIT\0";
