//! The proxies that are compared: how each is started, found out about, and ended.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::configs::{self, Addresses, Place, Setup};
use super::cores::pinned;
use super::ground::{Ground, START_LIMIT, await_listener, free_address, start};
use super::product::Product;
use super::usage::{self, Left};
use crate::process::{Group, find, wait_until};

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(3);
/// What the path `/1k` has, in bytes.
const BODY: usize = 1 << 10;

/// A proxy that can be started.
pub struct Proxy {
    pub product: Product,
    pub version: String,
    program: PathBuf,
}

impl Proxy {
    /// baton, and the peers that are installed.
    pub fn all(baton: &Path) -> Vec<Proxy> {
        let found = |product: Product, program: PathBuf| {
            let version = version_of(Command::new(&program).arg(product.version()));
            Proxy { product, version, program }
        };
        let peers = Product::PEERS.into_iter();
        let peers = peers.filter_map(|peer| Some(found(peer, find(peer.name())?)));
        std::iter::once(found(Product::Baton, baton.to_owned())).chain(peers).collect()
    }

    pub fn start(&self, ground: &Ground<'_>, setup: Setup) -> Result<Started<'_>> {
        self.start_beneath(&[], ground, setup)
    }

    /// Beneath another program, which comes with its arguments.
    pub fn start_beneath(
        &self,
        tool: &[&str],
        ground: &Ground<'_>,
        setup: Setup,
    ) -> Result<Started<'_>> {
        let started = self.launch(tool, ground, setup)?;
        let Addresses { http, https, .. } = started.addresses;
        let listens = await_listener(http, ground.interrupt)
            .and_then(|()| await_listener(https, ground.interrupt));
        listens.with_context(|| started.last_words())?;
        Ok(started)
    }

    /// To its first answer; and how long that took.
    pub fn start_timed(
        &self,
        ground: &Ground<'_>,
        setup: Setup,
    ) -> Result<(Started<'_>, Duration)> {
        let started = self.launch(&[], ground, setup)?;
        // Without a pause: on the core of the load, which does nothing else.
        while !answers(started.addresses.http, "plain.test") {
            if started.began.elapsed() > START_LIMIT || ground.interrupt.happened() {
                bail!("no answer: {}", started.last_words());
            }
        }
        let took = started.began.elapsed();
        Ok((started, took))
    }

    /// Bytes of the program's file: libraries that it shares with others are not in it.
    pub fn size(&self) -> Result<u64> {
        Ok(std::fs::metadata(&self.program)?.len())
    }

    fn launch(&self, tool: &[&str], ground: &Ground<'_>, setup: Setup) -> Result<Started<'_>> {
        let name = self.product.name();
        let directory = tempfile::Builder::new().prefix(name).tempdir_in(ground.path())?;
        let addresses =
            Addresses { http: free_address()?, https: free_address()?, admin: free_address()? };
        self.configure(ground, directory.path(), addresses, setup)?;
        let cores = ground.cores.proxy(setup.threads);
        let mut command = pinned(cores, tool.first().map_or(&self.program, Path::new));
        if let [_, arguments @ ..] = tool {
            command.args(arguments).arg(&self.program);
        }
        self.product.arguments(&mut command, &directory.path().join("config"), &setup);
        let began = Instant::now();
        let group = start(&mut command, directory.path())?;
        Ok(Started { proxy: self, group, began, addresses, directory })
    }

    fn configure(
        &self,
        ground: &Ground<'_>,
        own: &Path,
        addresses: Addresses,
        setup: Setup,
    ) -> Result<()> {
        let upstream = ground.upstream(setup.upstream);
        let place = Place { files: ground.path(), own, upstream, addresses, setup };
        std::fs::write(own.join("hosts.map"), configs::haproxy::map(&place))?;
        Ok(std::fs::write(own.join("config"), self.product.config(&place))?)
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.product.name())
    }
}

/// A proxy that serves. It ends with this value, and all its processes with it.
pub struct Started<'a> {
    pub proxy: &'a Proxy,
    group: Group,
    began: Instant,
    addresses: Addresses,
    directory: tempfile::TempDir,
}

impl Started<'_> {
    pub fn address(&self, tls: bool) -> SocketAddr {
        if tls { self.addresses.https } else { self.addresses.http }
    }

    pub fn cpu_time(&self) -> Duration {
        usage::cpu_time(self.group.id())
    }

    /// The process that serves.
    pub fn worker(&self) -> u32 {
        let leader = self.group.id();
        let below = self.proxy.product.has_master().then(|| usage::tree(leader).last().copied());
        below.flatten().unwrap_or(leader)
    }

    /// KiB.
    pub fn memory(&self) -> u64 {
        usage::memory(self.group.id())
    }

    /// Gives it another configuration. It may take a moment until that is in force.
    pub fn reload(&self, ground: &Ground<'_>, setup: Setup) -> Result<()> {
        let Started { proxy, group, addresses, directory, .. } = self;
        proxy.configure(ground, directory.path(), *addresses, setup)?;
        let config = directory.path().join("config");
        proxy.product.reload(&proxy.program, group.id(), &config, addresses)
    }

    /// Waits until a host is served in the clear.
    pub fn serves(&self, host: &str, ground: &Ground<'_>) -> Result<()> {
        if wait_until(START_LIMIT, ground.interrupt, || answers(self.addresses.http, host)) {
            return Ok(());
        }
        bail!("{host} is not served: {}", self.last_words())
    }

    /// The last line that it has logged.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        log.lines().rfind(|line| !line.is_empty()).unwrap_or("it says nothing").to_owned()
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        // A proxy may have workers that outlive it, in groups of their own.
        let left = Left::note(self.group.id());
        self.group.end(GRACE);
        left.kill();
    }
}

/// Whether a request in the clear is answered, and well: by the upstream.
pub fn answers(address: SocketAddr, host: &str) -> bool {
    answer(address, host)
        .is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200 ") && answer.len() > BODY)
}

fn answer(address: SocketAddr, host: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(START_LIMIT))?;
    let port = address.port();
    let head = format!("GET /1k HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// The first line that a program says of its version.
pub fn version_of(command: &mut Command) -> String {
    let Ok(output) = command.output() else { return "?".to_owned() };
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).lines().next().unwrap_or("?").trim().to_owned()
}
