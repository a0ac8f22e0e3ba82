//! What all proxies of a bench have in common: files, addresses, certificates, cores, and upstreams.
//!
//! The upstream is nginx with static files: the proxy is to be the limit, and nginx answers from the
//! page cache by sendfile, without looking at what it sends, as the upstream of the tests does. That one
//! is there for what nginx cannot do: WebSockets and gRPC.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::configs::{self, Upstream};
use super::cores::{Cores, pinned};
use crate::interrupt::Interrupt;
use crate::process::{Group, find, run, wait_until};

/// Until something that was started takes connections.
pub const START_LIMIT: Duration = Duration::from_secs(60);
/// Bodies that the upstream serves, by name.
const BODIES: [(&str, usize); 3] = [("1k", 1 << 10), ("100k", 100 << 10), ("1m", 1 << 20)];

/// Programs of the tests.
pub struct Tools {
    pub load: PathBuf,
    pub upstream: PathBuf,
}

impl Tools {
    pub fn in_directory(directory: &Path) -> Result<Self> {
        // Programs are started from elsewhere.
        let directory = directory.canonicalize().with_context(|| format!("{directory:?}"))?;
        let program = |name| {
            let file = directory.join(name);
            file.is_file()
                .then_some(file)
                .with_context(|| format!("{name} is not in {directory:?}"))
        };
        Ok(Tools { load: program("baton-load")?, upstream: program("baton-upstream")? })
    }
}

pub struct Ground<'a> {
    directory: TempDir,
    pub cores: Cores,
    pub tools: Tools,
    pub interrupt: &'a Interrupt,
    files: SocketAddr,
    echo: SocketAddr,
    /// Ended with this value.
    _upstreams: [Group; 2],
}

impl<'a> Ground<'a> {
    pub fn prepare(cores: Cores, tools: Tools, interrupt: &'a Interrupt) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("baton-bench-").tempdir()?;
        let path = directory.path();
        for (name, length) in BODIES {
            let body: Vec<u8> = (b'a'..=b'z').cycle().take(length).collect();
            std::fs::write(path.join(name), body)?;
        }
        certificate(path, interrupt)?;
        let (files, echo) = (free_address()?, free_address()?);
        let file = path.join("upstream.conf");
        std::fs::write(&file, configs::upstream::config(path, files))?;
        let program = find("nginx").context("nginx is missing")?;
        let nginx = start(pinned(cores.load(), &program).arg("-c").arg(&file), path)?;
        let mut command = pinned(cores.load(), &tools.upstream);
        let upstream = start(command.arg("--listen").arg(echo.to_string()), path)?;
        let _upstreams = [nginx, upstream];
        let ground = Ground { directory, cores, tools, interrupt, files, echo, _upstreams };
        for address in [files, echo] {
            await_listener(address, interrupt).context("upstream")?;
        }
        Ok(ground)
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn upstream(&self, kind: Upstream) -> SocketAddr {
        match kind {
            Upstream::Files => self.files,
            Upstream::WebSocket | Upstream::Grpc => self.echo,
        }
    }

    pub fn certificate_of(&self, host: &str) -> PathBuf {
        self.path().join("certificates").join(format!("{host}.pem"))
    }

    /// Makes those of so many further hosts, all with the same key.
    pub fn make_certificates(&self, hosts: usize) -> Result<()> {
        let missing =
            (0..hosts).map(configs::host).filter(|host| !self.certificate_of(host).exists());
        for host in missing {
            let file = self.certificate_of(&host);
            let key = self.path().join("key.pem");
            let mut openssl = openssl(self.path(), &host);
            let status = openssl.arg("-key").arg(&key).arg("-out").arg(&file).status()?;
            if !status.success() || self.interrupt.happened() {
                bail!("no certificate for {host}: openssl: {status}");
            }
            join(&[&file, &key], &file)?;
        }
        Ok(())
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
    std::fs::create_dir(directory.join("certificates"))?;
    // Without the distribution's configuration, which would make a CA of it: no client takes that for a
    // server.
    std::fs::write(directory.join("openssl.cnf"), "[req]\ndistinguished_name=name\n[name]\n")?;
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    let mut openssl = openssl(directory, "bench.test");
    openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate), interrupt)?;
    // HAProxy wants both in one file.
    join(&[&certificate, &key], &directory.join("both.pem"))
}

fn openssl(directory: &Path, host: &str) -> Command {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-days", "2", "-config"]).arg(directory.join("openssl.cnf"));
    openssl.arg("-subj").arg(format!("/CN={host}"));
    openssl.arg("-addext").arg(format!("subjectAltName=DNS:{host}")).stderr(Stdio::null());
    openssl
}

fn join(parts: &[&Path], whole: &Path) -> Result<()> {
    let texts: std::io::Result<Vec<String>> = parts.iter().map(std::fs::read_to_string).collect();
    Ok(std::fs::write(whole, texts?.concat())?)
}
