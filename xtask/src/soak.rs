//! `cargo xtask soak`: handoffs at length, for a release.

use anyhow::{Context, Result};

use crate::interrupt::Interrupt;
use crate::process::{cargo, release_baton, run};

#[derive(clap::Args)]
pub struct Options {
    /// What `--help` behind `--` explains: `cargo xtask soak -- --handoffs 1000 --rate 5000`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub fn soak(options: &Options) -> Result<()> {
    let interrupt = Interrupt::catch().context("catching signals")?;
    run(cargo().args(["build", "--release", "--package", "baton-proxy"]), &interrupt)?;
    let mut soak = cargo();
    soak.args(["run", "--release", "--package", "baton-tests", "--bin", "baton-soak", "--"]);
    soak.args(&options.arguments).env("BATON_BIN", release_baton()?);
    run(&mut soak, &interrupt)
}
