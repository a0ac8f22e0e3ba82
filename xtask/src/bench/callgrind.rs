//! A proxy beneath callgrind, whose worker is counted from one question to the next.

use std::fs::read_to_string;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::configs::Setup;
use super::ground::{Ground, START_LIMIT};
use super::proxy::{Proxy, Started, answers};
use crate::process::{run, wait_until};

/// baton's controller gives its worker 10 s to start, which on a busy machine may be too few.
const STARTS: usize = 3;

/// Ends with this value.
pub struct Callgrind<'a> {
    proxy: Started<'a>,
    ground: &'a Ground<'a>,
    worker: u32,
    dumps: usize,
}

impl<'a> Callgrind<'a> {
    pub fn start(proxy: &'a Proxy, ground: &'a Ground<'a>) -> Result<Self> {
        for _ in 1..STARTS {
            match Self::try_start(proxy, ground) {
                Err(error) if !ground.interrupt.happened() => println!("once more: {error:#}"),
                outcome => return outcome,
            }
        }
        Self::try_start(proxy, ground)
    }

    fn try_start(proxy: &'a Proxy, ground: &'a Ground<'a>) -> Result<Self> {
        let out = format!("--callgrind-out-file={}/count.%p", ground.path().display());
        // Counted from when it serves: until then it is quicker.
        let tool =
            ["valgrind", "--tool=callgrind", "--trace-children=yes", "--instr-atstart=no", &out];
        let proxy = proxy.start_beneath(&tool, ground, Setup { counted: true, ..Setup::USUAL })?;
        let address = proxy.address(false);
        if !wait_until(START_LIMIT, ground.interrupt, || answers(address, "plain.test")) {
            bail!("{} does not serve beneath valgrind", proxy.proxy);
        }
        let worker = proxy.worker();
        let counter = Callgrind { proxy, ground, worker, dumps: 0 };
        counter.order(&["instrumentation", "on"])?;
        Ok(counter)
    }

    pub fn address(&self, tls: bool) -> SocketAddr {
        self.proxy.address(tls)
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
