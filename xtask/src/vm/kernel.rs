//! Debian's cloud kernels: the kernel itself, what it needs until it has a root, and its modules.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::debian::Suite;
use super::root::image;
use crate::interrupt::Interrupt;
use crate::process::{find, run};

pub struct Kernel {
    pub name: &'static str,
    /// Whose kernel it is.
    suite: &'static str,
    /// Its package, or [`NEWEST`].
    package: &'static str,
    /// Whose programs run on it.
    pub userland: &'static str,
    pub security: SecurityModule,
}

/// Who else refuses, beside the modes of files: one of them at a time.
#[derive(Clone, Copy)]
pub enum SecurityModule {
    AppArmor,
    Selinux,
}

/// The newest of a suite.
const NEWEST: &str = "linux-image-cloud-amd64";

/// The first one is tried where nobody says otherwise.
pub const KERNELS: [Kernel; 5] = [
    bookworm("6.1"),
    Kernel { suite: "trixie", userland: "trixie", ..bookworm("6.12") },
    Kernel { suite: "bookworm-backports", ..bookworm("6.12-backports") },
    // The last that Debian has from before migrated connections wake epoll: 6.1.176 and 6.12.95 do that.
    Kernel {
        package: "linux-image-6.1.0-47-cloud-amd64",
        security: SecurityModule::Selinux,
        ..bookworm("6.1.170")
    },
    // Without migration: `handoff = "auto"` is inherit there.
    Kernel { suite: "bullseye", ..bookworm("5.10") },
];
pub const NAMES: [&str; 5] =
    [KERNELS[0].name, KERNELS[1].name, KERNELS[2].name, KERNELS[3].name, KERNELS[4].name];

const fn bookworm(name: &'static str) -> Kernel {
    Kernel {
        name,
        suite: "bookworm",
        package: NEWEST,
        userland: "bookworm",
        security: SecurityModule::AppArmor,
    }
}

/// What of it has to be there before the root file system is.
const EARLY: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];

/// What qemu is given.
pub struct Files {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// A file system to be mounted at /usr/lib/modules.
    pub modules: PathBuf,
}

impl Kernel {
    /// It is what its suite installs today, and the programs on it are of that suite.
    pub fn is_of_its_userland(&self) -> bool {
        self.suite == self.userland && self.package == NEWEST
    }

    /// Downloaded and prepared once.
    pub fn provide(&self, cache: &Path, interrupt: &Interrupt) -> Result<Files> {
        let directory = cache.join("kernels").join(self.name);
        let files = Files {
            kernel: directory.join("vmlinuz"),
            initrd: directory.join("initrd"),
            modules: directory.join("modules.ext4"),
        };
        // The one that is made last.
        if !files.initrd.exists() {
            fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
            self.make(&files, cache, interrupt).with_context(|| format!("kernel {}", self.name))?;
        }
        Ok(files)
    }

    fn make(&self, files: &Files, cache: &Path, interrupt: &Interrupt) -> Result<()> {
        let suite = Suite::open(self.suite, cache, interrupt)?;
        let package = match self.package {
            NEWEST => suite.dependency(NEWEST)?,
            package => package.to_owned(),
        };
        let version = package.strip_prefix("linux-image-").context("no kernel")?;
        let unpacked = tempfile::tempdir().context("a directory for the kernel")?;
        let unpacked = unpacked.path();
        suite.unpack(&package, unpacked, interrupt)?;
        // Newer ones have it in /usr/lib; depmod looks in /lib.
        if !unpacked.join("lib").exists() {
            std::os::unix::fs::symlink("usr/lib", unpacked.join("lib")).context("lib")?;
        }
        run(Command::new("depmod").arg("--basedir").arg(unpacked).arg(version), interrupt)?;
        let vmlinuz = unpacked.join("boot").join(format!("vmlinuz-{version}"));
        fs::copy(vmlinuz, &files.kernel).context("vmlinuz")?;
        image(&unpacked.join("lib/modules"), &files.modules, "512M", interrupt)?;
        let modules = unpacked.join("lib/modules").join(version);
        initrd(&modules, &files.initrd, INIT, interrupt)
    }
}

