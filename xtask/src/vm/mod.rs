//! `cargo xtask vm`: the package under a real systemd, with real containers, on Debian's kernels.
//!
//! Each machine boots from an image that is made once of Debian's packages and never written to; what
//! happens in it is tests/vm/scenarios.sh, which says how each scenario ended over a serial line.

mod accelerator;
mod debian;
mod kernel;
mod machine;
mod payload;
mod root;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::interrupt::Interrupt;
use crate::packages;
use crate::process::find;
use kernel::{KERNELS, Kernel};
use machine::Machine;
use payload::Payload;

#[derive(clap::Args)]
pub struct Options {
    /// One of them, in place of the first.
    #[arg(long, value_parser = kernel::NAMES)]
    kernel: Option<String>,
    /// Every kernel, and every scenario.
    #[arg(long)]
    all: bool,
    /// Every scenario, on the kernel that was chosen.
    #[arg(long)]
    long: bool,
    /// Pack this binary, in place of building one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Only the scenarios with one of these words in their names; the package is installed first.
    scenarios: Vec<String>,
}

/// What is needed of Debian: a program, and its package.
const TOOLS: [(&str, &str); 7] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("depmod", "kmod"),
    ("busybox", "busybox-static"),
    ("xz", "xz-utils"),
    ("dpkg-deb", "dpkg"),
];

pub fn vm(options: &Options) -> Result<()> {
    let interrupt = Interrupt::catch().context("catching signals")?;
    provide(&interrupt)?;
    let cache = crate::process::root().join("target/vm");
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let payload = Payload::build(options.binary.as_deref(), &cache, &interrupt)?;
    let accelerator = accelerator::find(&cache, &interrupt)?;
    let mut rows = Vec::new();
    for kernel in options.kernels() {
        let machine = Machine {
            name: kernel.name,
            kernel: kernel.provide(&cache, &interrupt)?,
            root: root::provide(kernel.userland, &cache, &interrupt)?,
            payload: payload.path(),
            logs: logs(&cache, kernel)?,
            words: options.words(),
            accelerator,
        };
        println!("\n=== {} ({} of Debian {})", kernel.name, accelerator, kernel.userland);
        rows.push((kernel.name, machine.run(&interrupt)?));
    }
    table::print(&rows);
    match rows.iter().all(|(_, outcome)| outcome.all_good()) {
        true => Ok(()),
        false => bail!("a scenario failed; the logs are in {}", cache.join("logs").display()),
    }
}

impl Options {
    fn kernels(&self) -> Vec<&'static Kernel> {
        let chosen = |kernel: &&Kernel| match &self.kernel {
            Some(name) => kernel.name == name,
            None => self.all || kernel.name == KERNELS[0].name,
        };
        KERNELS.iter().filter(chosen).collect()
    }

    /// What the script in the machine is told.
    fn words(&self) -> String {
        let all = self.all || self.long;
        let mut words = vec![if all { "all" } else { "quick" }];
        words.extend(self.scenarios.iter().map(String::as_str));
        words.join(",")
    }
}

fn provide(interrupt: &Interrupt) -> Result<()> {
    let missing = TOOLS.iter().filter(|(program, _)| find(program).is_none());
    let missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if !nix::unistd::geteuid().is_root() {
        bail!("the root file system of a machine is made as root: run it as root");
    }
    if missing.is_empty() { Ok(()) } else { packages::install(&missing, interrupt) }
}

fn logs(cache: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let logs = cache.join("logs").join(kernel.name);
    // Of the run before.
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
    Ok(logs)
}
