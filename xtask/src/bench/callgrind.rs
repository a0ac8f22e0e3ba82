//! A baton beneath callgrind, whose worker is counted from one question to the next.

use std::fs::read_to_string;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::configs::{self, Addresses, Place, Setup};
use super::cores::pinned;
use super::ground::{Ground, START_LIMIT, free_address, start};
use super::proxy::answers;
use super::usage::tree;
use crate::process::{Group, run, wait_until};

/// For valgrind to end.
const GRACE: Duration = Duration::from_secs(20);
/// The controller gives its worker 10 s to start, which on a busy machine may be too few.
const STARTS: usize = 3;

/// Ends with this value.
pub struct Callgrind<'a> {
    group: Group,
    ground: &'a Ground<'a>,
    addresses: Addresses,
    worker: u32,
    dumps: usize,
}

impl<'a> Callgrind<'a> {
    pub fn start(baton: &Path, ground: &'a Ground<'a>) -> Result<Self> {
        for _ in 1..STARTS {
            match Self::try_start(baton, ground) {
                Err(error) if !ground.interrupt.happened() => println!("once more: {error:#}"),
                outcome => return outcome,
            }
        }
        Self::try_start(baton, ground)
    }

    fn try_start(baton: &Path, ground: &'a Ground<'a>) -> Result<Self> {
        let addresses =
            Addresses { http: free_address()?, https: free_address()?, admin: free_address()? };
        let config = configure(ground, addresses)?;
        let mut command = pinned(ground.cores.proxy(1), Path::new("valgrind"));
        // Counted from when it serves: until then it is quicker.
        command.args(["--tool=callgrind", "--trace-children=yes", "--instr-atstart=no"]);
        command.arg(format!("--callgrind-out-file={}/count.%p", ground.path().display()));
        command.arg(baton).args(["run", "--config"]).arg(config);
        let mut group = start(&mut command, ground.path())?;
        let serves = || answers(addresses.http, "plain.test") || !matches!(group.poll(), Ok(None));
        wait_until(START_LIMIT, ground.interrupt, serves);
        let [_, worker] = tree(group.id())[..] else {
            bail!("no worker: {}", read_to_string(ground.path().join("log"))?);
        };
        let counter = Callgrind { group, ground, addresses, worker, dumps: 0 };
        counter.order(&["instrumentation", "on"])?;
        Ok(counter)
    }

    pub fn address(&self, tls: bool) -> SocketAddr {
        if tls { self.addresses.https } else { self.addresses.http }
    }

    /// The worker's instructions since the last time.
    pub fn count(&mut self) -> Result<u64> {
        self.order(&["dump"])?;
        self.dumps += 1;
        let file = self.ground.path().join(format!("count.{}.{}", self.worker, self.dumps));
        let dump = read_to_string(&file).with_context(|| file.display().to_string())?;
        total(&dump).with_context(|| format!("{}: no total", file.display()))
    }

    /// Tells callgrind, and waits until it is done.
    fn order(&self, words: &[&str]) -> Result<()> {
        let mut vgdb = Command::new("vgdb");
        vgdb.arg(format!("--pid={}", self.worker)).args(words);
        vgdb.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        run(&mut vgdb, self.ground.interrupt)
    }
}

impl Drop for Callgrind<'_> {
    fn drop(&mut self) {
        self.group.end(GRACE);
    }
}

/// Valgrind makes system calls of its own, and knows little of eBPF.
fn configure(ground: &Ground<'_>, addresses: Addresses) -> Result<PathBuf> {
    let (files, setup) = (ground.path(), Setup::USUAL);
    let upstream = ground.upstream(setup.upstream);
    let place = Place { files, own: files, upstream, addresses, setup };
    let config = configs::baton::config(&place);
    let path = files.join("baton.toml");
    std::fs::write(&path, format!("sandbox = \"off\"\nhandoff = \"inherit\"\n{config}"))?;
    Ok(path)
}

/// Of what callgrind writes.
fn total(dump: &str) -> Option<u64> {
    dump.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_callgrind_writes() {
        assert_eq!(total("events: Ir\nfn=(1)\n4 9\n\ntotals: 4711\n"), Some(4711));
        assert_eq!(total("events: Ir\n"), None);
    }
}
