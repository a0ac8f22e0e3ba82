//! What a process holds of memory, as the kernel counts it.

/// Resident, in bytes.
pub fn resident(pid: i32) -> u64 {
    field(pid, "VmRSS:")
}

/// The most that was resident since the start or [`reset_peak`], in bytes.
pub fn peak(pid: i32) -> u64 {
    field(pid, "VmHWM:")
}

/// Counts the peak anew (Linux 4.0; the process's own user or root).
pub fn reset_peak(pid: i32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the process is ours");
}

fn field(pid: i32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it is running");
    let value = status.lines().find_map(|line| line.strip_prefix(name)).expect("a kernel field");
    let kib: u64 = value.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib * 1024
}
