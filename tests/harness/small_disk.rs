//! A disk that can be full: a file system in memory, mounted where a test wants it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// In bytes: more than the files of a few certificates take.
const SIZE: usize = 1 << 20;

/// Unmounted with its handle.
#[derive(Debug)]
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// None, with the reason on stdout, where this user may not mount one.
    pub fn mount() -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("baton-disk-").tempdir().expect("temp dir");
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={SIZE}"), "tmpfs"])
            .arg(directory.path())
            .output()
            .expect("mount is installed");
        if !output.status.success() {
            println!("skipped: no mount: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(SmallDisk(directory))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Nobody can write a file any more.
    pub fn fill(&self) {
        let mut file = File::create(self.filling()).expect("a file");
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    pub fn free(&self) {
        std::fs::remove_file(self.filling()).expect("it was filled");
    }

    fn filling(&self) -> PathBuf {
        self.path().join("filling")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: baton may be about to end.
        drop(Command::new("umount").arg("--lazy").arg(self.path()).status());
    }
}
