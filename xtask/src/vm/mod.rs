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
use std::time::Duration;

use accelerator::Accelerator;
use anyhow::{Context, Result, bail};

use crate::interrupt::Interrupt;
use crate::packages;
use crate::process::{Profile, find};
use kernel::{KERNELS, Kernel};
use machine::Machine;
use payload::Payload;
use table::Outcome;

#[derive(Default, clap::Args)]
pub struct Options {
    /// One of them, in place of the first.
    #[arg(long, value_parser = kernel::NAMES)]
    kernel: Option<String>,
    /// Every kernel, and every scenario that may go differently there.
    #[arg(long)]
    all: bool,
    /// Every scenario.
    #[arg(long)]
    long: bool,
    /// Pack this binary, in place of building one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Only the scenarios with one of these words in their names; the package is installed first.
    scenarios: Vec<String>,
}

/// A machine that is emulated beside other work needs half of it.
const QUICK_LIMIT: Duration = Duration::from_secs(10 * 60);
const LONG_LIMIT: Duration = Duration::from_secs(60 * 60);

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
    Profile::Dev.build(&interrupt)?;
    boot(options, &interrupt)
}

/// For `cargo xtask test`, which has built everything.
pub fn quick(interrupt: &Interrupt) -> Result<()> {
    provide(interrupt)?;
    boot(&Options::default(), interrupt)
}

fn boot(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let cache = crate::process::root().join("target/vm");
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let payload = Payload::build(options.binary.as_deref(), &cache, interrupt)?;
    let mut rows = Vec::new();
    for kernel in options.kernels() {
        let (root, accelerator) = prepare(options, kernel, &cache, interrupt)?;
        let mut machine = Machine {
            name: kernel.name,
            kernel: kernel.provide(&cache, interrupt)?,
            root,
            payload: payload.path(),
            logs: logs(&cache, kernel)?,
            words: options.words(kernel),
            accelerator,
            security: options.everything().then_some(kernel.security),
            limit: if options.everything() { LONG_LIMIT } else { QUICK_LIMIT },
        };
        rows.push((kernel.name, watch(&mut machine, kernel, &cache, interrupt)?));
    }
    table::print(&rows);
    match rows.iter().all(|(_, outcome)| outcome.all_good()) {
        true => Ok(()),
        false => bail!("a scenario failed; the logs are in {}", cache.join("logs").display()),
    }
}

/// The root file system, and meanwhile, because it mostly waits, the look for an accelerator.
fn prepare(
    options: &Options,
    kernel: &Kernel,
    cache: &Path,
    interrupt: &Interrupt,
) -> Result<(PathBuf, Accelerator)> {
    std::thread::scope(|scope| {
        let accelerator = scope.spawn(|| accelerator::find(cache, interrupt));
        let root = root::provide(kernel.userland, options.everything(), cache, interrupt);
        Ok((root?, accelerator.join().expect("it does not panic")?))
    })
}

/// Where a kernel that said its word under kvm hangs later, it is emulated.
fn watch(
    machine: &mut Machine,
    kernel: &Kernel,
    cache: &Path,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    loop {
        let accelerator = machine.accelerator;
        println!("\n=== {} (Debian {}, {accelerator})", kernel.name, kernel.userland);
        let outcome = machine.run(interrupt)?;
        if outcome.ended || accelerator == Accelerator::Tcg {
            return Ok(outcome);
        }
        println!("it hangs under kvm");
        machine.accelerator = Accelerator::Tcg;
        accelerator::remember(Accelerator::Tcg, cache)?;
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

    fn everything(&self) -> bool {
        self.all || self.long
    }

    /// What the script in the machine is told. Of all kernels, the packages' scenarios are for the one that
    /// their suite has.
    fn words(&self, kernel: &Kernel) -> String {
        let part = match (self.long, self.all) {
            (true, _) => "all",
            (false, true) if kernel.is_of_its_userland() => "all",
            (false, true) => "kernel",
            (false, false) => "quick",
        };
        let mut words = vec![part];
        words.extend(self.scenarios.iter().map(String::as_str));
        words.join(",")
    }
}

/// What is amiss with this host.
pub fn why_not() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("the root file system of a machine is made as root");
    }
    if find("apt-get").is_none() {
        return Some("a machine is made of Debian's packages, by apt");
    }
    (!cfg!(target_arch = "x86_64")).then_some("machines are x86-64")
}

fn provide(interrupt: &Interrupt) -> Result<()> {
    let missing = TOOLS.iter().filter(|(program, _)| find(program).is_none());
    let missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if let Some(why_not) = why_not() {
        bail!("{why_not}");
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
