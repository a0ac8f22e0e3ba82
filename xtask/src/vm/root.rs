//! The root file system of a machine: Debian's packages, and one unit that runs the scenarios.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::debian::mirror;
use crate::interrupt::Interrupt;
use crate::process::run;

/// ansible-core is for deploy/ansible, busybox for its image.
const PACKAGES: &str = "systemd,systemd-sysv,udev,dbus,docker.io,iptables,curl,procps,iproute2,kmod,\
     busybox-static,ansible-core,python3-apt,ca-certificates,passwd,openssl";

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
const MASKED: [&str; 6] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty@tty1.service",
    "systemd-networkd-wait-online.service",
];

/// An image, made once and never written to by a machine.
pub fn provide(suite: &str, cache: &Path, interrupt: &Interrupt) -> Result<PathBuf> {
    let made_of = Sha256::digest([&packages(suite), UNIT, &MASKED.concat()].concat());
    let to = cache.join(format!("root-{suite}-{:02x}{:02x}.ext4", made_of[0], made_of[1]));
    if !to.exists() {
        make(suite, &to, cache, interrupt).with_context(|| format!("a root of {suite}"))?;
    }
    Ok(to)
}

fn packages(suite: &str) -> String {
    match suite {
        // Its docker.io brings no `docker`.
        "trixie" => format!("{PACKAGES},docker-cli"),
        _ => PACKAGES.to_owned(),
    }
}

fn make(suite: &str, to: &Path, cache: &Path, interrupt: &Interrupt) -> Result<()> {
    println!("\n=== making a root file system of Debian {suite}");
    let directory = tempfile::tempdir_in(cache).context("a directory for the root")?;
    let root = directory.path().join("root");
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .args(["--variant=minbase", "--mode=root", "--include", &packages(suite)])
        .args(["--aptopt=APT::Install-Recommends \"false\"", suite])
        .arg(&root)
        .arg(mirror());
    run(&mut mmdebstrap, interrupt)?;
    configure(&root).context("the root's own files")?;
    image(&root, to, "3G", interrupt)
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
    fs::create_dir_all(root.join("usr/lib/modules"))?;
    fs::write(root.join("etc/hostname"), "vm\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost vm\n")
}

/// A file system with what is in `directory`.
pub fn image(directory: &Path, to: &Path, size: &str, interrupt: &Interrupt) -> Result<()> {
    let made = to.with_extension("part");
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-d"]).arg(directory).arg(&made).arg(size);
    run(&mut mke2fs, interrupt)?;
    fs::rename(made, to).with_context(|| to.display().to_string())
}
