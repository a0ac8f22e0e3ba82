//! The selector in this machine's kernel, with real sockets. Skipped, with the reason, where the
//! kernel lacks it or does not let us load it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use baton::controller::selector::{
    AddressNumber, Canary, Counters, Selector, SelectorError, Share, Slot, Steering, Target,
    Unavailable,
};
use nix::{libc, setsockopt_impl, sockopt_impl};
use socket2::{Domain, SockRef, Socket, Type};

const FIRST: u8 = 0;
const SECOND: u8 = 5;
const BACKLOG: i32 = 4096;
/// For something that the kernel does on its own time.
const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn a_flip_moves_every_new_connection_of_every_address_at_once() {
    let Some(mut kernel) = Kernel::start() else { return };
    let mut one = kernel.group("127.0.0.1:0");
    let mut other = kernel.group("[::1]:0");
    for group in [&mut one, &mut other] {
        kernel.add(group, FIRST, 2);
        kernel.add(group, SECOND, 2);
    }
    for (active, counts) in [(FIRST, [200, 0]), (SECOND, [0, 200]), (FIRST, [200, 0])] {
        kernel.steer((active, 2), None);
        for group in [&one, &other] {
            let _clients = group.connect(200);
            assert_eq!([group.accept(FIRST), group.accept(SECOND)], counts, "{}", group.address);
        }
    }
    assert_eq!(kernel.counters(FIRST), Counters { selected: 800, ..Counters::default() });
    assert_eq!(kernel.counters(SECOND), Counters { selected: 400, ..Counters::default() });
}

#[test]
fn a_canary_gets_its_share() {
    let Some(mut kernel) = Kernel::start() else { return };
    let mut group = kernel.group("127.0.0.1:0");
    kernel.add(&mut group, FIRST, 2);
    kernel.add(&mut group, SECOND, 2);
    // The standard deviation of 30 % of 2000 is 20.5: five of it to each side.
    for (share, want) in [(0, 0..=0), (10_000, 2000..=2000), (3_000, 498..=702)] {
        kernel.steer((FIRST, 2), Some((SECOND, 2, share)));
        let _clients = group.connect(2000);
        let (old, new) = (group.accept(FIRST), group.accept(SECOND));
        assert_eq!(old + new, 2000);
        assert!(want.contains(&new), "{share}: {new}");
    }
}

#[test]
fn the_threads_of_a_generation_share_its_connections() {
    let Some(mut kernel) = Kernel::start() else { return };
    let mut group = kernel.group("127.0.0.1:0");
    kernel.add(&mut group, FIRST, 4);
    kernel.steer((FIRST, 4), None);
    let _clients = group.connect(2000);
    let threads: Vec<usize> = group.sockets(FIRST).map(accept_all).collect();
    assert_eq!(threads.iter().sum::<usize>(), 2000);
    // 500 each; the standard deviation is 19.4.
    assert!(threads.iter().all(|count| (400..=600).contains(count)), "{threads:?}");
}

#[test]
fn connections_that_wait_at_a_closed_listener_are_served_by_the_active_generation() {
    for (listen, connect) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.0.0.1"),
        ("[::1]:0", "[::1]"),
        ("[::]:0", "[::1]"),
        ("[::]:0", "127.0.0.1"),
    ] {
        let Some(mut kernel) = Kernel::start() else { return };
        let mut group = kernel.group(listen).reached_at(connect);
        kernel.add(&mut group, FIRST, 2);
        kernel.steer((FIRST, 2), None);
        let clients = group.connect(200);
        kernel.add(&mut group, SECOND, 4);
        kernel.steer((SECOND, 4), None);
        group.close(FIRST);
        assert_eq!(group.serve(SECOND, clients), 200, "{listen} {connect}");
        assert_eq!(kernel.counters(FIRST), Counters { selected: 200, ..Counters::default() });
        assert_eq!(kernel.counters(SECOND), Counters { migrated: 200, ..Counters::default() });
    }
}

