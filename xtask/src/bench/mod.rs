//! `cargo xtask bench`: the same work through baton and through its peers, row by row.

mod baton_load;
mod busy;
mod callgrind;
mod column;
mod configs;
mod cores;
mod ground;
mod h2load;
mod idle;
mod instructions;
mod measure;
mod paced;
mod plot;
mod product;
mod proxy;
mod reloads;
mod report;
mod row;
mod starting;
mod statistics;
mod table;
mod usage;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use self::cores::Cores;
use self::ground::{Ground, Tools};
use self::measure::{Results, measure};
use self::proxy::Proxy;
use self::row::{ROWS, Row};
use crate::interrupt::Interrupt;
use crate::packages;
use crate::process::{cargo, find, release_baton, run};

/// More rounds tell nothing more, and take the machine for hours.
const MAX_ROUNDS: u64 = 1_000;
const MAX_SECONDS: u64 = 600;

#[derive(clap::Args)]
pub struct Options {
    /// How often each row is measured with each proxy, in turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=MAX_ROUNDS))]
    rounds: u64,
    /// How long each measurement takes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
    seconds: u64,
    /// Only the rows whose name has this in it; may be said several times.
    #[arg(long)]
    row: Vec<String>,
    /// Also writes what was measured there, each round of it.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also draws CPU per request relative to the best peer there, as SVG.
    #[arg(long)]
    plot: Option<PathBuf>,
    /// Measure this baton, in place of one that is built from the sources here.
    #[arg(long)]
    baton: Option<PathBuf>,
    /// Take baton-load and baton-upstream from this directory, in place of building them.
    #[arg(long)]
    tools: Option<PathBuf>,
    /// Count the instructions of a request in place of measuring rows, without the peers, and fail
    /// where one takes more than the baseline in `xtask/instructions.json` says.
    #[arg(long)]
    instructions: bool,
    /// Make the counts the baseline.
    #[arg(long, requires = "instructions")]
    accept: bool,
    /// Install nothing: measure beside the peers that are there.
    #[arg(long)]
    no_install: bool,
}

pub fn bench(options: &Options) -> Result<()> {
    let interrupt = Interrupt::catch().context("catching signals")?;
    let rows = chosen(&options.row)?;
    let cores = Cores::choose()?;
    provide(options, &interrupt)?;
    let baton = match &options.baton {
        Some(baton) => baton.canonicalize().with_context(|| baton.display().to_string())?,
        None => build(&interrupt)?,
    };
    let tools = match &options.tools {
        Some(directory) => Tools::in_directory(directory)?,
        None => build_tools(&interrupt)?,
    };
    cores.stay()?;
    let ground = Ground::prepare(cores, tools, &interrupt)?;
    if options.instructions {
        return instructions::instructions(&baton, options.accept, &ground);
    }
    let proxies = Proxy::all(&baton);
    let mut results = Results::new(options.rounds, options.seconds, &proxies);
    for row in rows {
        measure(row, &proxies, &ground, &mut results)?;
    }
    print!("\n{}", table::text(&results));
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&table::json(&results))?;
        write(file, &(text + "\n"))?;
    }
    if let Some(file) = &options.plot {
        write(file, &plot::svg(&results).context("no row to draw")?)?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| file.display().to_string())
}

/// All, where nothing is said.
fn chosen(names: &[String]) -> Result<Vec<&'static Row>> {
    let wanted = |row: &&Row| names.is_empty() || names.iter().any(|name| row.name.contains(name));
    let rows: Vec<&Row> = ROWS.iter().filter(wanted).collect();
    if rows.is_empty() {
        let all: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        bail!("no row has {} in its name; there are: {}", names.join(" or "), all.join(", "));
    }
    Ok(rows)
}

fn build(interrupt: &Interrupt) -> Result<PathBuf> {
    run(cargo().args(["build", "--release", "--package", "baton-proxy"]), interrupt)?;
    release_baton()
}

/// A command of its own, as together with the product cargo would choose other features for both.
fn build_tools(interrupt: &Interrupt) -> Result<Tools> {
    run(cargo().args(["build", "--release", "--package", "baton-load", "--bins"]), interrupt)?;
    let baton = release_baton()?;
    Tools::in_directory(baton.parent().context("no directory")?)
}

/// nginx serves as the upstream and h2load is the load; the other peers may be missing.
fn provide(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let needed = ["nginx", "h2load", "openssl", "taskset"];
    if !options.no_install {
        install(interrupt)?;
    }
    match needed.iter().find(|program| find(program).is_none()) {
        None => Ok(()),
        Some(missing) => bail!(
            "{missing} is missing; run: sudo apt-get install -y --no-install-recommends nginx \
             haproxy h2o caddy nghttp2-client openssl util-linux"
        ),
    }
}

/// As root, and where there is apt; without starting the services that the packages come with.
fn install(interrupt: &Interrupt) -> Result<()> {
    let programs = [
        ("nginx", "nginx"),
        ("haproxy", "haproxy"),
        ("h2o", "h2o"),
        ("caddy", "caddy"),
        ("h2load", "nghttp2-client"),
        ("openssl", "openssl"),
        ("taskset", "util-linux"),
        ("valgrind", "valgrind"),
    ];
    let missing: Vec<&str> = programs
        .iter()
        .filter(|(program, package)| find(program).is_none() && packages::offered(package))
        .map(|(_, package)| *package)
        .collect();
    let root = nix::unistd::geteuid().is_root();
    if missing.is_empty() || !root || find("apt-get").is_none() {
        return Ok(());
    }
    let _quiet = packages::NoServices::begin()?;
    packages::install(&missing, interrupt)
}
