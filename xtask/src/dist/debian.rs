//! The Debian package. dpkg-deb makes it; what is in it is in `files.rs` and deploy/debian.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::files::{Files, put};
use super::{epoch, output};
use crate::process::root;

/// Scripts of deploy/debian.
const SCRIPTS: [&str; 4] = ["preinst", "postinst", "prerm", "postrm"];

pub struct Debian {
    pub version: String,
    pub compression: Compression,
}

#[derive(Clone, Copy)]
pub enum Compression {
    Xz,
    /// For machines that unpack it slowly, and once.
    Nothing,
}

impl Debian {
    /// Its path.
    pub fn build(&self, files: &Files, target: &Path) -> Result<PathBuf> {
        let stage = tempfile::tempdir().context("a directory for the package")?;
        files.stage(stage.path())?;
        self.control(files, stage.path())?;
        plain_directories(stage.path())?;
        let package = format!("baton_{}_{}.deb", self.version, architecture()?);
        let package = target.join(package);
        let mut dpkg_deb = Command::new("dpkg-deb");
        dpkg_deb.args(["--root-owner-group", self.compression.option(), "--build"]);
        dpkg_deb.arg(stage.path()).arg(&package).env("SOURCE_DATE_EPOCH", epoch()?);
        // Several threads make other blocks.
        output(dpkg_deb.env("DPKG_DEB_THREADS_MAX", "1"))?;
        Ok(package)
    }

    fn control(&self, files: &Files, stage: &Path) -> Result<()> {
        let from = root().join("deploy/debian");
        let to = stage.join("DEBIAN");
        put(&from.join("conffiles"), &to.join("conffiles"), 0o644)?;
        for script in SCRIPTS {
            put(&from.join(script), &to.join(script), 0o755)?;
        }
        let binary = fs::read(&files.binary).context("the binary")?;
        let template = fs::read_to_string(from.join("control")).context("deploy/debian/control")?;
        let control = template
            .replace("@VERSION@", &self.version)
            .replace("@ARCHITECTURE@", &architecture()?)
            .replace("@SIZE@", &size(stage)?)
            .replace("@LIBC@", &newest_libc(&binary).context("the binary asks for no GLIBC")?);
        fs::write(to.join("control"), control).context("control")
    }
}

impl Compression {
    fn option(self) -> &'static str {
        match self {
            Compression::Xz => "-Zxz",
            Compression::Nothing => "-Znone",
        }
    }
}

fn architecture() -> Result<String> {
    Ok(output(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned())
}

/// In KiB, of what is installed.
fn size(stage: &Path) -> Result<String> {
    let mut du = Command::new("du");
    let said = output(du.args(["-sk", "--apparent-size", "--exclude=DEBIAN"]).arg(stage))?;
    Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Whatever the umask was.
fn plain_directories(stage: &Path) -> Result<()> {
    let mut find = Command::new("find");
    output(find.arg(stage).args(["-type", "d", "-exec", "chmod", "755", "{}", "+"]))?;
    Ok(())
}

/// The newest version of glibc whose symbols a program asks for.
fn newest_libc(program: &[u8]) -> Option<String> {
    const MARK: &[u8] = b"GLIBC_2.";
    let marks = program.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    let minor = |(at, _): (usize, &[u8])| -> Option<u32> {
        let digits = program[at + MARK.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        digits.map(|byte| char::from(*byte)).collect::<String>().parse().ok()
    };
    marks.filter_map(minor).max().map(|minor| format!("2.{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_is_by_number() {
        for (program, want) in [
            (&b"\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.2.5\0"[..], Some("2.34")),
            (b"GLIBC_PRIVATE", None),
            (b"GLIBC_2.", None),
        ] {
            assert_eq!(newest_libc(program).as_deref(), want);
        }
    }
}
