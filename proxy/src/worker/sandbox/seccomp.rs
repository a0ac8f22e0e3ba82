//! The system calls of a worker: what tokio, the allocator and threads need, and no more. All others
//! fail with EPERM.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use crate::protocol::settings::Sandbox;

/// Whatever their arguments.
const FREE: &[libc::c_long] = &[
    // Sockets that are there, and connections to upstreams.
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // Descriptors.
    libc::SYS_close,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_ioctl,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    // The event loop.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads and time.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_membarrier,
    libc::SYS_nanosleep,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    // The process itself, to its end.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_geteuid,
    libc::SYS_getuid,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // A panic that aborts; to itself alone, as Landlock has it.
    libc::SYS_tgkill,
];

/// For static files alone. What can be opened is up to Landlock: arguments in memory are not seen here.
const FILES: &[libc::c_long] = &[libc::SYS_openat2, libc::SYS_preadv2];

/// Older names, which the C library may use on this machine.
#[cfg(target_arch = "x86_64")]
const OLD: &[libc::c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[libc::c_long] = &[];

const EXECUTABLE: u64 = libc::PROT_EXEC as u64;

/// Lets no thread make other system calls from now on.
pub fn enter(mode: Sandbox, has_files: bool) -> Result<(), Error> {
    seccompiler::apply_filter(&program(mode, has_files)?)
}

fn program(mode: Sandbox, has_files: bool) -> Result<BpfProgram, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        FREE.iter().chain(OLD).map(|&call| (call, Vec::new())).collect();
    if has_files {
        rules.extend(FILES.iter().map(|&call| (call, Vec::new())));
    }
    // TCP to upstreams: neither Docker's socket, nor the kernel's own families.
    let families = [libc::AF_INET, libc::AF_INET6];
    rules.insert(libc::SYS_socket, each(0, &families.map(|family| family as u64))?);
    // No new code.
    let data = |call| Ok::<_, Error>((call, vec![without(2, EXECUTABLE)?]));
    rules.extend([data(libc::SYS_mmap)?, data(libc::SYS_mprotect)?]);
    // Names of threads, and of memory (mimalloc).
    let names = [libc::PR_SET_NAME, libc::PR_SET_VMA].map(|option| option as u64);
    rules.insert(libc::SYS_prctl, each(0, &names)?);
    let otherwise = match mode {
        Sandbox::Log => SeccompAction::Log,
        Sandbox::Off | Sandbox::On | Sandbox::Strict => SeccompAction::Errno(libc::EPERM as u32),
    };
    let architecture = std::env::consts::ARCH.try_into().map_err(Error::Backend)?;
    let filter = SeccompFilter::new(rules, otherwise, SeccompAction::Allow, architecture);
    filter.and_then(TryInto::try_into).map_err(Error::Backend)
}

/// One of these values.
fn each(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, Error> {
    let is = |&value: &u64| {
        let condition = condition(argument, SeccompCmpOp::Eq, value)?;
        SeccompRule::new(vec![condition]).map_err(Error::Backend)
    };
    values.iter().map(is).collect()
}

/// None of these bits.
fn without(argument: u8, bits: u64) -> Result<SeccompRule, Error> {
    let condition = condition(argument, SeccompCmpOp::MaskedEq(bits), 0)?;
    SeccompRule::new(vec![condition]).map_err(Error::Backend)
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Error> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
        .map_err(Error::Backend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles() {
        let length = |has_files| program(Sandbox::On, has_files).expect("it compiles").len();
        assert!(length(false) > FREE.len());
        assert!(length(true) > length(false));
    }
}
