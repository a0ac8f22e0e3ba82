//! A worker that hangs: what waits in its queues, and moves on when listeners change hands.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use baton_tests::{exchange_within, hang, until};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinSet;

use crate::PLAIN;
use crate::stage::{LIMIT, Mode, Stage, get, in_modes};

in_modes! {
    both:;
    ebpf:
    each_thread_gets_as_many_connections,
    a_hung_worker_that_is_killed_loses_nobody_of_its_queue,
    a_hung_worker_loses_its_queue_to_the_next_one_in_the_end
}

const WAITING: usize = 100;
/// Longer than baton waits for a worker that hangs.
const PATIENCE: Duration = Duration::from_secs(40);

/// It hangs so that all of them can be counted where they wait.
async fn each_thread_gets_as_many_connections(mode: Mode) {
    let stage = Stage::start_with(mode, |config| config.top("threads = 3")).await;
    let hung = hang(stage.baton.worker_pid()).await;
    let address = stage.baton.http_address();
    let clients = connect_from_one_cpu(address, 90);
    assert_eq!(waiting(address), [30, 30, 30]);
    drop(clients);
    kill(hung, Signal::SIGCONT).expect("it is stopped");
}

/// Each CPU counts for itself.
fn connect_from_one_cpu(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let connect = move || {
        let this = Pid::from_raw(0);
        let ours = sched_getaffinity(this).expect("of this thread");
        let first = (0..CpuSet::count()).find(|cpu| ours.is_set(*cpu) == Ok(true));
        let mut one = CpuSet::new();
        one.set(first.expect("it runs somewhere")).expect("it is one of them");
        sched_setaffinity(this, &one).expect("one of its own");
        (0..count).map(|_| TcpStream::connect(address).expect("it listens")).collect()
    };
    std::thread::spawn(connect).join().expect("it does not panic")
}

async fn a_hung_worker_that_is_killed_loses_nobody_of_its_queue(mode: Mode) {
    let stage = Stage::start(mode).await;
    let (hung, clients) = hang_with_a_queue(&stage).await;
    stage.hand_over(&stage.with_streams(50));
    kill(hung, Signal::SIGKILL).expect("it is stopped");
    all_are_answered(clients).await;
    assert_eq!(stage.active()["migrated"], WAITING);
    stage.draining_at_most(0).await;
}

/// Nobody kills it: after 15 s the controller shuts its sockets down under it.
async fn a_hung_worker_loses_its_queue_to_the_next_one_in_the_end(mode: Mode) {
    let stage = Stage::start(mode).await;
    let (hung, clients) = hang_with_a_queue(&stage).await;
    stage.hand_over(&stage.with_streams(50));
    stage.baton.wait_said("does not close its listeners").await;
    all_are_answered(clients).await;
    assert_eq!(stage.active()["migrated"], WAITING);
    kill(hung, Signal::SIGCONT).expect("it is stopped");
    stage.draining_at_most(0).await;
}

/// A worker that is stopped, and clients that wait in its accept queues.
async fn hang_with_a_queue(stage: &Stage) -> (Pid, JoinSet<String>) {
    let worker = hang(stage.baton.worker_pid()).await;
    let address = stage.baton.http_address();
    let mut clients = JoinSet::new();
    for _ in 0..WAITING {
        clients.spawn(exchange_within(PATIENCE, address, get(PLAIN)));
    }
    let all = || waiting(address).iter().sum::<u64>() == WAITING as u64;
    until("a full queue", LIMIT, async || all().then_some(())).await;
    (worker, clients)
}

async fn all_are_answered(clients: JoinSet<String>) {
    let answers = clients.join_all().await;
    assert_eq!(answers.len(), WAITING);
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200 ")), "{answers:?}");
}

/// Connections in each accept queue of an address: the receive queue of a listening socket
/// (Documentation/networking/proc_net_tcp.rst).
fn waiting(address: SocketAddr) -> Vec<u64> {
    let SocketAddr::V4(address) = address else { panic!("{address}: tests listen on IPv4") };
    let [a, b, c, d] = address.ip().octets();
    let local = format!("{:08X}:{:04X}", u32::from_le_bytes([a, b, c, d]), address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("/proc is mounted");
    let listening = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&"0A");
        is_it.then(|| fields[4].split_once(':').map(|(_, queue)| queue.to_owned()))?
    });
    listening.map(|queue| u64::from_str_radix(&queue, 16).expect("hexadecimal")).collect()
}
