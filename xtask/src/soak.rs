//! `cargo xtask soak`: handoffs, mixed load and deaths at length, for a release.

use anyhow::{Context, Result};

use crate::interrupt::Interrupt;
use crate::process::{Profile, cargo, run};
use crate::test::Docker;

#[derive(clap::Args)]
pub struct Options {
    /// What `--help` behind `--` explains: `cargo xtask soak -- --handoffs 1000 --rate 5000`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub fn soak(options: &Options) -> Result<()> {
    let interrupt = Interrupt::catch().context("catching signals")?;
    let baton = Profile::Release.build(&interrupt)?;
    let mut soak = cargo();
    soak.args(["run", "--release", "--package", "baton-tests", "--bin", "baton-soak", "--"]);
    soak.args(&options.arguments).env("BATON_BIN", &baton);
    soak.env("BATON_UPSTREAM_BIN", baton.with_file_name("baton-upstream"));
    let docker = Docker::find_or_start(&interrupt)?;
    soak.env("DOCKER_HOST", docker.endpoint());
    let result = run(&mut soak, &interrupt);
    if let Docker::Ours(dockerd) = docker {
        dockerd.stop()?;
    }
    result
}
