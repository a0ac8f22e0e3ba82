//! What is installed, and where: one list, for the package and the tarball.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::output;
use crate::process::root;

/// From the sources, and where to.
const FROM_SOURCES: [(&str, &str); 10] = [
    ("deploy/systemd/baton.service", "usr/lib/systemd/system/baton.service"),
    ("deploy/systemd/stop", "usr/lib/baton/stop"),
    ("deploy/systemd/baton.sysusers", "usr/lib/sysusers.d/baton.conf"),
    ("deploy/baton.toml", "etc/baton/baton.toml"),
    ("deploy/debian/copyright", "usr/share/doc/baton/copyright"),
    ("LICENSE-MIT", "usr/share/doc/baton/LICENSE-MIT"),
    ("LICENSE-APACHE", "usr/share/doc/baton/LICENSE-APACHE"),
    ("deploy/grafana/baton.json", "usr/share/doc/baton/examples/grafana.json"),
    ("deploy/prometheus/alerts.yml", "usr/share/doc/baton/examples/prometheus-alerts.yml"),
    ("CHANGELOG.md", "usr/share/doc/baton/CHANGELOG.md"),
];
/// Of the completions that the binary writes.
const COMPLETIONS: [(&str, &str); 3] = [
    ("baton.bash", "usr/share/bash-completion/completions/baton"),
    ("_baton", "usr/share/zsh/vendor-completions/_baton"),
    ("baton.fish", "usr/share/fish/vendor_completions.d/baton.fish"),
];

pub struct Files {
    pub binary: PathBuf,
    /// Made by the binary.
    manual: TempDir,
}

impl Files {
    pub fn of(binary: &Path) -> Result<Self> {
        let manual = tempfile::tempdir().context("a directory for the manual")?;
        output(Command::new(binary).arg("manual").arg(manual.path()))?;
        let binary = binary.to_owned();
        Ok(Files { binary, manual })
    }

    /// Copies all of it below `directory`, as it is installed.
    pub fn stage(&self, directory: &Path) -> Result<()> {
        put(&self.binary, &directory.join("usr/bin/baton"), 0o755)?;
        for (from, to) in FROM_SOURCES {
            put(&root().join(from), &directory.join(to), 0o644)?;
        }
        for (from, to) in COMPLETIONS {
            let from = self.manual.path().join("completions").join(from);
            put(&from, &directory.join(to), 0o644)?;
        }
        self.stage_pages(&directory.join("usr/share/man/man1"))
    }

    fn stage_pages(&self, directory: &Path) -> Result<()> {
        let pages = self.manual.path().join("man");
        for page in fs::read_dir(&pages).context("man pages")?.flatten() {
            let to = directory.join(page.file_name());
            put(&page.path(), &to, 0o644)?;
            output(Command::new("gzip").args(["-9n", "--"]).arg(&to))?;
        }
        Ok(())
    }
}

/// A copy with these rights, whatever the umask and the rights of the original.
pub fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let parent = to.parent().context("a file has a directory")?;
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    fs::set_permissions(to, Permissions::from_mode(mode)).with_context(|| to.display().to_string())
}