#[test]
fn a_migration_is_not_for_the_canary() {
    let Some(mut kernel) = Kernel::start() else { return };
    let mut group = kernel.group("127.0.0.1:0");
    kernel.add(&mut group, FIRST, 1);
    kernel.add(&mut group, SECOND, 1);
    kernel.steer((FIRST, 1), Some((SECOND, 1, 10_000)));
    let clients = group.connect(100);
    group.close(SECOND);
    assert_eq!(group.serve(FIRST, clients), 100);
    assert_eq!(kernel.counters(FIRST).migrated, 100);
}

#[test]
fn a_worker_that_hangs_loses_its_queue_to_the_active_generation() {
    let Some(mut kernel) = Kernel::start() else { return };
    let mut group = kernel.group("[::]:0").reached_at("127.0.0.1");
    kernel.add(&mut group, FIRST, 2);
    kernel.add(&mut group, SECOND, 2);
    kernel.steer((FIRST, 2), None);
    let clients = group.connect(200);
    let held: Vec<_> =
        group.sockets(FIRST).map(|socket| socket.try_clone().expect("a worker's copy")).collect();
    kernel.steer((SECOND, 2), None);
    for socket in group.sockets(FIRST) {
        SockRef::from(socket).shutdown(std::net::Shutdown::Both).expect("shutdown");
    }
    assert_eq!(group.serve(SECOND, clients), 200);
    drop(held);
}

/// With TCP_DEFER_ACCEPT the final ACK alone leaves a connection half open, as a slow network would.
#[test]
fn a_half_open_connection_of_a_closed_listener_completes_at_the_active_generation() {
    for (listen, connect) in
        [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "[::1]"), ("[::]:0", "127.0.0.1")]
    {
        let Some(mut kernel) = Kernel::start() else { return };
        let mut group = kernel.group(listen).reached_at(connect);
        kernel.add(&mut group, FIRST, 2);
        for socket in group.sockets(FIRST) {
            nix::sys::socket::setsockopt(socket, DeferAccept, &60).expect("TCP_DEFER_ACCEPT");
        }
        kernel.steer((FIRST, 2), None);
        let clients = group.connect(100);
        assert_eq!(group.accept(FIRST), 0, "half open connections cannot be accepted");
        kernel.add(&mut group, SECOND, 2);
        kernel.steer((SECOND, 2), None);
        group.close(FIRST);
        assert_eq!(group.serve(SECOND, clients), 100, "{listen} {connect}");
        let counters = kernel.counters(SECOND);
        assert_eq!((counters.migrated, counters.failed), (100, 0), "{listen} {connect}");
    }
}

#[test]
fn more_and_fewer_threads_lose_nothing() {
    let Some(mut kernel) = Kernel::start() else { return };
    let mut group = kernel.group("127.0.0.1:0");
    kernel.add(&mut group, FIRST, 1);
    kernel.steer((FIRST, 1), None);
    let (mut old, mut new) = (FIRST, SECOND);
    for threads in [2, 4, 8, 4, 2, 1] {
        let clients = group.connect(100);
        kernel.add(&mut group, new, threads);
        kernel.steer((new, threads), None);
        group.close(old);
        assert_eq!(group.serve(new, clients), 100, "{threads} threads");
        (old, new) = (new, old);
    }
}

#[test]
fn a_thread_without_a_socket_is_passed_over() {
    let Some(mut kernel) = Kernel::start() else { return };
    let mut group = kernel.group("127.0.0.1:0");
    kernel.add(&mut group, FIRST, 2);
    kernel.add(&mut group, SECOND, 2);
    kernel.steer((FIRST, 256), None);
    let _clients = group.connect(100);
    assert_eq!([group.accept(FIRST), group.accept(SECOND)], [100, 0]);
    assert_eq!(kernel.counters(FIRST), Counters { selected: 100, ..Counters::default() });
}

