//! What all proxies of a bench have in common: files, addresses, one certificate, one upstream.
//!
//! The upstream is nginx with static files: the proxy is to be the limit, and nginx answers from the
//! page cache by sendfile, without looking at what it sends, as the upstream of the tests does.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::configs;
use super::cores::{Cores, pinned};
use crate::interrupt::Interrupt;
use crate::process::{Group, find, run, wait_until};

/// Until something that was started takes connections.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Bodies that the upstream serves, by name.
const BODIES: [(&str, usize); 3] = [("1k", 1 << 10), ("100k", 100 << 10), ("1m", 1 << 20)];

pub struct Ground {
    directory: TempDir,
    pub upstream: SocketAddr,
    /// Ended with this value.
    _nginx: Group,
}

impl Ground {
    pub fn prepare(cores: &Cores, interrupt: &Interrupt) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("baton-bench-").tempdir()?;
        let path = directory.path();
        for (name, length) in BODIES {
            let body: Vec<u8> = (b'a'..=b'z').cycle().take(length).collect();
            std::fs::write(path.join(name), body)?;
        }
        certificate(path, interrupt)?;
        let upstream = free_address()?;
        let file = path.join("upstream.conf");
        std::fs::write(&file, configs::upstream(path, upstream))?;
        let program = find("nginx").context("nginx is missing")?;
        let nginx = start(pinned(cores.load, &program).arg("-c").arg(&file), path)?;
        let ground = Ground { directory, upstream, _nginx: nginx };
        await_listener(upstream, interrupt).context("upstream")?;
        Ok(ground)
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Starts it quietly: what it says is in a file that is shown nowhere, as proxies chat.
pub fn start(command: &mut Command, directory: &Path) -> Result<Group> {
    let log = std::fs::File::options().create(true).append(true).open(directory.join("log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.env("HOME", directory).current_dir(directory);
    Group::spawn(command).context("starting")
}

pub fn await_listener(address: SocketAddr, interrupt: &Interrupt) -> Result<()> {
    if wait_until(START_LIMIT, interrupt, || TcpStream::connect(address).is_ok()) {
        return Ok(());
    }
    bail!("nobody listens at {address} after {} s", START_LIMIT.as_secs())
}

/// One that nobody has at the moment. Ephemeral, so that the same one is not soon given again.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

/// ECDSA P-256, signed by itself.
fn certificate(directory: &Path, interrupt: &Interrupt) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-nodes", "-days", "2", "-subj", "/CN=bench.test"]);
    openssl.args(["-addext", "subjectAltName=DNS:bench.test"]);
    openssl.arg("-keyout").arg(directory.join("key.pem"));
    openssl.arg("-out").arg(directory.join("cert.pem"));
    run(openssl.stderr(Stdio::null()), interrupt)?;
    // HAProxy wants both in one file.
    let read = |name| std::fs::read_to_string(directory.join(name));
    std::fs::write(directory.join("both.pem"), read("cert.pem")? + &read("key.pem")?)?;
    Ok(())
}
