//! A Docker daemon of a test's own, for tests that stop it.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// It has its own data, bridge and socket, keeps containers running while it is stopped, and leaves
/// the machine's firewall alone.
#[derive(Debug)]
pub struct Dockerd {
    child: Option<Child>,
    bridge: Bridge,
    directory: TempDir,
}

impl Dockerd {
    /// # Panics
    /// Without root, or when it does not start.
    pub fn start() -> Self {
        assert!(Uid::effective().is_root(), "a Docker daemon needs root");
        let directory =
            tempfile::Builder::new().prefix("baton-dockerd-").tempdir().expect("temp dir");
        let mut dockerd = Dockerd { child: None, bridge: Bridge::add(), directory };
        dockerd.launch();
        dockerd
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.path().join("docker.sock").display())
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Stops the daemon; its containers run on.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = i32::try_from(child.id()).expect("the kernel's pids fit");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it is running");
        wait(STOP_LIMIT, "dockerd's end", || child.try_wait().expect("our child").is_some());
    }

    /// What the daemon leaves mounted (its own network namespace) would keep the directory there.
    fn unmount(&self) {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let targets = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
        for target in targets.filter(|target| Path::new(target).starts_with(self.path())) {
            drop(Command::new("umount").arg(target).status());
        }
    }

    /// Starts it again, on the same data.
    pub fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(self.path().join("log"));
        let log = log.expect("log file");
        let child = Command::new("dockerd")
            .arg("--data-root")
            .arg(self.path().join("data"))
            .arg("--exec-root")
            .arg(self.path().join("exec"))
            .arg("--pidfile")
            .arg(self.path().join("pid"))
            .args(["--host", &self.endpoint(), "--bridge", &self.bridge.name])
            .args(["--iptables=false", "--ip-masq=false", "--live-restore"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("dockerd is installed");
        self.child = Some(child);
        let endpoint = self.endpoint();
        wait(START_LIMIT, "dockerd's start", || {
            let version = Command::new("docker").args(["--host", &endpoint, "version"]).output();
            version.expect("the docker command is installed").status.success()
        });
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.stop();
        self.unmount();
    }
}

#[expect(clippy::disallowed_methods, reason = "polls a condition, on a thread for blocking work")]
fn wait(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::sleep(POLL);
    }
}

/// A bridge that goes away with its handle.
#[derive(Debug)]
struct Bridge {
    name: String,
}

impl Bridge {
    fn add() -> Self {
        // Interface names have at most 15 bytes; the third byte of the address follows the process,
        // so that two runs do not meet.
        let id = std::process::id();
        let name = format!("bt{id}");
        let third = id % 250 + 1;
        let address = format!("10.213.{third}.1/24");
        // Its own hardware address: without one a bridge takes the lowest of its ports, and changes
        // it as containers come and go, so that packets of the others are lost for seconds.
        let hardware = format!("02:42:0a:d5:{third:02x}:01");
        ip(&["link", "add", "name", &name, "address", &hardware, "type", "bridge"]);
        let bridge = Bridge { name };
        ip(&["address", "add", &address, "dev", &bridge.name]);
        ip(&["link", "set", &bridge.name, "up"]);
        bridge
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["link", "delete", &self.name]).status());
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("ip is installed");
    assert!(status.success(), "ip {}", arguments.join(" "));
}
