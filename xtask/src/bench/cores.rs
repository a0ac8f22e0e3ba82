//! Which core the proxy has to itself, and which one load and upstream share.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

pub struct Cores {
    /// Of the load and the upstream.
    pub load: usize,
    pub proxy: usize,
}

impl Cores {
    /// The first and the last that this process may use.
    pub fn choose() -> Result<Self> {
        let set = sched_getaffinity(Pid::from_raw(0))?;
        let allowed: Vec<usize> =
            (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect();
        match allowed.as_slice() {
            [load, .., proxy] => Ok(Cores { load: *load, proxy: *proxy }),
            _ => bail!("one core: the proxy needs one, load and upstream another"),
        }
    }
}

/// A command that runs on that core alone, its children as well.
pub fn pinned(core: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.arg("--cpu-list").arg(core.to_string()).arg(program);
    command
}
