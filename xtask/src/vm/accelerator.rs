//! Whether the processor runs machines itself, or qemu emulates one.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::kernel::{Files, KERNELS, initrd};
use crate::interrupt::Interrupt;
use crate::process::{Group, wait_until};

/// A kernel under kvm says a word within a second or two.
const LIMIT: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    pub fn options(self) -> [&'static str; 4] {
        match self {
            Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // The wider registers of newer ones cost more than they gain where they are emulated; it has
            // instructions for AES. Without cmpxchg16b: qemu 7.2 sometimes leaves part of a pointer in
            // the flags, and one kernel of three panics while it boots.
            Accelerator::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "Westmere,-cx16"],
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        })
    }
}

/// Where a virtual machine gives its own machines a kvm, kernels may hang in it: tried once, with one
/// that only says a word.
pub fn find(cache: &Path, interrupt: &Interrupt) -> Result<Accelerator> {
    match fs::read_to_string(cache.join(KNOWN)).as_deref() {
        Ok("kvm") => return Ok(Accelerator::Kvm),
        Ok("tcg") => return Ok(Accelerator::Tcg),
        _ => {}
    }
    let works = Path::new("/dev/kvm").exists() && boots(cache, interrupt)?;
    let found = if works { Accelerator::Kvm } else { Accelerator::Tcg };
    remember(found, cache)?;
    Ok(found)
}

pub fn remember(accelerator: Accelerator, cache: &Path) -> Result<()> {
    fs::write(cache.join(KNOWN), accelerator.to_string()).context("accelerator")
}

/// In the cache: what was found before.
const KNOWN: &str = "accelerator";

const WORD: &str = "a kernel runs here";

fn boots(cache: &Path, interrupt: &Interrupt) -> Result<bool> {
    let Files { kernel, .. } = KERNELS[0].provide(cache, interrupt)?;
    let directory = tempfile::tempdir().context("a directory for a try")?;
    let (initrd_file, console) =
        (directory.path().join("initrd"), directory.path().join("console"));
    let init = format!("#!/bin/busybox sh\n/bin/busybox echo {WORD}\n/bin/busybox poweroff -f\n");
    initrd(Path::new("/nonexistent"), &initrd_file, &init, interrupt)?;
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(Accelerator::Kvm.options())
        .args(["-m", "512", "-nodefaults", "-display", "none", "-no-reboot", "-serial"])
        .arg(format!("file:{}", console.display()))
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(&initrd_file)
        .args(["-append", "console=ttyS0 panic=-1"])
        .stdin(Stdio::null());
    let mut group = Group::spawn(&mut qemu).context("qemu")?;
    let said = || fs::read(&console).unwrap_or_default();
    let heard = || String::from_utf8_lossy(&said()).contains(WORD);
    let mut ended = false;
    wait_until(LIMIT, interrupt, || {
        ended = !matches!(group.poll(), Ok(None));
        ended || heard()
    });
    group.end(Duration::from_secs(1));
    Ok(heard())
}
