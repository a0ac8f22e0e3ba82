//! Processes that hang.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::until;

const LIMIT: Duration = Duration::from_secs(20);

/// Stops a process (SIGSTOP) and waits until none of its threads runs any more: the signal reaches
/// each at its own time, and what one does until then would be left half done.
///
/// # Panics
/// When there is no such process, or it does not stop in time.
pub async fn hang(process: i32) -> Pid {
    let pid = Pid::from_raw(process);
    kill(pid, Signal::SIGSTOP).expect("it is running");
    until("a stopped process", LIMIT, async || is_stopped(pid).then_some(())).await;
    pid
}

/// State `T` of all threads (proc_pid_stat(5)).
fn is_stopped(pid: Pid) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it is there");
    let stat = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("stat")));
    // The name, which stands before the state in parentheses, may hold anything.
    stat.flatten().all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
}
