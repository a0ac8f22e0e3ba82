//! One virtual machine, from its start until it has powered off.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::accelerator::Accelerator;
use super::kernel::{Files, SecurityModule};
use super::table::{Outcome, Scenario};
use crate::interrupt::Interrupt;
use crate::process::{Group, run, wait_until};

/// An emulated machine has booted after one.
const FIRST_WORD_LIMIT: Duration = Duration::from_secs(6 * 60);
/// Room for the logs that a machine leaves.
const LOGS_BYTES: u64 = 64 << 20;

pub struct Machine {
    pub name: &'static str,
    pub kernel: Files,
    pub root: PathBuf,
    pub payload: PathBuf,
    pub logs: PathBuf,
    /// Which scenarios, separated by commas.
    pub words: String,
    pub accelerator: Accelerator,
    /// Only where the root has what it needs: without AppArmor's parser, but with AppArmor, Docker starts no
    /// container.
    pub security: Option<SecurityModule>,
    /// For all of them.
    pub limit: Duration,
}

impl Machine {
    pub fn run(&self, interrupt: &Interrupt) -> Result<Outcome> {
        let began = Instant::now();
        let results = self.logs.join("results");
        let disk = self.logs.join("logs.tar");
        File::create(&disk).and_then(|file| file.set_len(LOGS_BYTES)).context("logs.tar")?;
        let mut qemu = Group::spawn(&mut self.command(&results, &disk)).context("qemu")?;
        let (mut told, mut ended) = (0, false);
        wait_until(self.limit, interrupt, || {
            told = tell(&results, told);
            ended = !matches!(qemu.poll(), Ok(None));
            ended || told == 0 && began.elapsed() > FIRST_WORD_LIMIT
        });
        tell(&results, told);
        qemu.end(Duration::from_secs(1));
        self.unpack_logs(&disk, interrupt);
        if interrupt.happened() {
            bail!("interrupted");
        }
        let scenarios = Scenario::parse(&fs::read_to_string(&results).unwrap_or_default());
        Ok(Outcome { scenarios, ended, time: began.elapsed() })
    }

    fn command(&self, results: &Path, logs: &Path) -> Command {
        let mut qemu = Command::new("qemu-system-x86_64");
        let drive = |path: &Path, more: &str| {
            format!("file={},format=raw,if=virtio,{more}", path.display())
        };
        qemu.args(self.accelerator.options())
            .args(["-m", "1536", "-smp", "2", "-nodefaults", "-display", "none"])
            .args(["-device", "virtio-rng-pci", "-serial"])
            .arg(format!("file:{}", self.logs.join("console").display()))
            .arg("-serial")
            .arg(format!("file:{}", results.display()))
            .args(["-drive", &drive(&self.root, "snapshot=on")])
            .args(["-drive", &drive(&self.kernel.modules, "readonly=on")])
            .args(["-drive", &drive(&self.payload, "readonly=on")])
            .args(["-drive", &drive(logs, "cache=unsafe")])
            .arg("-kernel")
            .arg(&self.kernel.kernel)
            .arg("-initrd")
            .arg(&self.kernel.initrd)
            .arg("-append")
            .arg(format!(
                "console=ttyS0 quiet panic=-1 mitigations=off {} tsc=reliable scenarios={}",
                match self.security {
                    None => "apparmor=0",
                    Some(SecurityModule::AppArmor) => "apparmor=1",
                    Some(SecurityModule::Selinux) => "apparmor=0 security=selinux enforcing=0",
                },
                self.words
            ))
            .stdin(Stdio::null());
        qemu
    }

    /// A machine that was cut off has left none.
    fn unpack_logs(&self, disk: &Path, interrupt: &Interrupt) {
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(disk).arg("-C").arg(&self.logs).stderr(Stdio::null());
        if run(&mut tar, interrupt).is_err() {
            println!("{}: it left no logs but its console", self.name);
        }
        let _ = fs::remove_file(disk);
    }
}

/// Prints what has come since; how much of it there is now.
fn tell(results: &Path, told: usize) -> usize {
    let text = fs::read(results).unwrap_or_default();
    let Some(end) = text.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1) else {
        return told;
    };
    if end > told {
        print!("{}", String::from_utf8_lossy(&text[told..end]).replace('\r', ""));
    }
    end.max(told)
}
