//! Which cores the proxy has to itself, and which one load and upstream share.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Those that this process may use, in order.
pub struct Cores(Vec<usize>);

impl Cores {
    pub fn choose() -> Result<Self> {
        let set = sched_getaffinity(Pid::from_raw(0))?;
        let allowed: Vec<usize> =
            (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect();
        if allowed.len() < 2 {
            bail!("one core: the proxy needs one, load and upstream another");
        }
        Ok(Cores(allowed))
    }

    /// Of the load, the upstream, and this process.
    pub fn load(&self) -> &[usize] {
        &self.0[..1]
    }

    /// Of a proxy with so many threads: the last ones. Where all are too few, it shares that of the load.
    pub fn proxy(&self, threads: usize) -> &[usize] {
        &self.0[self.0.len().saturating_sub(threads)..]
    }

    /// This process stays away from the proxy from now on.
    pub fn stay(&self) -> Result<()> {
        let mut set = CpuSet::new();
        for core in self.load() {
            set.set(*core)?;
        }
        sched_setaffinity(Pid::from_raw(0), &set).context("choosing a core")
    }
}

/// A command that runs on these cores alone, its children as well.
pub fn pinned(cores: &[usize], program: &Path) -> Command {
    let list: Vec<String> = cores.iter().map(usize::to_string).collect();
    let mut command = Command::new("taskset");
    command.arg("--cpu-list").arg(list.join(",")).arg(program);
    command
}
