//! `cargo xtask test`: everything that must hold before a commit.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::bench;
use crate::dockerd::{self, Dockerd};
use crate::ebpf;
use crate::interrupt::Interrupt;
use crate::packages;
use crate::process::{Profile, cargo, run};
use crate::steps::Steps;
use crate::vm;

#[derive(clap::Args)]
pub struct Options {
    /// Only the tests whose name has this in it; no formatting, no clippy.
    filter: Option<String>,
    /// No black-box tests and no virtual machine: needs neither root nor Docker.
    #[arg(long)]
    unit: bool,
    /// In place of all that: the measurements, which want the machine for themselves; the release binary.
    #[arg(long, conflicts_with = "unit")]
    alone: bool,
    /// Install nothing: say what is missing.
    #[arg(long)]
    no_install: bool,
}

pub fn test(options: &Options) -> Result<()> {
    let interrupt = Interrupt::catch().context("catching signals")?;
    let mut steps = Steps::default();
    if options.alone {
        measurements(options, &mut steps, &interrupt);
        return steps.finish();
    }
    // First, because it is what can be missing, and nothing after it asks for anything.
    let provided = options.unit || provide(options, &mut steps, &interrupt);
    if options.filter.is_none() {
        if !options.unit && !options.no_install {
            steps.take("eBPF toolchain", || ebpf::provide(&interrupt));
        }
        check_sources(&mut steps, &interrupt);
    }
    unit_tests(options, &mut steps, &interrupt);
    if provided
        && !options.unit
        && let Some(baton) = steps.take("build", || Profile::Dev.build(&interrupt))
    {
        black_box_tests(options, &baton, &mut steps, &interrupt);
        if options.filter.is_none() {
            instructions(options, &mut steps, &interrupt);
            virtual_machine(options, &mut steps, &interrupt);
        }
    }
    steps.finish()
}

fn provide(options: &Options, steps: &mut Steps, interrupt: &Interrupt) -> bool {
    let install = !options.no_install;
    let need_dockerd = dockerd::answering().is_none();
    steps.take("packages", || packages::ensure(need_dockerd, install, interrupt)).is_some()
}

fn check_sources(steps: &mut Steps, interrupt: &Interrupt) {
    steps.take("formatting", || {
        run(cargo().args(["fmt", "--all", "--check"]), interrupt)?;
        let outside = ["fmt", "--manifest-path", "ebpf/Cargo.toml", "--check"];
        run(cargo().args(outside), interrupt)?;
        let outside = ["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"];
        run(cargo().args(outside), interrupt)
    });
    steps.take("clippy", || {
        let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        run(cargo().args(clippy), interrupt)
    });
    steps.take("eBPF object", || ebpf::check(interrupt));
}

fn unit_tests(options: &Options, steps: &mut Steps, interrupt: &Interrupt) {
    steps.take("unit tests", || {
        let test = ["test", "--workspace", "--lib", "--bins"];
        run(cargo().args(test).args(&options.filter), interrupt)
    });
}

fn black_box_tests(options: &Options, baton: &Path, steps: &mut Steps, interrupt: &Interrupt) {
    let Some(docker) = steps.take("docker", || Docker::find_or_start(interrupt)) else { return };
    steps.take("black-box tests", || {
        // The whole workspace, because with fewer packages cargo chooses other features of the
        // dependencies and compiles them once more.
        let mut test = cargo();
        test.args(["test", "--workspace", "--test", "*"]).args(&options.filter);
        if std::env::var_os("RUST_TEST_THREADS").is_none() {
            test.env("RUST_TEST_THREADS", threads().to_string());
        }
        test.env("BATON_BIN", baton).env("DOCKER_HOST", docker.endpoint());
        run(&mut test, interrupt)
    });
    if let Docker::Ours(dockerd) = docker {
        steps.take("clean up", || dockerd.stop());
    }
}

/// One after the other, of what users get.
fn measurements(options: &Options, steps: &mut Steps, interrupt: &Interrupt) {
    let Some(baton) = steps.take("release build", || Profile::Release.build(interrupt)) else {
        return;
    };
    steps.take("measurements", || {
        let mut test = cargo();
        test.args(["test", "--workspace", "--test", "*"]).args(&options.filter);
        test.args(["--", "--ignored", "--nocapture", "--test-threads", "1"]);
        run(test.env("BATON_BIN", &baton), interrupt)
    });
}

/// What a request takes has not grown. In a process of its own, as it keeps itself to one core.
fn instructions(options: &Options, steps: &mut Steps, interrupt: &Interrupt) {
    if let Some(why) = bench::why_no_instructions(!options.no_install) {
        return steps.leave_out("instructions", why);
    }
    steps.take("instructions", || {
        let mut bench = Command::new(std::env::current_exe().context("where xtask is")?);
        bench.args(["bench", "--instructions", "--profile", Profile::Dev.name()]);
        run(&mut bench, interrupt)
    });
}

/// The package under a real systemd. Last, and alone: black-box tests watch the clock.
fn virtual_machine(options: &Options, steps: &mut Steps, interrupt: &Interrupt) {
    let why_not = if options.no_install { Some("nothing is installed") } else { vm::why_not() };
    match why_not {
        Some(why) => steps.leave_out("virtual machine", why),
        None => drop(steps.take("virtual machine", || vm::quick(interrupt))),
    }
}

/// Black-box tests at a time: many of them wait for what takes its time, such as a CA that looks.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) * 3 / 2
}

/// Whose Docker daemon the tests talk to.
pub enum Docker {
    Found(String),
    Ours(Dockerd),
}

impl Docker {
    pub fn find_or_start(interrupt: &Interrupt) -> Result<Self> {
        if let Some(endpoint) = dockerd::answering() {
            println!("a daemon answers at {endpoint}");
            return Ok(Docker::Found(endpoint));
        }
        let dockerd = Dockerd::start(interrupt)?;
        println!("started one at {}", dockerd.endpoint());
        Ok(Docker::Ours(dockerd))
    }

    pub fn endpoint(&self) -> String {
        match self {
            Docker::Found(endpoint) => endpoint.clone(),
            Docker::Ours(dockerd) => dockerd.endpoint(),
        }
    }
}
