//! Where a socket is in the one array that holds all of them.

use crate::{MAX_ADDRESSES, MAX_SLOTS, MAX_THREADS, Slot};

/// Entries of the array: 8 bytes of kernel memory each.
pub const MAX_SOCKETS: u32 = MAX_SLOTS as u32 * MAX_ADDRESSES * MAX_THREADS as u32;

/// The entry of a generation's socket for one listen address and worker thread. Below
/// [`MAX_SOCKETS`] and its alone where `address` is below [`MAX_ADDRESSES`] and `thread` below
/// [`MAX_THREADS`].
pub const fn socket_index(slot: Slot, address: u32, thread: u16) -> u32 {
    (slot.number() as u32 * MAX_ADDRESSES + address) * MAX_THREADS as u32 + thread as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_has_an_entry_of_its_own() {
        let mut want = 0;
        for slot in Slot::all() {
            for address in 0..MAX_ADDRESSES {
                for thread in 0..MAX_THREADS {
                    assert_eq!(socket_index(slot, address, thread), want);
                    want += 1;
                }
            }
        }
        assert_eq!(want, MAX_SOCKETS);
    }
}
