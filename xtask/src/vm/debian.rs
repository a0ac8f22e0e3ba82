//! Debian's suites, read without touching the host's own apt.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::interrupt::Interrupt;
use crate::process::run;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where the host has no mirror of Debian.
const MIRROR: &str = "http://deb.debian.org/debian";

/// The mirror that the host itself uses, where it is one of Debian.
pub fn mirror() -> String {
    let targets = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"];
    let said = Command::new("apt-get").args(targets).output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let lines = said.unwrap_or_default();
    let mut lines = lines.lines().map(|line| line.trim_end_matches('/'));
    lines.find(|line| line.ends_with("/debian")).unwrap_or(MIRROR).to_owned()
}

/// One suite, with an index and a cache of its own.
pub struct Suite {
    directory: PathBuf,
}

impl Suite {
    pub fn open(name: &str, cache: &Path, interrupt: &Interrupt) -> Result<Self> {
        let directory = cache.join("apt").join(name);
        for below in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(below)).context("a directory for apt")?;
        }
        let source = format!("deb [signed-by={KEYRING}] {} {name} main\n", mirror());
        fs::write(directory.join("sources.list"), source).context("sources.list")?;
        fs::write(directory.join("status"), "").context("status")?;
        let suite = Suite { directory };
        run(suite.apt("apt-get").args(["-q", "update"]), interrupt)?;
        Ok(suite)
    }

    /// What a package that depends on one other depends on.
    pub fn dependency(&self, package: &str) -> Result<String> {
        let output = self.apt("apt-cache").args(["depends", package]).output();
        let said = output.context("apt-cache")?.stdout;
        let said = String::from_utf8_lossy(&said);
        let depends = said.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(depends.with_context(|| format!("{package} depends on nothing"))?.to_owned())
    }

    /// Unpacks a package below `directory`; nothing of it is run.
    pub fn unpack(&self, package: &str, directory: &Path, interrupt: &Interrupt) -> Result<()> {
        let downloads = tempfile::tempdir_in(&self.directory).context("a directory for apt")?;
        let mut download = self.apt("apt-get");
        download.args(["-q", "download", package]).current_dir(downloads.path());
        run(&mut download, interrupt)?;
        let mut files = fs::read_dir(downloads.path()).context("downloads")?.flatten();
        let file = files.next().with_context(|| format!("{package}: not downloaded"))?.path();
        run(Command::new("dpkg-deb").arg("--extract").arg(file).arg(directory), interrupt)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let set = |key: &str, path: &str| format!("{key}={}", self.directory.join(path).display());
        for (key, path) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::State", ""),
            ("Dir::State::lists", "lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
        ] {
            command.args(["-o", &set(key, path)]);
        }
        // Everything stands in a directory of root's.
        command.args(["-o", "Dir::Etc::sourceparts=/dev/null", "-o", "APT::Sandbox::User=root"]);
        // What catalogues of applications and translators want, where the host's apt asks for it.
        command.args(["-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]);
        command.args(["-o", "Acquire::Languages=none"]);
        command
    }
}
