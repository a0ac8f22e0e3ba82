//! What a program costs, with all its processes: time on a CPU, and memory, as the kernel counts them.

use std::fs::read_to_string;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process and all that descend from it.
pub fn tree(leader: u32) -> Vec<u32> {
    let mut all = vec![leader];
    let mut next = 0;
    while let Some(process) = all.get(next) {
        all.extend(children(*process));
        next += 1;
    }
    all
}

fn children(process: u32) -> Vec<u32> {
    let of_thread = |thread: u32| {
        let path = format!("/proc/{process}/task/{thread}/children");
        numbers(&read_to_string(path).unwrap_or_default())
    };
    threads(process).into_iter().flat_map(of_thread).collect()
}

fn threads(process: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Of all threads that run now: those of a proxy live as long as it does.
pub fn cpu_time(leader: u32) -> Duration {
    let of_process = |process: u32| {
        let of_thread = |thread| {
            let path = format!("/proc/{process}/task/{thread}/schedstat");
            on_cpu(&read_to_string(path).unwrap_or_default())
        };
        threads(process).into_iter().map(of_thread).sum::<Duration>()
    };
    tree(leader).into_iter().map(of_process).sum()
}

/// The first of three numbers: nanoseconds.
fn on_cpu(schedstat: &str) -> Duration {
    Duration::from_nanos(schedstat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

/// Proportional set size in KiB: pages that several processes share count once.
pub fn memory(leader: u32) -> u64 {
    let of_process = |process| {
        let path = format!("/proc/{process}/smaps_rollup");
        pss(&read_to_string(path).unwrap_or_default())
    };
    tree(leader).into_iter().map(of_process).sum()
}

fn pss(smaps_rollup: &str) -> u64 {
    let line = smaps_rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Processes by number and start, so that a number that was given anew is not taken for the old one.
pub struct Left(Vec<(u32, String)>);

impl Left {
    pub fn note(leader: u32) -> Self {
        let processes = tree(leader).into_iter();
        Left(processes.filter_map(|process| Some((process, began(process)?))).collect())
    }

    /// Ends what still runs, without asking.
    pub fn kill(&self) {
        let same = |(process, start): &&(u32, String)| began(*process).as_ref() == Some(start);
        for (process, _) in self.0.iter().filter(same) {
            let number = i32::try_from(*process).expect("process numbers are i32 in the kernel");
            // It may have ended a moment ago.
            let _ = kill(Pid::from_raw(number), Signal::SIGKILL);
        }
    }
}

/// When a process began, in ticks since the boot.
fn began(process: u32) -> Option<String> {
    start_in(&read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// The 22nd field; the second one, a name in parentheses, may have spaces in it.
fn start_in(stat: &str) -> Option<String> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(on_cpu("1500 20 3\n"), Duration::from_nanos(1500));
        assert_eq!(on_cpu(""), Duration::ZERO);
        let rollup = "55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPss:   412 kB\nPss_Dirty: 3 kB\n";
        assert_eq!(pss(rollup), 412);
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1000 2";
        assert_eq!(start_in(stat).as_deref(), Some("4711"));
    }

    #[test]
    fn a_process_has_used_time_and_memory() {
        let own = std::process::id();
        assert!(tree(own).contains(&own));
        assert!(cpu_time(own) > Duration::ZERO);
        assert!(memory(own) > 0);
    }
}
