//! What the selector in the kernel and the controller that steers it both know: the shape of the
//! maps, and the decisions over them, so that the same code that runs in the kernel is tested here.
//!
//! Nothing in here can panic: there is nowhere to panic to in the kernel.

#![no_std]
#![forbid(unsafe_code)]

mod address;
mod counters;
mod sockets;
mod steering;

pub use address::{AddressKey, MAPPED, MAX_ADDRESSES, address_key};
pub use counters::{COUNTERS, Counters};
pub use sockets::{MAX_SOCKETS, socket_index};
pub use steering::{Canary, MAX_SLOTS, MAX_THREADS, Share, Slot, Steering, Target};

/// Of everything in here: maps of another version are not ours to write.
pub const VERSION: u32 = 1;
