//! How the selector tells the listen addresses apart: by what the kernel knows of a listener.

/// Listen addresses at one time, those of draining generations included.
pub const MAX_ADDRESSES: u32 = 32;

/// An IP address as the kernel keeps it (four words in network order, IPv4 mapped into IPv6), then
/// the port.
pub type AddressKey = [u32; 5];

/// `ip` is the IPv6 address, or the IPv4 address mapped into IPv6 (RFC 4291, section 2.5.5.2).
/// A link-local address on two interfaces is one key.
pub fn address_key(ip: [u8; 16], port: u16) -> AddressKey {
    let word = |at: usize| u32::from_ne_bytes([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
    [word(0), word(4), word(8), word(12), u32::from(port)]
}

/// The third word of an IPv4 address mapped into IPv6.
pub const MAPPED: u32 = 0xffff_u32.to_be();

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn keys_are_what_the_kernel_has() {
        for (ip, want) in [
            (Ipv6Addr::UNSPECIFIED, [0, 0, 0, 0]),
            (Ipv6Addr::LOCALHOST, [0, 0, 0, 1_u32.to_be()]),
            (Ipv4Addr::LOCALHOST.to_ipv6_mapped(), [0, 0, MAPPED, 0x7f00_0001_u32.to_be()]),
            (
                Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 2, 3, 4, 5),
                [0x2001_0db8, 1, 0x0002_0003, 0x0004_0005].map(u32::to_be),
            ),
        ] {
            let [a, b, c, d] = want;
            assert_eq!(address_key(ip.octets(), 443), [a, b, c, d, 443], "{ip}");
        }
    }
}
