//! `cargo xtask audit`: licences, bans, sources and advisories of everything that goes into baton.

use anyhow::{Context, Result};

use crate::interrupt::Interrupt;
use crate::process::{cargo, root, run};
use crate::steps::Steps;
use crate::tool;

#[derive(clap::Args)]
pub struct Options {}

pub fn audit(_: &Options) -> Result<()> {
    let interrupt = Interrupt::catch().context("catching signals")?;
    let deny = tool::ensure("cargo-deny", VERSION, &interrupt)?;
    let check = |what: &[&str]| {
        let mut command = std::process::Command::new(&deny);
        command.current_dir(root()).env("CARGO", cargo().get_program());
        command.args(["--locked", "--workspace", "check", "--hide-inclusion-graph"]).args(what);
        run(&mut command, &interrupt)
    };
    let mut steps = Steps::default();
    steps.take("licences", || check(&["licenses"]));
    steps.take("bans", || check(&["bans"]));
    steps.take("sources", || check(&["sources"]));
    match fetch(&deny, &interrupt) {
        Ok(()) => drop(steps.take("advisories", || check(&["advisories", "--disable-fetch"]))),
        Err(error) => println!(
            "\n=== advisories: NOT checked: the database (github.com/rustsec/advisory-db) cannot be \
             fetched: {error:#}"
        ),
    }
    steps.finish()
}

const VERSION: &str = "0.20.2";

fn fetch(deny: &std::path::Path, interrupt: &Interrupt) -> Result<()> {
    let mut command = std::process::Command::new(deny);
    command.current_dir(root()).args(["fetch", "db"]).env("CARGO", cargo().get_program());
    // Where nobody answers, nobody is asked for a name.
    command.env("GIT_TERMINAL_PROMPT", "0");
    run(&mut command, interrupt)
}
