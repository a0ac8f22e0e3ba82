//! Child processes, each with its descendants in a process group of its own: what is started here
//! can be ended here, whole.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::interrupt::Interrupt;

const POLL: Duration = Duration::from_millis(20);
/// Between SIGTERM and SIGKILL, where nobody says otherwise.
const GRACE: Duration = Duration::from_secs(10);

/// Runs a command to its end, with this terminal's output; fails when it does.
pub fn run(command: &mut Command, interrupt: &Interrupt) -> Result<()> {
    if interrupt.happened() {
        bail!("interrupted");
    }
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let program = program.to_string_lossy().into_owned();
    let mut group =
        Group::spawn(command).with_context(|| format!("{program} could not be started"))?;
    match group.wait(interrupt)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{program}: {}", outcome(status)),
        None => bail!("interrupted"),
    }
}

/// `cargo`, the same that runs us, at the root of the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// A profile of cargo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// What tests use.
    Dev,
    /// What users get.
    Release,
}

impl Profile {
    /// As cargo calls it.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Dev => "dev",
            Profile::Release => "release",
        }
    }

    /// Builds the product, with the features that users get and not those that the whole workspace would
    /// choose, and the clients and the upstream of tests; where the former is, the latter beside it.
    pub fn build(self, interrupt: &Interrupt) -> Result<PathBuf> {
        let packages = ["--package", "baton-proxy", "--package", "baton-load", "--bins"];
        run(cargo().args(["build", "--profile", self.name()]).args(packages), interrupt)?;
        self.baton()
    }

    /// The product: cargo puts it beside the directory of this program.
    pub fn baton(self) -> Result<PathBuf> {
        let xtask = std::env::current_exe().context("where xtask is")?;
        let target = xtask.ancestors().nth(2).context("xtask is not in a target directory")?;
        let directory = match self {
            Profile::Dev => "debug",
            Profile::Release => "release",
        };
        Ok(target.join(directory).join("baton"))
    }
}

/// Without what only debuggers read.
pub fn strip(program: &Path, to: &Path, interrupt: &Interrupt) -> Result<()> {
    run(Command::new("strip").arg("-o").arg(to).arg(program), interrupt)
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the workspace")
}

/// Where a program is on the search path. The directories of root count for everybody.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// Polls until `done` answers, the time is over, or an interrupt comes.
pub fn wait_until(limit: Duration, interrupt: &Interrupt, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if done() {
            return true;
        }
        if start.elapsed() > limit || interrupt.happened() {
            return false;
        }
        pause();
    }
}

/// The moment between two looks at a process: std has no wait with a limit.
#[expect(clippy::disallowed_methods, reason = "a developer's tool, with nothing else to do")]
fn pause() {
    std::thread::sleep(POLL);
}

/// A child that leads a process group. Unless it has ended by itself, the group ends with this value.
pub struct Group {
    leader: Child,
    ended: bool,
}

impl Group {
    pub fn spawn(command: &mut Command) -> std::io::Result<Self> {
        Ok(Group { leader: command.process_group(0).spawn()?, ended: false })
    }

    pub fn id(&self) -> u32 {
        self.leader.id()
    }

    /// Waits for the leader. On an interrupt the group is ended, and the answer is None.
    pub fn wait(&mut self, interrupt: &Interrupt) -> Result<Option<ExitStatus>> {
        while !interrupt.happened() {
            if let Some(status) = self.poll()? {
                return Ok(Some(status));
            }
            pause();
        }
        self.end(GRACE);
        Ok(None)
    }

    /// How the leader ended, once it has.
    pub fn poll(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let status = self.leader.try_wait()?;
        self.ended |= status.is_some();
        Ok(status)
    }

    /// SIGTERM to the group and, to what is left of it in the end, SIGKILL.
    pub fn end(&mut self, grace: Duration) {
        if self.ended {
            return;
        }
        self.signal(Signal::SIGTERM);
        let start = Instant::now();
        while start.elapsed() < grace && !matches!(self.poll(), Ok(Some(_))) {
            pause();
        }
        self.signal(Signal::SIGKILL);
        // The leader's number stays ours until it is waited for; an error means that it was.
        let _ = self.leader.wait();
        self.ended = true;
    }

    fn signal(&self, signal: Signal) {
        let group = i32::try_from(self.leader.id()).expect("process numbers are i32 in the kernel");
        // It may have ended a moment ago.
        let _ = killpg(Pid::from_raw(group), signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end(GRACE);
    }
}

fn outcome(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
