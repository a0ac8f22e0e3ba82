//! `cargo xtask ebpf`: compiles the selector for the kernel with whichever toolchain is there, and
//! makes sure that the object in the tree is what its sources say.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::interrupt::Interrupt;
use crate::packages;
use crate::process::{cargo, find, root, run};

const TARGET: &str = "bpfel-unknown-none";
/// A compiler with a ready-made `core` for the target, and the LLVM that it is made with.
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "libstd-rust-web-dev-bpf", "llvm-22-dev"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
const LINKER_VERSION: &str = "0.13.0";

#[derive(clap::Args)]
pub struct Options {
    /// Change nothing: fail when the sources and the object in the tree differ.
    #[arg(long)]
    check: bool,
}

pub fn ebpf(options: &Options) -> Result<()> {
    let interrupt = Interrupt::catch().context("catching signals")?;
    if options.check { check(&interrupt) } else { update(&interrupt) }
}

/// Compiles, and writes the object and its origin into the tree.
fn update(interrupt: &Interrupt) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let object = toolchain.build(interrupt)?;
    let origin = Origin::of(&object, toolchain.name()?)?;
    fs::write(Origin::path(), origin.to_text()).context("selector.origin")?;
    fs::write(object_path(), &object).context("selector.o")?;
    println!("{} bytes, by {}", object.len(), origin.toolchain);
    Ok(())
}

/// The sources must be those that the object was compiled from. Where the very toolchain is there
/// that did it, it must make the same bytes again; another one makes others.
pub fn check(interrupt: &Interrupt) -> Result<()> {
    let object = fs::read(object_path()).context("ebpf/selector.o")?;
    let recorded = fs::read_to_string(Origin::path()).context("ebpf/selector.origin")?;
    let recorded = Origin::parse(&recorded)?;
    if digest_of_sources()? != recorded.sources {
        bail!("ebpf/ has changed since selector.o was compiled from it: run cargo xtask ebpf");
    }
    if digest(&object) != recorded.object {
        bail!("ebpf/selector.o is not what cargo xtask ebpf made: run it");
    }
    let (toolchain, name) = match Toolchain::find().and_then(|t| t.name().map(|name| (t, name))) {
        Ok(found) => found,
        Err(reason) => {
            println!("same sources; not compiled again: {reason:#}");
            return Ok(());
        }
    };
    if name != recorded.toolchain {
        println!("same sources; not compiled again: by {}, here is {name}", recorded.toolchain);
        return Ok(());
    }
    if toolchain.build(interrupt)? != object {
        bail!("{name} makes another object of ebpf/ than selector.o: run cargo xtask ebpf");
    }
    println!("the same sources, the same {} bytes, by {name}", object.len());
    Ok(())
}

/// Installs what is missing where that is a matter of typing: as root, on a Debian that has it. Takes
/// two to three minutes, once; the linker stays in the target directory.
pub fn provide(interrupt: &Interrupt) -> Result<()> {
    if Toolchain::find().is_ok() {
        println!("nothing is missing");
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() || !packages::offered(DEBIAN_PACKAGES[1]) {
        println!("{:#}", missing_compiler());
        return Ok(());
    }
    if Compiler::debian().is_none() || !Path::new(DEBIAN_LLVM).is_dir() {
        packages::install(&DEBIAN_PACKAGES, interrupt)?;
    }
    if linker().is_none() {
        let mut install = cargo();
        install
            .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked"])
            .args(["--no-default-features", "--features", "llvm-22", "--root"])
            .arg(tools())
            .env("LLVM_PREFIX", DEBIAN_LLVM);
        run(&mut install, interrupt)?;
    }
    Ok(())
}

/// What compiles for the kernel.
struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

enum Compiler {
    /// The distribution's, with its `core` for the target.
    Debian,
    /// A nightly, which compiles `core` from its sources.
    Nightly,
}

impl Toolchain {
    fn find() -> Result<Self> {
        let compiler =
            Compiler::debian().or_else(Compiler::nightly).ok_or_else(missing_compiler)?;
        let linker = linker().ok_or_else(|| missing_linker(&compiler))?;
        Ok(Toolchain { compiler, linker })
    }

    /// What the bytes of an object depend on besides its sources.
    fn name(&self) -> Result<String> {
        let compiler = version(&mut self.compiler.rustc())?;
        let linker = version(&mut Command::new(&self.linker))?;
        Ok(format!("{compiler}, {linker}"))
    }

    fn build(&self, interrupt: &Interrupt) -> Result<Vec<u8>> {
        let directory = root().join("target/ebpf");
        let mut build = self.compiler.cargo();
        build
            .args(["build", "--quiet", "--release", "--locked", "--target", TARGET])
            .arg("--target-dir")
            .arg(&directory)
            .current_dir(root().join("ebpf"))
            // No flags of the developer's own, and no path of this machine in the object.
            .env("CARGO_ENCODED_RUSTFLAGS", remap(root()))
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER");
        run(&mut build, interrupt)?;
        fs::read(directory.join(TARGET).join("release/selector")).context("the compiled object")
    }
}

impl Compiler {
    fn debian() -> Option<Self> {
        let core = Path::new("/usr/lib/rustlib").join(TARGET);
        (Path::new(DEBIAN_RUSTC).is_file() && core.is_dir()).then_some(Compiler::Debian)
    }

    fn nightly() -> Option<Self> {
        let rustup = find("rustup")?;
        let mut sysroot = Command::new(rustup);
        let output =
            sysroot.args(["run", "nightly", "rustc", "--print", "sysroot"]).output().ok()?;
        let sysroot = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
        let sources = sysroot.join("lib/rustlib/src/rust/library");
        (output.status.success() && sources.is_dir()).then_some(Compiler::Nightly)
    }

    fn rustc(&self) -> Command {
        match self {
            Compiler::Debian => Command::new(DEBIAN_RUSTC),
            Compiler::Nightly => nightly("rustc"),
        }
    }

    fn cargo(&self) -> Command {
        match self {
            Compiler::Debian => {
                let mut command = cargo();
                // The target is not a stable one.
                command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                command
            }
            Compiler::Nightly => {
                let mut command = nightly("cargo");
                command.args(["-Z", "build-std=core"]).env_remove("RUSTC");
                command
            }
        }
    }
}

fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", program]);
    command
}

