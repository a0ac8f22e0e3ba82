//! A control group with little memory (cgroups(7)).

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// Removed with its handle, once nobody is in it.
#[derive(Debug)]
pub struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// None, with the reason on stdout, where this user may not make one.
    pub fn with(bytes: u64) -> Option<Self> {
        let is_v2 = Path::new(ROOT).join("cgroup.controllers").exists();
        let (parent, limit) = match is_v2 {
            true => (PathBuf::from(ROOT), "memory.max"),
            false => (Path::new(ROOT).join("memory"), "memory.limit_in_bytes"),
        };
        let group = MemoryGroup(parent.join(format!("baton-test-{}", std::process::id())));
        let made = fs::create_dir_all(&group.0)
            .and_then(|()| fs::write(group.0.join(limit), bytes.to_string()));
        match made {
            Ok(()) => Some(group),
            Err(error) => {
                println!("skipped: no control group: {}: {error}", group.0.display());
                None
            }
        }
    }

    /// What this process allocates from now on, and those that it starts, count.
    pub fn take(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("a process that is there");
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // It may have a process that is about to end.
        let parent = self.0.parent().expect("it has one").join("cgroup.procs");
        let left = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        left.lines().for_each(|pid| drop(fs::write(&parent, pid)));
        drop(fs::remove_dir(&self.0));
    }
}
