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

/// Its share of what it maps, in bytes: a page that several processes map counts in parts (PSS, Linux
/// 4.14).
pub fn proportional(pid: i32) -> u64 {
    kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

fn field(pid: i32, name: &str) -> u64 {
    kib(&format!("/proc/{pid}/status"), name)
}

fn kib(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).expect("it is running");
    let value = text.lines().find_map(|line| line.strip_prefix(name)).expect("a kernel field");
    let kib: u64 = value.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib * 1024
}

/// Its open descriptors.
pub fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it is running").count()
}