#[test]
fn what_a_canary_cannot_take_the_active_generation_takes() {
    let Some(mut kernel) = Kernel::start() else { return };
    let mut group = kernel.group("127.0.0.1:0");
    kernel.add(&mut group, FIRST, 2);
    kernel.steer((FIRST, 2), Some((SECOND, 2, 10_000)));
    let _clients = group.connect(100);
    assert_eq!(group.accept(FIRST), 100);
    assert_eq!(kernel.counters(FIRST).selected, 100);
    assert_eq!(kernel.counters(SECOND), Counters { failed: 100, ..Counters::default() });
}

#[test]
fn without_a_socket_to_choose_the_kernel_chooses_and_it_is_counted() {
    let Some(mut kernel) = Kernel::start() else { return };
    let mut group = kernel.group("127.0.0.1:0");
    kernel.add(&mut group, FIRST, 2);
    kernel.steer((SECOND, 2), None);
    let _clients = group.connect(100);
    assert_eq!(group.accept(FIRST), 100);
    assert_eq!(kernel.counters(SECOND), Counters { failed: 100, ..Counters::default() });
    let slot = Slot::new(SECOND).expect("slot");
    kernel.selector.reset_counters(slot).expect("reset");
    assert_eq!(kernel.counters(SECOND), Counters::default());
}

#[test]
fn a_socket_has_one_slot_and_leaves_it_when_it_is_closed() {
    let Some(mut kernel) = Kernel::start() else { return };
    let mut group = kernel.group("127.0.0.1:0");
    kernel.add(&mut group, FIRST, 1);
    let slot = |number| Slot::new(number).expect("slot");
    let address = group.number;
    let mut register = |number, socket: &TcpListener| {
        kernel.selector.register(slot(number), address, 0, socket.as_fd())
    };
    let (there, other) =
        (group.sockets(FIRST).next().expect("socket"), listener(group.address, true));
    assert!(matches!(register(FIRST, &other), Err(SelectorError::SlotTaken { .. })));
    assert!(matches!(register(SECOND, there), Err(SelectorError::HasSlot { .. })));
    group.close(FIRST);
    register(FIRST, &other).expect("a slot that is free again");
}

#[test]
fn addresses_are_numbered_once_and_numbers_are_given_up() {
    let Some(mut kernel) = Kernel::start() else { return };
    let sockets: Vec<_> =
        (0..32).map(|_| listener("127.0.0.1:0".parse().expect("address"), true)).collect();
    let mut number = |socket: &TcpListener| kernel.selector.number(socket.as_fd());
    let numbers: Vec<_> = sockets.iter().map(|socket| number(socket).expect("number")).collect();
    assert_eq!(numbers[0], number(&sockets[0]).expect("the same again"));
    let more = listener("127.0.0.1:0".parse().expect("address"), true);
    assert!(matches!(number(&more), Err(SelectorError::TooManyAddresses { .. })));
    kernel.selector.forget(numbers[7]).expect("forget");
    assert_eq!(kernel.selector.number(more.as_fd()).expect("a free number"), numbers[7]);
}

#[test]
fn its_descriptors_are_enough_to_go_on_with() {
    let Some(mut kernel) = Kernel::start() else { return };
    let mut group = kernel.group("127.0.0.1:0");
    kernel.add(&mut group, FIRST, 2);
    kernel.steer((FIRST, 2), None);
    let before = kernel.selector.steering();
    let parts = kernel.selector.parts().try_map(|fd| fd.try_clone_to_owned()).expect("dup");
    kernel.selector = Selector::from_parts(parts).expect("parts");
    assert_eq!(kernel.selector.steering(), before);
    kernel.goes_on(&mut group);
}