fn linker() -> Option<PathBuf> {
    let ours = tools().join("bin/bpf-linker");
    if ours.is_file() { Some(ours) } else { find("bpf-linker") }
}

/// Where [`provide`] puts the linker.
fn tools() -> PathBuf {
    root().join("target/ebpf-tools")
}

fn missing_compiler() -> anyhow::Error {
    anyhow::anyhow!(
        "no compiler for eBPF; on Debian: sudo apt-get install --no-install-recommends {}; \
         elsewhere: rustup toolchain install nightly --component rust-src",
        DEBIAN_PACKAGES.join(" ")
    )
}

fn missing_linker(compiler: &Compiler) -> anyhow::Error {
    let install = match compiler {
        Compiler::Debian => format!(
            "LLVM_PREFIX={DEBIAN_LLVM} cargo install bpf-linker --version {LINKER_VERSION} --locked \
             --no-default-features --features llvm-22 --root target/ebpf-tools"
        ),
        Compiler::Nightly => format!("cargo install bpf-linker --version {LINKER_VERSION}"),
    };
    anyhow::anyhow!("no bpf-linker; run: {install}")
}

fn version(program: &mut Command) -> Result<String> {
    let output = program.arg("--version").output().context("asking for a version")?;
    let text = String::from_utf8(output.stdout).context("a version")?;
    Ok(text.trim().to_owned())
}

fn remap(root: &Path) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(root);
    flag.push("=/baton");
    flag
}

fn object_path() -> PathBuf {
    root().join("ebpf/selector.o")
}

/// What the object in the tree was made from, and by what: three lines beside it.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    /// SHA-256 of the sources.
    sources: String,
    /// SHA-256 of the object.
    object: String,
    toolchain: String,
}

impl Origin {
    fn of(object: &[u8], toolchain: String) -> Result<Self> {
        Ok(Origin { sources: digest_of_sources()?, object: digest(object), toolchain })
    }

    fn path() -> PathBuf {
        root().join("ebpf/selector.origin")
    }

    fn to_text(&self) -> String {
        let Origin { sources, object, toolchain } = self;
        format!("sources {sources}\nobject {object}\ntoolchain {toolchain}\n")
    }

    fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.map(str::to_owned).with_context(|| format!("ebpf/selector.origin: no {name}"))
        };
        let (sources, object) = (field("sources")?, field("object")?);
        Ok(Origin { sources, object, toolchain: field("toolchain")? })
    }
}

/// Of the path and the content of each.
fn digest_of_sources() -> Result<String> {
    let mut files = Vec::new();
    for path in ["ebpf/Cargo.toml", "ebpf/Cargo.lock", "ebpf/layout/Cargo.toml"] {
        files.push(root().join(path));
    }
    for directory in ["ebpf/src", "ebpf/layout/src"] {
        collect(&root().join(directory), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(&file).with_context(|| file.display().to_string())?;
        let name = file.strip_prefix(root()).unwrap_or(&file).to_string_lossy();
        hash.update(format!("{name} {}\n", content.len()));
        hash.update(content);
    }
    Ok(hex(&hash.finalize()))
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_reads_back() {
        let origin = Origin {
            sources: "ab".into(),
            object: "cd".into(),
            toolchain: "rustc 1.96.0 (built from a source tarball), bpf-linker 0.13.0".into(),
        };
        assert_eq!(Origin::parse(&origin.to_text()).expect("origin"), origin);
        let error = Origin::parse("sources ab\n").expect_err("no object");
        assert_eq!(error.to_string(), "ebpf/selector.origin: no object");
    }

    #[test]
    fn digests_are_sha256() {
        assert_eq!(
            digest(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
