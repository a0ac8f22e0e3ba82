//! Loads the selector into the kernel, and says in plain words why it cannot be.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::Map;
use aya::programs::{ProgramError, SkReuseport};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfError, EbpfLoader};
use nix::errno::Errno;

use super::parts::{Incompatible, Parts};
use super::{Selector, errno};
use crate::sys;

/// Built by `cargo xtask ebpf` from the sources in `ebpf/`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../ebpf/selector.o");

/// The first with BPF_SK_REUSEPORT_SELECT_OR_MIGRATE.
const OLDEST: KernelVersion = KernelVersion::new(5, 14, 0);

/// Why there is no selector, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error(
        "the kernel does not let us load eBPF: give CAP_BPF (systemd: \
        AmbientCapabilities=CAP_BPF; Docker: --cap-add BPF); where baton has that, SELinux or \
        AppArmor refuses it: see `journalctl -k`"
    )]
    NotPermitted,
    #[error(
        "SELinux or AppArmor refuses eBPF: see `journalctl -k` for the rule to change (SELinux: \
        class bpf)"
    )]
    RefusedByPolicy,
    #[error("kernel {release} does not migrate connections between listeners: use 5.14 or later")]
    KernelTooOld { release: String },
    #[error("this kernel has no eBPF: use one with CONFIG_BPF_SYSCALL and CONFIG_INET")]
    NoEbpf,
    #[error(
        "the kernel refuses the selector: {reason}: please report this, with the kernel's \
        version"
    )]
    Refused { reason: String },
}

pub(super) fn load() -> Result<Selector, Unavailable> {
    load_program().map_err(|error| explain(&error))
}

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("{0}")]
    Ebpf(#[from] EbpfError),
    #[error("{0}")]
    Program(#[from] ProgramError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Incompatible(#[from] Incompatible),
    #[error("the object has no {0}")]
    Lacks(&'static str),
}

fn load_program() -> Result<Selector, LoadError> {
    // No type information of the kernel is needed.
    let mut ebpf = EbpfLoader::new().btf(None).load(OBJECT)?;
    // The loader has read it all the same when it was made: 30 MiB, free since.
    sys::give_back_memory();
    let program = program(&mut ebpf).ok_or(LoadError::Lacks("program"))?;
    program.load()?;
    let program = program.fd()?.as_fd().try_clone_to_owned()?;
    let parts = Parts {
        layout: baton_layout::VERSION,
        steering: map(&mut ebpf, "STEERING")?,
        addresses: map(&mut ebpf, "ADDRESSES")?,
        sockets: map(&mut ebpf, "SOCKETS")?,
        counters: map(&mut ebpf, "COUNTERS")?,
        program,
    };
    Ok(Selector::from_parts(parts)?)
}

/// The one program of the object.
fn program(ebpf: &mut Ebpf) -> Option<&mut SkReuseport> {
    ebpf.program_mut("select")?.try_into().ok()
}

fn map(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, LoadError> {
    match ebpf.take_map(name) {
        Some(
            Map::Array(data)
            | Map::HashMap(data)
            | Map::ReusePortSockArray(data)
            | Map::PerCpuArray(data),
        ) => Ok(data.fd().as_fd().try_clone_to_owned()?),
        _ => Err(LoadError::Lacks(name)),
    }
}

fn explain(error: &LoadError) -> Unavailable {
    match errno(error) {
        Some(Errno::EPERM) => return Unavailable::NotPermitted,
        // Of a security module, or of the verifier, which says what it has against a program.
        Some(Errno::EACCES) if !is_of_verifier(error) => return Unavailable::RefusedByPolicy,
        Some(Errno::ENOSYS) => return Unavailable::NoEbpf,
        _ => {}
    }
    // Some distributions' kernels do more than their number says: it explains, it does not decide.
    match KernelVersion::current() {
        Ok(version) if version < OLDEST => Unavailable::KernelTooOld { release: release() },
        _ => Unavailable::Refused { reason: reason(error) },
    }
}

fn is_of_verifier(error: &LoadError) -> bool {
    let LoadError::Program(ProgramError::LoadError { verifier_log, .. }) = error else {
        return false;
    };
    !verifier_log.to_string().trim().is_empty()
}

/// Of a refusal by the verifier the line that matters: the last one before the statistics.
fn reason(error: &LoadError) -> String {
    let LoadError::Program(ProgramError::LoadError { io_error, verifier_log }) = error else {
        return chain(error);
    };
    let log = verifier_log.to_string();
    let is_statistic = |line: &&str| {
        ["processed ", "verification time ", "stack depth "].iter().any(|s| line.starts_with(s))
    };
    match log
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .rfind(|line| !is_statistic(line))
    {
        Some(line) => format!("{io_error}: {line}"),
        None => io_error.to_string(),
    }
}

/// Not every error of aya says its cause.
fn chain(error: &LoadError) -> String {
    let top: &dyn std::error::Error = error;
    let mut text = top.to_string();
    for cause in std::iter::successors(top.source(), |cause| cause.source()) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::maps::MapError;

    fn map_refused(errno: Errno) -> LoadError {
        let io_error = io::Error::from(errno);
        let error = MapError::CreateError { name: "SOCKETS".into(), io_error };
        LoadError::Ebpf(error.into())
    }

    #[test]
    fn refusals_say_what_to_do() {
        for (errno, want) in [
            (
                Errno::EPERM,
                "the kernel does not let us load eBPF: give CAP_BPF (systemd: \
                 AmbientCapabilities=CAP_BPF; Docker: --cap-add BPF); where baton has that, SELinux or \
                 AppArmor refuses it: see `journalctl -k`",
            ),
            (
                Errno::EACCES,
                "SELinux or AppArmor refuses eBPF: see `journalctl -k` for the rule to change \
                 (SELinux: class bpf)",
            ),
            (
                Errno::ENOSYS,
                "this kernel has no eBPF: use one with CONFIG_BPF_SYSCALL and CONFIG_INET",
            ),
        ] {
            assert_eq!(explain(&map_refused(errno)).to_string(), want);
        }
    }

    #[test]
    fn the_cause_is_named_once() {
        assert_eq!(
            chain(&map_refused(Errno::ENOMEM)),
            "map error: failed to create map `SOCKETS`: Cannot allocate memory (os error 12)"
        );
    }
}
