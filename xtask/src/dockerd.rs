//! A Docker daemon of the tests' own, beside any other: own data, own sockets, own bridge, own
//! address range; and nothing of it left afterwards.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::ifaddrs::getifaddrs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::interrupt::Interrupt;
use crate::process::{Group, find, wait_until};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(5);
const DEFAULT_SOCKET: &str = "unix:///var/run/docker.sock";
/// Second bytes of the private networks 172.N.0.0/16 that may be ours (RFC 1918 has 16 to 31;
/// Docker's own pool begins at 17).
const NETWORKS: std::ops::RangeInclusive<u8> = 24..=31;

/// The endpoint of a daemon that answers: `DOCKER_HOST` when it is set, else the usual socket.
pub fn answering() -> Option<String> {
    let endpoint = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    Some(endpoint.unwrap_or_else(|| DEFAULT_SOCKET.to_owned())).filter(|endpoint| ping(endpoint))
}

fn ping(endpoint: &str) -> bool {
    match endpoint.split_once("://") {
        Some(("unix", path)) => UnixStream::connect(path).is_ok_and(|stream| {
            stream.set_read_timeout(Some(PING_LIMIT)).is_ok() && ping_over(stream)
        }),
        Some(("tcp" | "http", address)) => TcpStream::connect(address).is_ok_and(|stream| {
            stream.set_read_timeout(Some(PING_LIMIT)).is_ok() && ping_over(stream)
        }),
        _ => false,
    }
}

/// The Engine API's `/_ping`; HTTP/1.0, so that the answer ends with the connection.
fn ping_over(mut stream: impl Read + Write) -> bool {
    let mut answer = [0; 12];
    stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer.ends_with(b" 200")
}

/// A running daemon; dropped, it is stopped and cleaned up.
pub struct Dockerd {
    /// None once it is stopped.
    daemon: Option<Group>,
    /// Dropped after it.
    _bridge: Bridge,
    directory: Directory,
}

impl Dockerd {
    pub fn start(interrupt: &Interrupt) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("no Docker daemon answers, and to start one takes root (or set DOCKER_HOST)");
        }
        let directory = Directory::create()?;
        let bridge = Bridge::create()?;
        let daemon = spawn(&directory, &bridge)?;
        let mut dockerd = Dockerd { daemon: Some(daemon), _bridge: bridge, directory };
        let endpoint = dockerd.endpoint();
        let mut exited = false;
        wait_until(START_LIMIT, interrupt, || {
            exited = dockerd.exited();
            exited || ping(&endpoint)
        });
        if !exited && ping(&endpoint) {
            return Ok(dockerd);
        }
        if interrupt.happened() {
            bail!("interrupted");
        }
        let what = if exited { "exited" } else { "does not answer" };
        bail!("dockerd {what}; the end of its log:\n{}", dockerd.directory.end_of_log());
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.directory.socket().display())
    }

    /// Stops it and says what could not be cleaned up; dropping it does the same silently.
    pub fn stop(mut self) -> Result<()> {
        self.end();
        let left = self.directory.mounts();
        let path = self.directory.path().to_owned();
        drop(self);
        if path.exists() {
            bail!("{} could not be removed (mounted: {left:?})", path.display());
        }
        Ok(())
    }

    fn exited(&mut self) -> bool {
        self.daemon.as_mut().is_none_or(|daemon| !matches!(daemon.poll(), Ok(None)))
    }

    fn end(&mut self) {
        // Without a wait for each container's own stop timeout.
        self.directory.kill_containers();
        if let Some(mut daemon) = self.daemon.take() {
            daemon.end(STOP_LIMIT);
        }
        // Nothing is left now, unless the daemon had to be killed.
        self.directory.kill_helpers();
        self.directory.unmount();
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            self.end();
        }
    }
}

fn spawn(directory: &Directory, bridge: &Bridge) -> Result<Group> {
    let program = find("dockerd").context("dockerd is not installed")?;
    let log = File::create(directory.log()).context("dockerd's log")?;
    let network = bridge.network;
    let mut command = Command::new(program);
    command
        .arg("--data-root")
        .arg(directory.path().join("data"))
        .arg("--exec-root")
        .arg(directory.path().join("exec"))
        .arg("--pidfile")
        .arg(directory.path().join("pid"))
        .arg(format!("--host=unix://{}", directory.socket().display()))
        .arg(format!("--bridge={}", bridge.name))
        .arg(format!("--default-address-pool=base=172.{network}.128.0/17,size=24"))
        .arg(format!("--containerd-namespace={}", directory.name()))
        // The host reaches its containers over the bridge without any of these, and rules in the
        // host's tables would outlive the daemon.
        .args(["--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false"])
        // A configuration of the machine's own daemon is not ours.
        .arg("--config-file")
        .arg(directory.configuration()?)
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone().context("dockerd's log")?)
        .stderr(log);
    Group::spawn(&mut command).context("dockerd could not be started")
}

