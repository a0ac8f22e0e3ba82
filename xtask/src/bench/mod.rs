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
use self::instructions::Counting;
use self::measure::{Results, measure};
use self::proxy::Proxy;
use self::row::{ROWS, Row};
use crate::interrupt::Interrupt;
use crate::packages;
use crate::process::{Profile, find};

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
    /// Count the instructions of a request in place of measuring rows, and fail
    /// where one takes more than the baseline in `xtask/instructions.json` says.
    #[arg(long)]
    instructions: bool,
    /// Of what cargo builds with this profile; each has a baseline of its own.
    #[arg(long, value_enum, default_value = "release", requires = "instructions")]
    profile: Profile,
    /// Of the peers as well, which are held against nothing.
    #[arg(long, requires = "instructions")]
    peers: bool,
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
        None => options.profile.build(&interrupt)?,
    };
    let tools = match &options.tools {
        Some(directory) => Tools::in_directory(directory)?,
        None if options.baton.is_none() => Tools::in_directory(beside(&baton)?)?,
        None => Tools::in_directory(beside(&options.profile.build(&interrupt)?)?)?,
    };
    cores.stay()?;
    let ground = Ground::prepare(cores, tools, &interrupt)?;
    if options.instructions {
        let Options { profile, accept, peers: with_peers, .. } = *options;
        return instructions::instructions(
            &baton,
            Counting { profile, accept, with_peers },
            &ground,
        );
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

fn beside(program: &Path) -> Result<&Path> {
    program.parent().context("no directory")
}

/// What a bench is made of: the upstream, the load, and what places them.
const NEEDED: [Tool; 4] = [
    ("nginx", "nginx"),
    ("h2load", "nghttp2-client"),
    ("openssl", "openssl"),
    ("taskset", "util-linux"),
];
/// May be missing: what is measured is measured beside those that are there.
const PEERS: [Tool; 3] = [("haproxy", "haproxy"), ("h2o", "h2o"), ("caddy", "caddy")];
/// To count instructions of.
const COUNTERS: [Tool; 3] = [("valgrind", "valgrind"), ("vgdb", "valgrind"), ("strip", "binutils")];

/// A program, and the package of Debian and Ubuntu that has it.
type Tool = (&'static str, &'static str);

fn provide(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let counters = || COUNTERS.iter().filter(|_| options.instructions);
    let peers = PEERS.iter().filter(|_| options.peers || !options.instructions);
    if !options.no_install && can_install() {
        install(NEEDED.iter().chain(counters()).chain(peers), interrupt)?;
    }
    let needed = NEEDED.iter().chain(counters());
    let missing = packages_of(needed);
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(" ");
    bail!("missing; run: sudo apt-get install -y --no-install-recommends {missing}")
}

/// Why instructions cannot be counted here.
pub fn why_no_instructions(install: bool) -> Option<&'static str> {
    let missing = packages_of(NEEDED.iter().chain(&COUNTERS));
    let provided = missing.is_empty() || (install && can_install());
    (!provided).then_some("nginx or valgrind is missing")
}

/// As root, and where there is apt.
fn can_install() -> bool {
    nix::unistd::geteuid().is_root() && find("apt-get").is_some()
}

/// Without starting the services that the packages come with.
fn install<'a>(tools: impl Iterator<Item = &'a Tool>, interrupt: &Interrupt) -> Result<()> {
    let mut missing = packages_of(tools);
    missing.retain(|package| packages::offered(package));
    if missing.is_empty() {
        return Ok(());
    }
    let _quiet = packages::NoServices::begin()?;
    packages::install(&missing, interrupt)
}

/// Of those tools that are missing, each once.
fn packages_of<'a>(tools: impl Iterator<Item = &'a Tool>) -> Vec<&'static str> {
    let missing = tools.filter(|(program, _)| find(program).is_none());
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}
