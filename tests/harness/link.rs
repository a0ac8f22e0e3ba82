//! A slow link between two network namespaces: a hop in user space that gives each packet to the
//! other side after a while, or not before it is told to.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::namespace::Namespace;
use crate::tun;

/// Longest packet: the default MTU of a TUN device, in bytes.
const MTU: usize = 1500;
const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Of the flags byte of a TCP header (RFC 9293 section 3.1).
const SYN: u8 = 0x02;

/// Two namespaces, and what is between them.
#[derive(Debug)]
pub struct Link {
    /// Where baton is, at [`Link::ADDRESS`].
    pub near: Namespace,
    /// Where its clients are.
    pub far: Namespace,
    to_near: Arc<Way>,
    to_far: Arc<Way>,
}

/// One direction.
#[derive(Debug)]
struct Way {
    delay: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// With the moment at which each is due.
    packets: VecDeque<(Instant, Vec<u8>)>,
    /// Packets that are not the first of a connection wait.
    holding: bool,
    held: Vec<Vec<u8>>,
    /// Every packet is lost.
    cut: bool,
    over: bool,
}

impl Link {
    pub const ADDRESS: Ipv4Addr = NEAR;
    /// Of the other side.
    pub const FAR_ADDRESS: Ipv4Addr = FAR;

    /// Each packet takes `delay`. None, with the reason on stdout, where this user may not have one.
    pub fn create(delay: Duration) -> Option<Self> {
        let (near, far) = (Namespace::create()?, Namespace::create()?);
        let devices = [(&near, NEAR, FAR), (&far, FAR, NEAR)].map(|(namespace, own, peer)| {
            let device = namespace.run(|| tun::open("link0"));
            namespace.ip(&format!("addr add {own} peer {peer} dev link0"));
            namespace.ip("link set link0 up");
            device
        });
        let [at_near, at_far] = devices.map(|device| device.expect("a TUN device"));
        let to_near = Way::start(delay, &at_far, &at_near);
        let to_far = Way::start(delay, &at_near, &at_far);
        Some(Link { near, far, to_near, to_far })
    }

    /// From now on clients can begin connections, but nothing of theirs arrives after the SYN: each
    /// handshake lacks its last ACK.
    pub fn hold(&self) {
        self.to_near.lock().holding = true;
    }

    /// Connections of which something is held.
    pub fn held_connections(&self) -> usize {
        let state = self.to_near.lock();
        let ports: std::collections::HashSet<_> =
            state.held.iter().filter_map(|packet| source_port(packet)).collect();
        ports.len()
    }

    /// What was held arrives, and the link is as it was.
    pub fn release(&self) {
        let mut state = self.to_near.lock();
        state.holding = false;
        let now = Instant::now();
        let held = std::mem::take(&mut state.held);
        state.packets.extend(held.into_iter().map(|packet| (now, packet)));
        self.to_near.changed.notify_all();
    }
}

impl Link {
    /// From now on every packet is lost, either way, and nobody is told.
    pub fn cut(&self) {
        for way in [&self.to_near, &self.to_far] {
            let mut state = way.lock();
            state.cut = true;
            state.packets.clear();
        }
    }

    /// The link is as it was before [`Link::cut`].
    pub fn mend(&self) {
        for way in [&self.to_near, &self.to_far] {
            way.lock().cut = false;
        }
    }

    /// The far side knows nothing any more of connections that it had, as after a loss of power.
    pub fn forget(&self) {
        let kill = || Command::new("ss").args(["--kill", "--tcp", "state", "all"]).output();
        let output = self.far.run(kill).expect("iproute2 is installed");
        assert!(output.status.success(), "{output:?}");
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for way in [&self.to_near, &self.to_far] {
            way.lock().over = true;
            way.changed.notify_all();
        }
    }
}

impl Way {
    fn start(delay: Duration, from: &File, to: &File) -> Arc<Self> {
        let way = Way { delay, state: Mutex::default(), changed: Condvar::new() };
        let way = Arc::new(way);
        let mut from = from.try_clone().expect("dup");
        let mut to = to.try_clone().expect("dup");
        // The reader ends with the process: nobody can tell a read that it shall end.
        let (reading, writing) = (way.clone(), way.clone());
        std::thread::spawn(move || reading.read(&mut from));
        std::thread::spawn(move || writing.write(&mut to));
        way
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, from: &mut File) {
        let mut packet = [0; MTU];
        while let Ok(length) = from.read(&mut packet) {
            let packet = packet[..length].to_vec();
            let mut state = self.lock();
            if state.over {
                return;
            }
            if state.cut {
                continue;
            }
            if state.holding && !is_first(&packet) {
                state.held.push(packet);
            } else {
                state.packets.push_back((Instant::now() + self.delay, packet));
                self.changed.notify_all();
            }
        }
    }

    fn write(&self, to: &mut File) {
        let mut state = self.lock();
        while !state.over {
            let now = Instant::now();
            state = match state.packets.front() {
                Some((due, _)) if *due <= now => {
                    if let Some((_, packet)) = state.packets.pop_front() {
                        // A packet that the other side does not take is lost, as on any link.
                        let _ = to.write_all(&packet);
                    }
                    state
                }
                Some((due, _)) => {
                    let wait = *due - now;
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// The TCP header of an IPv4 packet.
fn tcp(packet: &[u8]) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let is_tcp = packet[0] >> 4 == 4 && *packet.get(9)? == 6;
    packet.get(header..).filter(|_| is_tcp)
}

fn is_first(packet: &[u8]) -> bool {
    tcp(packet).and_then(|tcp| tcp.get(13)).is_some_and(|flags| flags & SYN != 0)
}

fn source_port(packet: &[u8]) -> Option<u16> {
    let port = tcp(packet)?.get(..2)?;
    Some(u16::from_be_bytes([port[0], port[1]]))
}
