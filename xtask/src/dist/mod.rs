//! `cargo xtask dist`: what people install, under target/dist: a Debian package, a tarball, their sums.

mod build;
pub mod debian;
mod files;
mod tarball;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::interrupt::Interrupt;
use crate::process::root;
use debian::{Compression, Debian};
pub use files::Files;

#[derive(clap::Args)]
pub struct Options {
    /// Pack this binary, in place of building one.
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    binary: Option<PathBuf>,
    /// Build everything twice, in two directories, and fail where the results differ.
    #[arg(long)]
    check: bool,
}

pub fn dist(options: &Options) -> Result<()> {
    let interrupt = Interrupt::catch().context("catching signals")?;
    let target = root().join("target/dist");
    let sums = match &options.binary {
        Some(binary) => pack(binary, &target)?,
        None => build_and_pack(&target, &interrupt)?,
    };
    print!("{sums}");
    if options.check {
        let again = build_and_pack(&target.join("again"), &interrupt)?;
        if sums != again {
            bail!("the second build differs:\n{again}");
        }
        println!("the second build made the same");
    }
    Ok(())
}

fn build_and_pack(target: &Path, interrupt: &Interrupt) -> Result<String> {
    let binary = build::binary(&target.join("build"), interrupt)?;
    pack(&binary, target)
}

/// The sums of what was made, as `sha256sum --check` reads them.
fn pack(binary: &Path, target: &Path) -> Result<String> {
    fs::create_dir_all(target).with_context(|| target.display().to_string())?;
    let files = Files::of(binary)?;
    let version = version(binary)?;
    let package = Debian { version: version.clone(), compression: Compression::Xz };
    let made = [package.build(&files, target)?, tarball::build(&files, &version, target)?];
    let sums = made.iter().map(|file| sum(file)).collect::<Result<String>>()?;
    fs::write(target.join("SHA256SUMS"), &sums).context("SHA256SUMS")?;
    Ok(sums)
}

fn sum(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| file.display().to_string())?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{digest}  {name}\n"))
}

/// As the binary itself says it.
pub fn version(binary: &Path) -> Result<String> {
    let said = output(Command::new(binary).arg("--version"))?;
    let version = said.trim().strip_prefix("baton ").context("--version of another program")?;
    Ok(version.to_owned())
}

/// The time of the last commit: whatever is packed has this one, so that two builds are the same.
fn epoch() -> Result<String> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let log = ["log", "--max-count=1", "--format=%ct"];
    Ok(output(Command::new("git").current_dir(root()).args(log))?.trim().to_owned())
}

fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| program.clone())?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
