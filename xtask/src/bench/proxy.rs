//! The proxies that are compared: how each is started, found out about, and ended.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::configs::{self, Place};
use super::cores::{Cores, pinned};
use super::ground::{Ground, await_listener, free_address, start};
use super::usage::{self, Left};
use super::version_of;
use crate::interrupt::Interrupt;
use crate::process::{Group, find};

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(3);

/// A proxy that can be started.
pub struct Proxy {
    pub name: &'static str,
    pub version: String,
    program: PathBuf,
    /// Before the file's name.
    arguments: &'static [&'static str],
    /// After it.
    rest: &'static [&'static str],
    config: fn(&Place<'_>) -> String,
}

impl Proxy {
    /// baton, and the peers that are installed.
    pub fn all(baton: &Path) -> Vec<Proxy> {
        let peer = |name, ask, arguments, rest, config| {
            let program = find(name)?;
            let version = version_of(Command::new(&program).args([ask]));
            Some(Proxy { name, version, program, arguments, rest, config })
        };
        let own = Proxy {
            name: "baton",
            version: version_of(Command::new(baton).arg("--version")),
            program: baton.to_owned(),
            arguments: &["run", "--config"],
            rest: &[],
            config: configs::baton,
        };
        let peers = [
            peer("nginx", "-v", &["-c"], &[], configs::nginx),
            peer("haproxy", "-v", &["-db", "-f"], &[], configs::haproxy),
            peer("h2o", "-v", &["-c"], &[], configs::h2o),
            peer(
                "caddy",
                "version",
                &["run", "--config"],
                &["--adapter", "caddyfile"],
                configs::caddy,
            ),
        ];
        [own].into_iter().chain(peers.into_iter().flatten()).collect()
    }

    pub fn start(&self, ground: &Ground, cores: &Cores, interrupt: &Interrupt) -> Result<Started> {
        let own = tempfile::Builder::new().prefix(self.name).tempdir_in(ground.path())?;
        let (http, https) = (free_address()?, free_address()?);
        let place =
            Place { files: ground.path(), own: own.path(), upstream: ground.upstream, http, https };
        let file = own.path().join("config");
        std::fs::write(&file, (self.config)(&place))?;
        let mut command = pinned(cores.proxy, &self.program);
        command.args(self.arguments).arg(&file).args(self.rest).env("GOMAXPROCS", "1");
        let group = start(&mut command, own.path())?;
        let started = Started { group, http, https, directory: own };
        let listens =
            await_listener(http, interrupt).and_then(|()| await_listener(https, interrupt));
        listens.with_context(|| format!("{self}: {}", started.log()))?;
        Ok(started)
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A proxy that serves. It ends with this value, and all its processes with it.
pub struct Started {
    group: Group,
    http: SocketAddr,
    https: SocketAddr,
    directory: tempfile::TempDir,
}

impl Started {
    pub fn address(&self, tls: bool) -> SocketAddr {
        if tls { self.https } else { self.http }
    }

    pub fn cpu_time(&self) -> Duration {
        usage::cpu_time(self.group.id())
    }

    /// KiB.
    pub fn memory(&self) -> u64 {
        usage::memory(self.group.id())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // A proxy may have workers that outlive it, in groups of their own.
        let left = Left::note(self.group.id());
        self.group.end(GRACE);
        left.kill();
    }
}
