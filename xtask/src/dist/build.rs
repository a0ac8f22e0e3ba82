//! The build that people install: the same bytes from the same sources, wherever they stand.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::epoch;
use crate::interrupt::Interrupt;
use crate::process::{cargo, root, run};

/// Builds in a directory of its own, because other flags would compile everything anew each time.
pub fn binary(target: &Path, interrupt: &Interrupt) -> Result<PathBuf> {
    let places = [(target, "/target"), (root(), "/baton"), (&cargo_home(), "/cargo")];
    let map = |option: &str, separator: &str| -> String {
        let pairs = places.iter().map(|(from, to)| format!("{option}{}={to}", from.display()));
        pairs.collect::<Vec<_>>().join(separator)
    };
    let mut build = cargo();
    build
        .args(["build", "--profile", "dist", "--locked"])
        .args(["--package", "baton-proxy", "--bin", "baton", "--target-dir"])
        .arg(target)
        .env("CARGO_ENCODED_RUSTFLAGS", map("--remap-path-prefix=", "\x1f"))
        // Of dependencies in C, which name their files in what they say before they abort.
        .env("CFLAGS", map("-ffile-prefix-map=", " "))
        .env("SOURCE_DATE_EPOCH", epoch()?);
    run(&mut build, interrupt)?;
    Ok(target.join("dist/baton"))
}

fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}
