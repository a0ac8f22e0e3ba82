//! What the kernel counts of connections that it moves, drops or resets.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;

use nix::libc;
use tempfile::TempDir;

/// Of /proc/net/netstat; the first two since Linux 5.14.
const NAMES: [&str; 4] =
    ["TCPMigrateReqSuccess", "TCPMigrateReqFailure", "ListenOverflows", "ListenDrops"];

/// Counters at a moment.
#[derive(Debug, Default)]
pub struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// Of this thread's network namespace.
    pub fn read() -> Self {
        let text = fs::read_to_string("/proc/thread-self/net/netstat").unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("TcpExt:")).collect();
        let [names, values] = lines[..] else { return Counters::default() };
        let all = names.split(' ').zip(values.split(' '));
        let ours = all.filter_map(|(name, value)| {
            let name = NAMES.into_iter().find(|known| *known == name)?;
            Some((name, value.parse().ok()?))
        });
        Counters(ours.collect())
    }

    pub fn print_since(&self, before: &Counters, resets: Option<u64>) {
        println!("{:<28} {:>9}", "kernel", "count");
        for name in NAMES {
            let change = self.0.get(name).zip(before.0.get(name)).map(|(now, then)| now - then);
            print_count(name, change);
        }
        print_count("resets sent (tracepoint)", resets);
        if resets.is_none() {
            println!(
                "this user may not trace, or the tracepoint shows no reset that was made for it"
            );
        }
    }
}

fn print_count(name: &str, count: Option<u64>) {
    let count = count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    println!("{name:<28} {count:>9}");
}

/// Follows the tracepoint tcp:tcp_send_reset (Linux 4.16) of the whole machine, in an instance of
/// its own.
#[derive(Debug)]
pub struct Resets {
    instance: PathBuf,
    sources: Vec<SocketAddr>,
    _tracing: Tracing,
}

impl Resets {
    /// Those that leave these addresses. None where this user may not trace, or what is traced does not
    /// show a reset that is sent to see whether it would.
    pub fn follow(addresses: &[SocketAddr]) -> Option<Self> {
        let tracing = Tracing::mount()?;
        let instance = tracing.0.path().join(format!("instances/baton-{}", std::process::id()));
        fs::create_dir(&instance).ok()?;
        let resets = Resets { instance, sources: addresses.to_vec(), _tracing: tracing };
        fs::write(resets.instance.join("events/tcp/tcp_send_reset/enable"), "1").ok()?;
        let sent = send_one().ok()?;
        (resets.count_of(&[sent])? == 1).then_some(resets)
    }

    /// How many were sent since the last count, as far as the buffer holds them.
    pub fn count(&self) -> Option<u64> {
        self.count_of(&self.sources)
    }

    fn count_of(&self, sources: &[SocketAddr]) -> Option<u64> {
        let pipe = self.instance.join("trace_pipe");
        let pipe: File =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(pipe).ok()?;
        let lines = BufReader::new(pipe).lines().map_while(Result::ok);
        // As the tracepoint writes where a reset comes from.
        let sources: Vec<String> = sources.iter().map(|source| format!(" src={source} ")).collect();
        let is_theirs = |line: &String| sources.iter().any(|source| line.contains(source));
        Some(lines.filter(is_theirs).count() as u64)
    }
}

/// Sends a reset, as a listener does that is closed with connections in its queue; from where.
fn send_one() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let _waits = TcpStream::connect(address)?;
    drop(listener);
    Ok(address)
}

impl Drop for Resets {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.instance);
    }
}

/// A tracefs of our own: that of the machine may not be mounted.
#[derive(Debug)]
struct Tracing(TempDir);

impl Tracing {
    fn mount() -> Option<Self> {
        let tracing = Tracing(tempfile::tempdir().ok()?);
        let mut mount = Command::new("mount");
        mount.args(["-t", "tracefs", "tracefs"]).arg(tracing.0.path());
        mount.output().ok()?.status.success().then_some(tracing)
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.0.path()).output());
    }
}