#[test]
fn the_selector_of_another_controller_takes_over_when_it_is_attached() {
    let Some(mut old) = Kernel::start() else { return };
    let mut group = old.group("127.0.0.1:0");
    old.add(&mut group, FIRST, 2);
    old.steer((FIRST, 2), None);
    let mut clients = group.connect(50);
    // The group keeps the program, and the program its maps.
    drop(old);

    let mut next = Kernel::start().expect("a second one");
    group.number = next.selector.number(group.anchor.as_fd()).expect("number");
    next.register(&mut group, SECOND, 2);
    next.steer((SECOND, 2), None);
    clients.extend(group.connect(50));
    assert_eq!(group.accept(SECOND), 0);
    next.attach(&group);
    let _new = group.connect(50);
    assert_eq!(group.accept(SECOND), 50);
    group.close(FIRST);
    assert_eq!(group.serve(SECOND, clients), 100);
    assert_eq!(
        next.counters(SECOND),
        Counters { selected: 50, migrated: 100, ..Counters::default() }
    );
}

#[test]
fn without_the_capability_it_says_which() {
    const UNPRIVILEGED: &str = "BATON_TEST_UNPRIVILEGED";
    if std::env::var_os(UNPRIVILEGED).is_some() {
        let refused = Selector::load().expect_err("no CAP_BPF");
        assert!(matches!(refused, Unavailable::NotPermitted), "{refused}");
        return;
    }
    if Kernel::start().is_none() {
        return;
    }
    let copy = Copy::make();
    let output = Command::new(copy.path())
        .args(["--exact", "without_the_capability_it_says_which"])
        .env(UNPRIVILEGED, "1")
        .uid(65534)
        .gid(65534)
        .current_dir("/")
        .output()
        .expect("the same test as nobody");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Without CAP_PERFMON, which root has, the verifier is stricter.
#[test]
fn the_capability_alone_is_enough() {
    if Kernel::start().is_none() {
        return;
    }
    let copy = Copy::make();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all,+bpf"])
        .args(["--inh-caps=-all,+bpf", "--ambient-caps=-all,+bpf"])
        .arg(copy.path())
        .args(["--nocapture", "--exact"])
        .arg("connections_that_wait_at_a_closed_listener_are_served_by_the_active_generation")
        .current_dir("/")
        .output();
    match output {
        Err(reason) => eprintln!("skipped: setpriv: {reason}"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !said.contains("skipped"), "{said}");
        }
    }
}

/// This test binary where nobody may run it, who may not look into the build directory.
struct Copy(tempfile::TempDir);

impl Copy {
    fn make() -> Self {
        let mut builder = tempfile::Builder::new();
        let directory = builder.permissions(fs::Permissions::from_mode(0o755)).tempdir();
        let copy = Copy(directory.expect("directory"));
        fs::copy(std::env::current_exe().expect("test binary"), copy.path()).expect("copy");
        copy
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("test")
    }
}

sockopt_impl!(
    /// Seconds.
    DeferAccept,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    i32
);

/// A selector in the kernel.
struct Kernel {
    selector: Selector,
}

impl Kernel {
    /// None, with the reason on stderr, where there cannot be one.
    fn start() -> Option<Self> {
        match Selector::load() {
            Ok(selector) => Some(Kernel { selector }),
            // That is no lack of this kernel's.
            Err(reason @ Unavailable::Refused { .. }) => panic!("{reason}"),
            Err(reason) => {
                eprintln!("skipped: {reason}");
                None
            }
        }
    }

    /// A listen address with nobody there yet.
    fn group(&mut self, address: &str) -> Group {
        let anchor = listener(address.parse().expect("address"), false);
        let address = anchor.local_addr().expect("address");
        let number = self.selector.number(anchor.as_fd()).expect("number");
        Group { address, number, sockets: Vec::new(), connect: address, anchor }
    }

    /// Makes a generation's sockets, as the controller does.
    fn add(&mut self, group: &mut Group, slot: u8, threads: u16) {
        self.register(group, slot, threads);
        self.attach(group);
    }

    fn attach(&self, group: &Group) {
        self.selector.attach(group.sockets[0].1.as_fd()).expect("attach");
    }

