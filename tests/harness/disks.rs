//! Disks on bad days: one that can be full, a file system in memory, and one that can cease to answer, a
//! file system in a file.

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

/// In bytes: the least that ext4 takes, and some more.
const FILE_SIZE: u64 = 16 << 20;

/// Unmounted with its handle.
#[derive(Debug)]
pub struct SlowDisk {
    mounted: TempDir,
    _file: TempDir,
}

impl SlowDisk {
    /// None, with the reason on stdout, where this user may not mount one.
    pub fn mount() -> Option<Self> {
        let directory = || tempfile::Builder::new().prefix("baton-disk-").tempdir();
        let (file, mounted) = (directory().expect("temp dir"), directory().expect("temp dir"));
        let image = file.path().join("image");
        File::create(&image).and_then(|image| image.set_len(FILE_SIZE)).expect("an image");
        let made = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&image).status();
        assert!(made.expect("e2fsprogs are installed").success());
        let mut mount = Command::new("mount");
        let output = mount.args(["-o", "loop"]).arg(&image).arg(mounted.path()).output();
        let output = output.expect("mount is installed");
        if !output.status.success() {
            println!("skipped: no loop device: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(SlowDisk { mounted, _file: file })
    }

    pub fn path(&self) -> &Path {
        self.mounted.path()
    }

    /// Every write waits, until [`SlowDisk::thaw`].
    pub fn freeze(&self) {
        self.fsfreeze("--freeze");
    }

    pub fn thaw(&self) {
        self.fsfreeze("--unfreeze");
    }

    fn fsfreeze(&self, what: &str) {
        let status = Command::new("fsfreeze").arg(what).arg(self.path()).status();
        assert!(status.expect("util-linux is installed").success());
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // One that is frozen still, of a test that failed, could not be unmounted.
        drop(Command::new("fsfreeze").arg("--unfreeze").arg(self.path()).output());
        drop(Command::new("umount").arg("--lazy").arg(self.path()).status());
    }
}
