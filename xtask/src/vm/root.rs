//! The root file system of a machine: Debian's packages, and one unit that runs the scenarios.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::debian::mirror;
use crate::interrupt::Interrupt;
use crate::process::run;

/// Of every root.
const PACKAGES: &str = "systemd,systemd-sysv,udev,dbus,docker.io,iptables,curl,procps,iproute2,kmod,jq,\
     passwd";

/// For deploy/ansible and the stack that it replaces, and for who refuses what modes allow; these take as long
/// to install as all others.
const MORE: &str = "ansible-core,python3-apt,openssl,apparmor,secilc";

/// Nobody reads them. (Manual pages stay: baton's are counted.)
const LEFT_OUT: [&str; 3] = ["doc", "info", "locale"];

/// Brings the scenarios along on the third disk.
const UNIT: &str = "\
[Unit]
Description=scenarios of tests/vm
After=multi-user.target docker.service
Wants=docker.service
[Service]
Type=exec
Environment=HOME=/root
ExecStart=/bin/sh -c 'mkdir -p /run/payload && tar -xf /dev/vdc -C /run/payload && exec /run/payload/scenarios.sh'
FailureAction=poweroff
[Install]
WantedBy=default.target
";

/// What no scenario needs and what takes seconds in an emulated machine.
const MASKED: [&str; 14] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "modprobe@dm_mod.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "proc-sys-fs-binfmt_misc.automount",
    "serial-getty@ttyS0.service",
    "systemd-networkd-wait-online.service",
];

/// Docker's rules for the firewall are many programs, one after the other, and no scenario publishes a
/// port of a container.
const DOCKER: &str = r#"{ "iptables": false, "ip6tables": false }"#;

/// An image, made once and never written to by a machine.
pub fn provide(suite: &str, all: bool, cache: &Path, interrupt: &Interrupt) -> Result<PathBuf> {
    let packages = packages(suite, all);
    let made_of =
        Sha256::digest([&packages, UNIT, DOCKER, &MASKED.concat(), &LEFT_OUT.concat()].concat());
    let to = cache.join(format!("root-{suite}-{:02x}{:02x}.ext4", made_of[0], made_of[1]));
    if !to.exists() {
        make(suite, &packages, &to, cache, interrupt)
            .with_context(|| format!("a root of {suite}"))?;
    }
    Ok(to)
}

fn packages(suite: &str, all: bool) -> String {
    let newer = suite == "trixie";
    // Its docker.io brings no `docker`.
    let docker = if newer { ",docker-cli" } else { "" };
    let more = if all { format!(",{MORE}") } else { String::new() };
    let podman = if all && newer { ",podman,netavark,nftables" } else { "" };
    format!("{PACKAGES}{docker}{more}{podman}")
}

fn make(suite: &str, packages: &str, to: &Path, cache: &Path, interrupt: &Interrupt) -> Result<()> {
    println!("\n=== making a root file system of Debian {suite}");
    let directory = tempfile::tempdir_in(cache).context("a directory for the root")?;
    let root = directory.path().join("root");
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .args(["--variant=minbase", "--mode=root", "--include", packages])
        .args(["--aptopt=APT::Install-Recommends \"false\"", "--dpkgopt=force-unsafe-io"]);
    for name in LEFT_OUT {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{name}/*"));
    }
    run(mmdebstrap.arg(suite).arg(&root).arg(mirror()), interrupt)?;
    configure(&root).context("the root's own files")?;
    image(&root, to, "3G", interrupt)?;
    // Nobody waits for it: a disk that is told of each file that goes takes half a minute.
    let mut remove = Command::new("sh");
    run(remove.args(["-c", "rm -rf \"$0\" &"]).arg(directory.keep()), interrupt)
}

fn configure(root: &Path) -> std::io::Result<()> {
    let units = root.join("etc/systemd/system");
    fs::write(units.join("baton-scenarios.service"), UNIT)?;
    fs::create_dir_all(units.join("default.target.wants"))?;
    let link = |to: &str, from: PathBuf| std::os::unix::fs::symlink(to, from);
    link(
        "/etc/systemd/system/baton-scenarios.service",
        units.join("default.target.wants/baton-scenarios.service"),
    )?;
    for unit in MASKED {
        let _ = fs::remove_file(units.join(unit));
        link("/dev/null", units.join(unit))?;
    }
    fs::create_dir_all(root.join("etc/docker"))?;
    fs::write(root.join("etc/docker/daemon.json"), DOCKER)?;
    fs::create_dir_all(root.join("usr/lib/modules"))?;
    fs::write(root.join("etc/hostname"), "vm\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost vm\n")
}

/// A file system with what is in `directory`. Without a journal: a machine that is cut off takes it along.
pub fn image(directory: &Path, to: &Path, size: &str, interrupt: &Interrupt) -> Result<()> {
    let made = to.with_extension("part");
    let mut mke2fs = Command::new("mke2fs");
    mke2fs
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"])
        .arg(directory)
        .arg(&made)
        .arg(size);
    run(&mut mke2fs, interrupt)?;
    fs::rename(made, to).with_context(|| to.display().to_string())
}
