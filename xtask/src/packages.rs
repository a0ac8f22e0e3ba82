//! What the tests need beside Rust and a C compiler, and how Debian and Ubuntu provide it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::interrupt::Interrupt;
use crate::process::{find, run};

/// Makes sure that everything is there: by asking apt once, or by saying what to type.
pub fn ensure(need_dockerd: bool, install: bool, interrupt: &Interrupt) -> Result<()> {
    let missing = missing(need_dockerd);
    if missing.is_empty() {
        println!("nothing is missing");
        return Ok(());
    }
    let names = missing.join(" ");
    let root = nix::unistd::geteuid().is_root();
    if !install || !root || find("apt-get").is_none() {
        bail!(
            "missing; run: sudo apt-get update && sudo apt-get install -y \
             --no-install-recommends {names}"
        );
    }
    self::install(&missing, interrupt)?;
    match self::missing(need_dockerd).as_slice() {
        [] => Ok(()),
        still => bail!("installed, and still without what is expected of {}", still.join(" ")),
    }
}

/// As root, with apt.
pub fn install(packages: &[&str], interrupt: &Interrupt) -> Result<()> {
    let names = packages.join(" ");
    println!("installing {names}");
    // The index of a fresh machine is empty or old; one that cannot be renewed may still do.
    if let Err(error) = run(apt_get().arg("update"), interrupt) {
        println!("apt-get update: {error}; trying with the index that is there");
    }
    run(apt_get().args(["install", "-y", "--no-install-recommends"]).args(packages), interrupt)
        .with_context(|| format!("installing {names}"))
}

/// As long as this lives, packages that come with a service do not start it.
pub struct NoServices {
    ours: bool,
}

impl NoServices {
    /// The way that Debian has for it; one that is there already is left as it is.
    pub fn begin() -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;

        let ours = !Path::new(POLICY).exists();
        if ours {
            let mut script = std::fs::File::options();
            let script = script.write(true).create_new(true).mode(0o755).open(POLICY);
            script.and_then(|mut file| file.write_all(b"#!/bin/sh\nexit 101\n")).context(POLICY)?;
        }
        Ok(NoServices { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            // What was written there a moment ago; nothing could be done about an error.
            let _ = std::fs::remove_file(POLICY);
        }
    }
}

/// Asked before a package starts a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Whether apt knows a package, as far as its index goes.
pub fn offered(package: &str) -> bool {
    let shown = Command::new("apt-cache").args(["show", package]).output();
    shown.is_ok_and(|output| output.status.success())
}

/// No program: it is preloaded.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// Modules of Debian's own Python, whichever else is first in the path.
const GRPCIO: &str = "/usr/lib/python3/dist-packages/grpc";

/// Packages, each once.
fn missing(need_dockerd: bool) -> Vec<&'static str> {
    let without = |program, package| find(program).is_none().then_some(package);
    let docker = without("docker", "docker.io");
    let dockerd = without("dockerd", "docker.io").filter(|_| need_dockerd);
    let busybox = find("busybox").is_none_or(|path| !is_static(path)).then_some("busybox-static");
    let rest = [
        without("curl", "curl"),
        without("openssl", "openssl"),
        without("h2load", "nghttp2-client"),
        without("ip", "iproute2"),
        without("pebble", "pebble"),
        without("knotd", "knot"),
        without("kdig", "knot-dnsutils"),
        without("systemd-analyze", "systemd"),
        without("git", "git"),
        without("chromium", "chromium"),
        without("chromedriver", "chromium-driver"),
        without("protoc", "protobuf-compiler"),
        without("grpc_python_plugin", "protobuf-compiler-grpc"),
    ];
    let grpcio = (!Path::new(GRPCIO).exists()).then_some("python3-grpcio");
    let faketime = (!Path::new(FAKETIME).exists()).then_some("libfaketime");
    [docker.or(dockerd), busybox, faketime, grpcio].into_iter().chain(rest).flatten().collect()
}

/// Images are made of this one file: it must need no library. A file that names a dynamic loader
/// does.
fn is_static(program: PathBuf) -> bool {
    const LOADER: &[u8] = b"/ld-linux";
    std::fs::read(program)
        .is_ok_and(|bytes| !bytes.windows(LOADER.len()).any(|window| window == LOADER))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
    command
}
