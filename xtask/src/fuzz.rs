//! `cargo xtask fuzz`: searches for inputs for which a claim of `proxy/src/fuzzing` does not hold.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::interrupt::Interrupt;
use crate::packages;
use crate::process::{cargo, find, root, run};
use crate::tool;

#[derive(clap::Args)]
pub struct Options {
    /// One target; all of them in turn where none is named.
    target: Option<String>,
    /// How long to search with each.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub fn fuzz(options: &Options) -> Result<()> {
    let interrupt = Interrupt::catch().context("catching signals")?;
    let all = targets()?;
    let chosen = match &options.target {
        Some(target) if !all.contains(target) => {
            bail!("`{target}` is no target: expected one of {}", all.join(", "))
        }
        Some(target) => vec![target.clone()],
        None => all,
    };
    if find("c++").is_none() {
        packages::install(&["g++"], &interrupt)?;
    }
    let cargo_fuzz = tool::ensure("cargo-fuzz", "0.13.2", &interrupt)?;
    chosen.iter().try_for_each(|target| search(&cargo_fuzz, target, options.seconds, &interrupt))
}

/// Names of files in `fuzz/fuzz_targets`, sorted.
fn targets() -> Result<Vec<String>> {
    let directory = root().join("fuzz/fuzz_targets");
    let entries = std::fs::read_dir(&directory).context("fuzz/fuzz_targets")?;
    let stem = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> = entries.filter_map(|entry| stem(entry.ok()?.path())).collect();
    names.sort();
    Ok(names)
}

/// Without a sanitizer, which takes a nightly compiler: our own code has no `unsafe` to speak of, and
/// what is searched for are claims that do not hold.
fn search(
    cargo_fuzz: &std::path::Path,
    target: &str,
    seconds: u64,
    interrupt: &Interrupt,
) -> Result<()> {
    println!("\n=== {target}");
    let corpus = root().join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
    let mut command = std::process::Command::new(cargo_fuzz);
    command.current_dir(root()).env("CARGO", cargo().get_program());
    command.args(["fuzz", "run", "--sanitizer", "none", target]);
    // The first directory takes what is found new; the seeds are only read.
    command.arg(corpus).arg(root().join("fuzz/seeds").join(target));
    command.args(["--", "-print_final_stats=1", "-timeout=10", "-max_len=4096"]);
    command.arg(format!("-max_total_time={seconds}"));
    run(&mut command, interrupt)
        .with_context(|| format!("{target}: what broke it is in fuzz/artifacts/{target}"))
}
