//! Cargo's own extensions that some commands need: built once, into the target directory.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::interrupt::Interrupt;
use crate::process::{cargo, root, run};

/// The program of a crate in exactly this version, installed where it is missing.
pub fn ensure(name: &str, version: &str, interrupt: &Interrupt) -> Result<PathBuf> {
    let home = root().join("target/tools");
    let program = home.join("bin").join(name);
    let mut install = cargo();
    // Does nothing where that version is there already. Not optimised: built sooner, and used seldom.
    install
        .args(["install", "--debug", "--locked", name, "--version", version, "--root"])
        .arg(&home);
    install.arg("--target-dir").arg(home.join("build"));
    if let Err(error) = run(&mut install, interrupt) {
        bail!("{name} {version}: {error}; `cargo install {name}` needs crates.io");
    }
    Ok(program)
}
