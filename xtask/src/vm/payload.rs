//! What a machine gets beside its root file system: two versions of the package, the load client, an
//! upstream for containers, and the scenarios. One tar file, which is a disk of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::dist::debian::{Compression, Debian};
use crate::dist::{Files, version};
use crate::interrupt::Interrupt;
use crate::process::{root, run, strip};

pub struct Payload {
    _directory: TempDir,
    tar: PathBuf,
}

impl Payload {
    pub fn build(binary: Option<&Path>, cache: &Path, interrupt: &Interrupt) -> Result<Self> {
        let built = root().join("target/debug");
        let directory = tempfile::tempdir_in(cache).context("a directory for the payload")?;
        let stage = directory.path().join("stage");
        fs::create_dir(&stage).context("the payload")?;
        packages(binary.unwrap_or(&built.join("baton")), &stage, interrupt)?;
        for program in ["baton-load", "baton-upstream"] {
            strip(&built.join(program), &stage.join(program), interrupt)?;
        }
        let tar = directory.path().join("payload.tar");
        let mut pack = Command::new("tar");
        pack.arg("-cf").arg(&tar).arg("-C").arg(&stage).arg(".");
        pack.arg("-C").arg(root().join("tests/vm")).args([
            "scenarios.sh",
            "wakes.py",
            "selinux.cil",
        ]);
        pack.arg("-C").arg(root().join("deploy")).args(["ansible", "docker"]);
        run(&mut pack, interrupt)?;
        Ok(Payload { _directory: directory, tar })
    }

    pub fn path(&self) -> PathBuf {
        self.tar.clone()
    }
}

/// The same program in two versions of the package: what differs is what is tested.
fn packages(binary: &Path, stage: &Path, interrupt: &Interrupt) -> Result<()> {
    let stripped = stage.join("baton");
    strip(binary, &stripped, interrupt)?;
    let files = Files::of(&stripped)?;
    let version = version(&stripped)?;
    for revision in ["1", "2"] {
        let debian = Debian {
            version: format!("{version}+vm{revision}"),
            compression: Compression::Nothing,
        };
        let package = debian.build(&files, stage)?;
        fs::rename(package, stage.join(format!("{revision}.deb"))).context("the package")?;
    }
    fs::remove_file(stripped).context("the binary")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shell would only find out where a machine comes to it, and most come to a part of them.
    #[test]
    fn every_scenario_is_a_function_of_the_script() {
        let script = fs::read_to_string(root().join("tests/vm/scenarios.sh")).expect("the script");
        let lines = script.lines().filter(|line| !line.starts_with('#'));
        let called = lines.filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let at = words.iter().position(|word| *word == "scenario")?;
            words.get(at + 2).copied()
        });
        let called: Vec<&str> = called.filter(|name| !name.contains('"')).collect();
        assert!(called.contains(&"package_upgrade"), "{called:?}");
        for name in called {
            assert!(script.contains(&format!("\n{name}() {{\n")), "{name}");
        }
    }
}
