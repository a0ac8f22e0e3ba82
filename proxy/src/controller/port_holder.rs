//! Who holds a port: the kernel's socket tables, read so that "address in use" can name a process.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// TCP_LISTEN of include/net/tcp_states.h, as the tables print it.
const LISTEN: &str = "0A";

/// A process with a listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// The kernel's name of the process (comm).
    pub name: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// One line of a socket table: a socket that listens.
#[derive(Debug, PartialEq, Eq)]
struct Listening {
    address: SocketAddr,
    inode: u64,
}

/// Whether anything in this network namespace listens where a socket of ours on `address` would.
pub fn is_held(address: SocketAddr) -> bool {
    overlapping(address).next().is_some()
}

/// The process that listens on `address`, or on an address that overlaps it. None when nobody
/// does, or when its descriptors cannot be read: that takes root, or the same user.
pub fn holder(address: SocketAddr) -> Option<Holder> {
    overlapping(address).find_map(|listening| process_with_socket(listening.inode))
}

fn overlapping(address: SocketAddr) -> impl Iterator<Item = Listening> {
    TABLES
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| parse(&table))
        .filter(move |listening| overlap(listening.address, address))
}

/// The listening sockets of /proc/net/tcp or /proc/net/tcp6; lines of any other shape are skipped.
fn parse(table: &str) -> Vec<Listening> {
    table.lines().skip(1).filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Listening> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    if state != LISTEN {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    let address = SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
    Some(Listening { address, inode: inode.parse().ok()? })
}

/// The kernel prints each 32-bit word of an address, which is in network order, as a native number.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = hex.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut octets = [0; 16];
            for (at, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        }
        _ => None,
    }
}

/// Two sockets overlap on the same port and address, or where one is a wildcard of the same family,
/// or `[::]`, which takes IPv4 too.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (ip_a, ip_b) = (a.ip().to_canonical(), b.ip().to_canonical());
    let covers = |wild: IpAddr, ip: IpAddr| {
        wild.is_unspecified() && (wild.is_ipv6() || wild.is_ipv4() == ip.is_ipv4())
    };
    a.port() == b.port() && (ip_a == ip_b || covers(ip_a, ip_b) || covers(ip_b, ip_a))
}

fn process_with_socket(inode: u64) -> Option<Holder> {
    let link = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let process = entry.path();
        has_descriptor(&process, &link).then(|| Holder { pid, name: comm(&process) })
    })
}

fn has_descriptor(process: &Path, link: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    descriptors
        .flatten()
        .any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|to| to == Path::new(link)))
}

fn comm(process: &Path) -> String {
    fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31337 1 0000000000000000 100 0 0 10 0
   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   2: 0100007F:1F90 0100007F:D2B4 01 00000000:00000000 00:00000000 00000000     0        0 99 1 0000000000000000 20 4 30 10 -1
   garbage
";
    #[cfg(target_endian = "little")]
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5151 1 0000000000000000 100 0 0 10 0
   1: B80D0120000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5252 1 0000000000000000 100 0 0 10 0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_tables_parse() {
        let listening =
            |address: &str, inode| Listening { address: address.parse().expect("address"), inode };
        assert_eq!(parse(TCP), [listening("127.0.0.1:8080", 31337), listening("0.0.0.0:80", 4711)]);
        assert_eq!(parse(TCP6), [listening("[::]:443", 5151), listening("[2001:db8::1]:80", 5252)]);
        assert_eq!(parse(""), []);
    }

    #[test]
    fn addresses_overlap() {
        for (a, b, want) in [
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::]:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
        ] {
            let parse = |text: &str| text.parse().expect("address");
            assert_eq!(overlap(parse(a), parse(b)), want, "{a} {b}");
        }
    }

    #[test]
    fn this_process_is_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = socket.local_addr().expect("address");
        assert_eq!(holder(address).map(|h| h.pid), Some(std::process::id()));
        assert!(is_held(address));
        drop(socket);
        assert!(!is_held(address));
    }
}
