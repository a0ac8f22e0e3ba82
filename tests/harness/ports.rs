//! Addresses for programs that take no port 0.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// Below the ports that Linux gives out by itself (`net.ipv4.ip_local_port_range`, from 32768 on):
/// between the look here and the program's bind, no connection and no port 0 of another test can
/// be given one of them.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// Addresses of 127.0.0.1 whose ports nobody uses, for TCP and UDP; none is given out twice.
///
/// # Panics
/// When all are in use.
pub fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    std::array::from_fn(|_| (0..COUNT).find_map(|_| next()).expect("a free port"))
}

fn next() -> Option<SocketAddr> {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    // Runs beside each other begin at different places.
    let begin = std::process::id().wrapping_mul(101);
    let number = begin.wrapping_add(u32::from(GIVEN.fetch_add(1, Relaxed))) % u32::from(COUNT);
    let port = FIRST + u16::try_from(number).expect("less than COUNT");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let is_free = TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok();
    is_free.then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_given_out_twice_or_by_the_kernel() {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        let range = range.expect("proc_sys_net");
        let first: u16 = range.split_whitespace().next().expect("two").parse().expect("a port");
        let mut given = free_addresses::<50>();
        assert!(given.iter().all(|address| (FIRST..first).contains(&address.port())), "{given:?}");
        given.sort_unstable();
        assert!(given.windows(2).all(|pair| pair[0] != pair[1]), "{given:?}");
    }
}
