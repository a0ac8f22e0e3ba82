//! What differs between proxies as programs: their command lines, what they cannot do, and how they are
//! told that their configuration has changed.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::configs::{self, Addresses, Place, Setup};
use super::row::{Row, Work};

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Product {
    Baton,
    Nginx,
    Haproxy,
    H2o,
    Caddy,
}

impl Product {
    pub const PEERS: [Product; 4] =
        [Product::Nginx, Product::Haproxy, Product::H2o, Product::Caddy];

    pub fn name(self) -> &'static str {
        match self {
            Product::Baton => "baton",
            Product::Nginx => "nginx",
            Product::Haproxy => "haproxy",
            Product::H2o => "h2o",
            Product::Caddy => "caddy",
        }
    }

    /// The argument that makes it say its version.
    pub fn version(self) -> &'static str {
        match self {
            Product::Baton => "--version",
            Product::Nginx | Product::Haproxy | Product::H2o => "-v",
            Product::Caddy => "version",
        }
    }

    pub fn config(self, place: &Place<'_>) -> String {
        match self {
            Product::Baton => configs::baton::config(place),
            Product::Nginx => configs::nginx::config(place),
            Product::Haproxy => configs::haproxy::config(place),
            Product::H2o => configs::h2o::config(place),
            Product::Caddy => configs::caddy::config(place),
        }
    }

    /// Why it is not in a row.
    pub fn cannot(self, row: &Row) -> Option<&'static str> {
        match (self, row.work) {
            (Product::H2o, Work::Calls { .. }) => Some("speaks no HTTP/2 to upstreams"),
            (Product::H2o, Work::Resumed { .. }) => {
                Some("gives no ticket for the next session, and the client uses each once")
            }
            _ => None,
        }
    }

    /// What it starts beneath itself serves. (A helper of H2O's does not.)
    pub fn has_master(self) -> bool {
        matches!(self, Product::Baton | Product::Nginx)
    }

    /// Valgrind knows nothing of Go's stacks.
    pub fn can_be_counted(self) -> bool {
        self != Product::Caddy
    }

    /// With that configuration, in the foreground.
    pub fn arguments(self, command: &mut Command, config: &Path, setup: &Setup) {
        match self {
            Product::Baton => command.args(["run", "--config"]).arg(config),
            Product::Nginx => command.arg("-c").arg(config),
            // Under a master, which starts another one for each configuration.
            Product::Haproxy if setup.reloads => command.args(["-W", "-db", "-f"]).arg(config),
            Product::Haproxy => command.args(["-db", "-f"]).arg(config),
            Product::H2o if setup.reloads => command.args(["-m", "master", "-c"]).arg(config),
            Product::H2o => command.arg("-c").arg(config),
            Product::Caddy => {
                command.env("GOMAXPROCS", setup.threads.to_string());
                command.args(["run", "--config"]).arg(config).args(["--adapter", "caddyfile"])
            }
        };
    }

    /// Tells the process that there is another configuration in its place.
    pub fn reload(self, program: &Path, leader: u32, config: &Path, at: &Addresses) -> Result<()> {
        let mut command = Command::new(program);
        match self {
            Product::Nginx | Product::H2o => return signal(leader, Signal::SIGHUP),
            Product::Haproxy => return signal(leader, Signal::SIGUSR2),
            Product::Baton => {
                command.args(["reload", "--socket"]).arg(config.with_file_name("control.sock"));
            }
            Product::Caddy => {
                command.args(["reload", "--adapter", "caddyfile", "--config"]).arg(config);
                command.arg("--address").arg(at.admin.to_string());
            }
        }
        let output = command.stdin(Stdio::null()).output().context("reload")?;
        if !output.status.success() {
            bail!("reload: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

fn signal(process: u32, signal: Signal) -> Result<()> {
    let number = i32::try_from(process).expect("process numbers are i32 in the kernel");
    kill(Pid::from_raw(number), signal).context("signal")
}
