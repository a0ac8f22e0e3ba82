//! What a developer types: `cargo xtask COMMAND`. The one place for automation.

mod audit;
mod bench;
mod dist;
mod dockerd;
mod ebpf;
mod fuzz;
mod interrupt;
mod packages;
mod process;
mod soak;
mod steps;
mod test;
mod tool;
mod vm;

use std::process::ExitCode;

use clap::Parser;

/// What a developer types.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Xtask {
    /// Formatting, clippy, unit tests, and the black-box tests of the built binary.
    Test(test::Options),
    /// Handoffs at length, under load: what clients feel, what the kernel counts, what it costs.
    Soak(soak::Options),
    /// The same work through baton and through nginx, HAProxy, H2O and Caddy, in turns.
    Bench(bench::Options),
    /// Compiles the selector that runs in the kernel, into the tree.
    Ebpf(ebpf::Options),
    /// What people install: a Debian package, a tarball, their sums.
    Dist(dist::Options),
    /// The package under a real systemd: in virtual machines with Debian's kernels.
    Vm(vm::Options),
    /// Searches for inputs that break what is claimed of parsers; installs what it needs for that.
    Fuzz(fuzz::Options),
    /// Licences, bans and sources of all dependencies; advisories where their database can be reached.
    Audit(audit::Options),
}

fn main() -> ExitCode {
    let result = match Xtask::parse() {
        Xtask::Test(options) => test::test(&options),
        Xtask::Soak(options) => soak::soak(&options),
        Xtask::Bench(options) => bench::bench(&options),
        Xtask::Ebpf(options) => ebpf::ebpf(&options),
        Xtask::Dist(options) => dist::dist(&options),
        Xtask::Vm(options) => vm::vm(&options),
        Xtask::Fuzz(options) => fuzz::fuzz(&options),
        Xtask::Audit(options) => audit::audit(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
