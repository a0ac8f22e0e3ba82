//! How near this process is to the memory that its control group may have: whoever goes beyond it is
//! killed with all its connections, so that new work is refused before.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

/// Between two looks, and where it could come to the limit before the next one. A thread that only reads
/// fills some 300 MiB a second.
const PERIOD: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_millis(10);
/// Of the limit, in percent: from here on it is looked at more often.
const NEAR: u64 = 60;
/// Of the limit, in percent: from here on there is too little, and there is enough again below.
const SHORT: u64 = 90;
const ENOUGH: u64 = 85;
/// Longest memory.stat that is read, in bytes: it is of some 2 KiB.
const MAX_STAT: usize = 16 << 10;

/// A version of control groups (cgroups(7)).
struct Version {
    /// Begins the line of /proc/self/cgroup, up to the path.
    line: fn(&str) -> Option<&str>,
    root: &'static str,
    limit: &'static str,
    /// Of memory.stat: what cannot be given back. Files in memory can.
    used: &'static [&'static str],
}

const VERSIONS: [Version; 2] = [
    Version {
        line: |line| line.strip_prefix("0::"),
        root: "/sys/fs/cgroup",
        limit: "memory.max",
        used: &["anon", "kernel_stack", "slab_unreclaimable", "sock"],
    },
    Version {
        line: |line| Some(line.split_once(":memory:")?.1),
        root: "/sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        used: &["total_rss"],
    },
];

/// The group with the least memory among that of this process and those around it.
#[derive(Debug)]
pub struct Gauge {
    /// Opened before the sandbox, in which nothing is.
    stat: File,
    used: &'static [&'static str],
    limit: u64,
}

impl Gauge {
    /// `None` where nobody has set a limit.
    pub fn open() -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let gauges = VERSIONS.iter().filter_map(|version| {
            let path = groups.lines().find_map(version.line)?;
            tightest(version, Path::new(version.root), path)
        });
        gauges.min_by_key(|gauge| gauge.limit)
    }

    fn used(&self) -> io::Result<u64> {
        let mut text = vec![0; MAX_STAT];
        let length = self.stat.read_at(&mut text, 0)?;
        Ok(sum(&String::from_utf8_lossy(&text[..length]), self.used))
    }
}

fn tightest(version: &Version, root: &Path, path: &str) -> Option<Gauge> {
    // In a container the path may be that of outside, and the root its own group.
    let own = Some(root.join(path.trim_start_matches('/'))).filter(|own| own.is_dir());
    let own = own.unwrap_or_else(|| root.to_owned());
    let limited = own.ancestors().take_while(|group| group.starts_with(root)).filter_map(|group| {
        let limit = limit(&fs::read_to_string(group.join(version.limit)).ok()?)?;
        Some((limit, group.to_owned()))
    });
    let (limit, group): (u64, PathBuf) = limited.min()?;
    let stat = File::open(group.join("memory.stat")).ok()?;
    Some(Gauge { stat, used: version.used, limit })
}

/// `max`, or as much as there can be, is none.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < 1 << 60)
}

fn sum(stat: &str, names: &[&str]) -> u64 {
    let lines = stat.lines().filter_map(|line| line.split_once(' '));
    lines.filter(|(name, _)| names.contains(name)).filter_map(|(_, n)| n.parse::<u64>().ok()).sum()
}

fn is_short(before: bool, used: u64, limit: u64) -> bool {
    percent(used, limit) >= if before { ENOUGH } else { SHORT }
}

fn percent(used: u64, limit: u64) -> u64 {
    used.saturating_mul(100) / limit.max(1)
}

/// Says on `short` whether there is too little, for as long as anybody listens.
pub async fn watch(gauge: Gauge, short: watch::Sender<bool>) {
    while !short.is_closed() {
        let used = match gauge.used() {
            Ok(used) => used,
            Err(error) => {
                short.send_replace(false);
                return tracing::warn!(%error, "the memory of the control group is not watched");
            }
        };
        let changed = short.send_if_modified(|short| {
            let before = std::mem::replace(short, is_short(*short, used, gauge.limit));
            before != *short
        });
        if changed {
            tell(*short.borrow(), used >> 20, gauge.limit >> 20);
        }
        sleep(if percent(used, gauge.limit) < NEAR { PERIOD } else { SOON }).await;
    }
}

fn tell(is_short: bool, used: u64, limit: u64) {
    if is_short {
        tracing::error!(
            "{used} of {limit} MiB are used: new connections wait and requests get 503 (raise MemoryMax, or \
             lower limits.connections)"
        );
    } else {
        tracing::info!("{used} of {limit} MiB are used: all are served again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_and_what_is_enough() {
        for (before, used, want) in [
            (false, 0, false),
            (false, 899, false),
            (false, 900, true),
            (true, 850, true),
            (true, 849, false),
            (false, u64::MAX, true),
        ] {
            assert_eq!(is_short(before, used, 1000), want, "{before} {used}");
        }
    }

    #[test]
    fn the_group_with_the_least_memory_counts() {
        let root = tempfile::tempdir().expect("temp dir");
        let group = |path: &str, limit: &str, anon: u64| {
            let group = root.path().join(path);
            fs::create_dir_all(&group).expect("a group");
            fs::write(group.join("memory.max"), limit).expect("its limit");
            let stat = format!("anon {anon}\nfile 7000\nsock 1\nanon_thp 3\n");
            fs::write(group.join("memory.stat"), stat).expect("its memory");
        };
        group("a", "2000\n", 20);
        group("a/b", "1000\n", 10);
        group("a/b/c", "max\n", 1);
        group("none", "max\n", 1);
        for (path, want) in [
            ("/a/b/c", Some((1000, 11))),
            ("/a", Some((2000, 21))),
            ("/none", None),
            ("/that/of/outside", None),
        ] {
            let gauge = tightest(&VERSIONS[0], root.path(), path);
            let found = gauge.map(|gauge| (gauge.limit, gauge.used().expect("memory.stat")));
            assert_eq!(found, want, "{path}");
        }
    }

    #[test]
    fn lines_of_both_versions() {
        let text = "9:name=systemd:/\n4:memory:/app/x\n0::/system.slice/baton.service\n";
        let found = VERSIONS.map(|version| text.lines().find_map(version.line));
        assert_eq!(found, [Some("/system.slice/baton.service"), Some("/app/x")]);
        assert_eq!(
            (limit("max\n"), limit("9223372036854771712\n"), limit("5\n")),
            (None, None, Some(5))
        );
    }
}