/// Loads what is needed, and goes over to the root file system.
const INIT: &str = "\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
for module in $(cat /order); do insmod /modules/$module; done
until [ -b /dev/vdb ]; do sleep 0.1; done
mount -t ext4 /dev/vda /root
mount -t ext4 -o ro /dev/vdb /root/usr/lib/modules
mount --move /dev /root/dev
exec switch_root /root /sbin/init
";

/// Of busybox, `init`, and modules of this directory.
pub fn initrd(modules: &Path, to: &Path, init: &str, interrupt: &Interrupt) -> Result<()> {
    let stage = tempfile::tempdir().context("a directory for the initrd")?;
    let stage = stage.path();
    for below in ["bin", "dev", "root", "modules"] {
        fs::create_dir(stage.join(below)).context("the initrd")?;
    }
    let busybox = find("busybox").context("busybox is not installed")?;
    fs::copy(busybox, stage.join("bin/busybox")).context("busybox")?;
    fs::write(stage.join("init"), init).context("init")?;
    fs::set_permissions(stage.join("init"), Permissions::from_mode(0o755)).context("init")?;
    let order = early(modules)?;
    let mut names = String::new();
    for module in &order {
        names += &take(&modules.join(module), &stage.join("modules"), interrupt)?;
        names += "\n";
    }
    fs::write(stage.join("order"), names).context("order")?;
    let made = to.with_extension("part");
    let script = "find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 > \"$0\"";
    run(Command::new("sh").args(["-c", script]).arg(&made).current_dir(stage), interrupt)?;
    fs::rename(made, to).context("the initrd")
}

/// Copies a module, as it is loaded; its name.
fn take(module: &Path, to: &Path, interrupt: &Interrupt) -> Result<String> {
    let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let copy = to.join(&name);
    fs::copy(module, &copy).with_context(|| module.display().to_string())?;
    match name.strip_suffix(".xz") {
        None => Ok(name),
        Some(plain) => {
            run(Command::new("xz").arg("--decompress").arg(&copy), interrupt)?;
            Ok(plain.to_owned())
        }
    }
}

/// Those of [`EARLY`] that are not built in, each after what it depends on.
fn early(modules: &Path) -> Result<Vec<String>> {
    if !modules.exists() {
        return Ok(Vec::new());
    }
    let read = |name: &str| fs::read_to_string(modules.join(name)).context(name.to_owned());
    order(&read("modules.dep")?, &read("modules.builtin")?, &EARLY)
}

fn order(dependencies: &str, built_in: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for name in wanted {
        if built_in.lines().any(|path| is_module(path, name)) {
            continue;
        }
        let line = dependencies
            .lines()
            .find(|line| line.split_once(':').is_some_and(|(module, _)| is_module(module, name)));
        let Some((module, needs)) = line.and_then(|line| line.split_once(':')) else {
            bail!("there is no module {name}");
        };
        // depmod lists everything that is needed, the deepest last.
        let needs = needs.split_whitespace().rev().chain([module]);
        order.extend(needs.filter(|path| seen.insert(path.to_string())).map(str::to_owned));
    }
    Ok(order)
}

fn is_module(path: &str, name: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split('.').next() == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need_and_each_once() {
        let dependencies = "\
fs/ext4/ext4.ko.xz: lib/crc.ko.xz fs/jbd2.ko.xz
fs/jbd2.ko.xz:
lib/crc.ko.xz:
block/virtio_blk.ko.xz: lib/crc.ko.xz
";
        let order = |names: &[&str]| order(dependencies, "kernel/virtio_pci.ko\n", names);
        assert_eq!(
            order(&["virtio_pci", "virtio_blk", "ext4"]).expect("they are there"),
            ["lib/crc.ko.xz", "block/virtio_blk.ko.xz", "fs/jbd2.ko.xz", "fs/ext4/ext4.ko.xz"]
        );
        order(&["xfs"]).expect_err("it is not there");
    }
}
