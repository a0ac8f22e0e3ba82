//! The tarball, for hosts without dpkg: the same tree, to be unpacked at /.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::files::Files;
use super::{epoch, output};

/// Its path.
pub fn build(files: &Files, version: &str, target: &Path) -> Result<PathBuf> {
    let name = format!("baton-{version}-linux-{}", std::env::consts::ARCH);
    let stage = tempfile::tempdir().context("a directory for the tarball")?;
    files.stage(&stage.path().join(&name))?;
    let tarball = target.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--format=gnu", "--numeric-owner"])
        .args(["--owner=0", "--group=0", "--mode=u+rwX,go+rX,go-w"])
        .arg(format!("--mtime=@{}", epoch()?))
        .args(["--use-compress-program", "gzip -9n"])
        .arg("--file")
        .arg(&tarball)
        .arg("--directory")
        .arg(stage.path())
        .arg(&name);
    output(&mut tar)?;
    Ok(tarball)
}