    fn register(&mut self, group: &mut Group, slot: u8, threads: u16) {
        let slot = Slot::new(slot).expect("slot");
        for thread in 0..usize::from(threads) {
            let socket = listener(group.address, true);
            self.selector.register(slot, group.number, thread, socket.as_fd()).expect("register");
            group.sockets.push((slot, socket));
        }
    }

    fn steer(&mut self, active: (u8, u16), canary: Option<(u8, u16, u16)>) {
        let target =
            |slot, threads| Target::new(Slot::new(slot).expect("slot"), threads).expect("threads");
        let active = target(active.0, active.1);
        self.selector.steer(match canary {
            None => Steering::all_to(active),
            Some((slot, threads, share)) => {
                let share = Share::new(share).expect("share");
                Steering::with_canary(active, Canary { target: target(slot, threads), share })
            }
        });
    }

    fn counters(&self, slot: u8) -> Counters {
        self.selector.counters(Slot::new(slot).expect("slot")).expect("counters")
    }

    /// A handoff to a second generation, whoever prepared the first.
    fn goes_on(&mut self, group: &mut Group) {
        let clients = group.connect(50);
        assert_eq!(self.selector.number(group.anchor.as_fd()).expect("number"), group.number);
        self.add(group, SECOND, 2);
        self.steer((SECOND, 2), None);
        group.close(FIRST);
        assert_eq!(group.serve(SECOND, clients), 50);
        assert_eq!((self.counters(FIRST).selected, self.counters(SECOND).migrated), (50, 50));
    }
}

/// The sockets of one listen address, of all generations.
struct Group {
    address: SocketAddr,
    number: AddressNumber,
    sockets: Vec<(Slot, TcpListener)>,
    connect: SocketAddr,
    /// Keeps the port; does not listen.
    anchor: TcpListener,
}

impl Group {
    fn reached_at(self, ip: &str) -> Self {
        let connect = format!("{ip}:{}", self.address.port()).parse().expect("address");
        Group { connect, ..self }
    }

    fn connect(&self, clients: usize) -> Vec<TcpStream> {
        (0..clients).map(|_| TcpStream::connect(self.connect).expect("connect")).collect()
    }

    fn sockets(&self, slot: u8) -> impl Iterator<Item = &TcpListener> {
        let of_slot = move |(of, _): &&(Slot, TcpListener)| of.number() == slot;
        self.sockets.iter().filter(of_slot).map(|(_, socket)| socket)
    }

    /// Accepts what waits at a generation.
    fn accept(&self, slot: u8) -> usize {
        self.sockets(slot).map(accept_all).sum()
    }

    fn close(&mut self, slot: u8) {
        self.sockets.retain(|(of, _)| of.number() != slot);
    }

    /// Every client asks, a generation answers; how many were answered.
    fn serve(&self, slot: u8, mut clients: Vec<TcpStream>) -> usize {
        for client in &mut clients {
            client.write_all(b"?").expect("write");
        }
        let start = Instant::now();
        let mut served = 0;
        while served < clients.len() && start.elapsed() < LIMIT {
            for socket in self.sockets(slot) {
                while let Ok((mut connection, _)) = socket.accept() {
                    connection.set_nonblocking(false).expect("blocking");
                    let mut question = [0];
                    connection.read_exact(&mut question).expect("read");
                    connection.write_all(b"!").expect("answer");
                    served += 1;
                }
            }
            std::thread::yield_now();
        }
        let answered = |client: &mut TcpStream| {
            client.set_read_timeout(Some(LIMIT)).expect("timeout");
            let mut answer = [0];
            client.read_exact(&mut answer).is_ok()
        };
        clients.iter_mut().map(answered).filter(|answered| *answered).count()
    }
}

fn accept_all(socket: &TcpListener) -> usize {
    std::iter::from_fn(|| socket.accept().ok()).count()
}

fn listener(address: SocketAddr, listen: bool) -> TcpListener {
    let make = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        if listen {
            socket.listen(BACKLOG)?;
        }
        Ok(socket)
    };
    make().expect("listener").into()
}