/// Everything that the daemon writes.
struct Directory(TempDir);

impl Directory {
    /// Directly under the temporary directory: paths of unix sockets must be short.
    fn create() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("baton-dockerd-").tempdir();
        Ok(Directory(directory.context("a directory for dockerd")?))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn socket(&self) -> PathBuf {
        self.path().join("docker.sock")
    }

    fn log(&self) -> PathBuf {
        self.path().join("dockerd.log")
    }

    fn configuration(&self) -> Result<PathBuf> {
        let file = self.path().join("daemon.json");
        fs::write(&file, "{}").context("dockerd's configuration")?;
        Ok(file)
    }

    fn end_of_log(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Names what belongs to this daemon: its containerd may be the machine's own.
    fn name(&self) -> Cow<'_, str> {
        self.path().file_name().unwrap_or_default().to_string_lossy()
    }

    fn kill_containers(&self) {
        for containerd in
            [&self.path().join("exec/containerd/daemon"), Path::new("/run/containerd")]
        {
            let tasks = containerd.join("io.containerd.runtime.v2.task").join(&*self.name());
            for task in fs::read_dir(tasks).into_iter().flatten().flatten() {
                let pid = fs::read_to_string(task.path().join("init.pid"));
                pid.ok().and_then(|pid| pid.parse().ok()).into_iter().for_each(end);
            }
        }
    }

    /// containerd and its shims are in process groups of their own.
    fn kill_helpers(&self) {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| self.is_helper(*pid)).for_each(end);
    }

    /// Started as containerd something, with our name among the arguments.
    fn is_helper(&self, pid: i32) -> bool {
        let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command_line = String::from_utf8_lossy(&command_line);
        let program = command_line.split('\0').next().unwrap_or_default();
        let program = program.rsplit('/').next().unwrap_or_default();
        program.starts_with("containerd") && command_line.contains(&*self.name())
    }

    /// Mount points below it, innermost first.
    fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        let mut points: Vec<_> = points.filter(|point| point.starts_with(self.path())).collect();
        points.reverse();
        points
    }

    fn unmount(&self) {
        for point in self.mounts() {
            // What cannot be unmounted shows when the directory is removed.
            let _ = Command::new("umount").arg("--lazy").arg(point).status();
        }
    }
}

/// Kills a process that may be gone already.
fn end(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// The bridge of the daemon's default network, and an address range that nobody else has.
struct Bridge {
    name: String,
    /// N of 172.N.0.0/16.
    network: u8,
}

impl Bridge {
    fn create() -> Result<Self> {
        let taken = addresses();
        let is_free = |network: &u8| !taken.iter().any(|(_, address)| within(*address, *network));
        let network = NETWORKS.into_iter().find(is_free).context("no free network for Docker")?;
        // At most 15 bytes (IFNAMSIZ).
        let bridge = Bridge { name: format!("baton{}", std::process::id()), network };
        // Its own hardware address: without one a bridge takes the lowest of its ports, and changes
        // it as containers come and go, so that packets of the others are lost for seconds.
        let hardware = format!("02:42:ac:{network:02x}:00:01");
        ip(&["link", "add", "name", &bridge.name, "address", &hardware, "type", "bridge"])?;
        ip(&["addr", "add", &format!("172.{network}.0.1/17"), "dev", &bridge.name])?;
        ip(&["link", "set", &bridge.name, "up"])?;
        Ok(bridge)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = ip(&["link", "del", &self.name]);
        // Of networks that tests made and did not remove: Docker names them so, and no other daemon
        // takes a range that it sees in use.
        for (interface, address) in addresses() {
            if interface.starts_with("br-") && within(address, self.network) {
                let _ = ip(&["link", "del", &interface]);
            }
        }
    }
}

fn within(address: Ipv4Addr, network: u8) -> bool {
    address.octets()[..2] == [172, network]
}

/// Every interface with an IPv4 address.
fn addresses() -> Vec<(String, Ipv4Addr)> {
    let interfaces = getifaddrs().into_iter().flatten();
    interfaces
        .filter_map(|interface| {
            let address = interface.address?.as_sockaddr_in()?.ip();
            Some((interface.interface_name, address))
        })
        .collect()
}

fn ip(arguments: &[&str]) -> Result<()> {
    let program = find("ip").context("ip is not installed")?;
    let output = Command::new(program).args(arguments).output().context("ip")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}
