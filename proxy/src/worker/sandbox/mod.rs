//! What a worker may not do, whoever has taken it over: it speaks to strangers, and needs nothing but
//! the sockets that it was given and connections to upstreams.

mod seccomp;
pub mod self_test;

use std::fmt;
use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::unistd::{Gid, Uid, User, setgid, setgroups, setuid};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use crate::protocol::settings::Sandbox;
use crate::worker::files::Roots;

/// Who a worker is where the controller may choose: nobody owns a file as this user.
const USER: &str = "nobody";
/// The newest Landlock that is asked for; an older kernel gives what it has.
const LANDLOCK: ABI = ABI::V6;

/// What stands between a worker and the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    pub active: Vec<String>,
    /// With the reason.
    pub missing: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("sandbox = \"strict\": {}: use a newer kernel, or sandbox = \"on\"", .0.join("; "))]
pub struct Incomplete(Vec<String>);

/// Enters the sandbox, for good. Beneath `roots` files can be read; no others. Called while the process has one thread: what comes later inherits
/// it.
///
/// # Errors
/// In strict mode, when a layer cannot be had.
pub fn enter(mode: Sandbox, roots: &Roots) -> Result<Layers, Incomplete> {
    let mut layers = Layers::default();
    if mode == Sandbox::Off {
        layers.missing.push("off: see `sandbox` in the configuration".to_owned());
        return Ok(layers);
    }
    // The order: what needs a right comes before that right is given up, and the filter of system
    // calls, which permits none of these steps, comes last.
    layers.add("no core dumps", no_core_dumps());
    bound_capabilities();
    layers.add_named(own_user());
    layers.add("no capability", no_capabilities());
    layers.add("not dumpable", not_dumpable());
    // Landlock and seccomp ask for it, so that they never fool a setuid program.
    layers.add("no new privileges", set_no_new_privs(true).map_err(io::Error::from));
    layers.add_named(no_files(roots));
    layers.add("system calls", seccomp::enter(mode, !roots.is_empty()));
    match mode {
        Sandbox::Strict if !layers.missing.is_empty() => Err(Incomplete(layers.missing)),
        _ => Ok(layers),
    }
}

impl Layers {
    fn add<E: fmt::Display>(&mut self, name: &str, done: Result<(), E>) {
        self.add_named(done.map(|()| name.to_owned()).map_err(|error| format!("{name}: {error}")));
    }

    fn add_named(&mut self, done: Result<String, String>) {
        match done {
            Ok(name) => self.active.push(name),
            Err(reason) => self.missing.push(reason),
        }
    }
}

/// They would hold keys.
fn no_core_dumps() -> io::Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    Ok(setrlimit(Resource::Core, none)?)
}

/// Under systemd the controller is a user of its own already, and may not choose another.
fn own_user() -> Result<String, String> {
    let current = Uid::effective();
    if !current.is_root() {
        return Ok(format!("user {current}"));
    }
    let failed = |error: &dyn fmt::Display| format!("user {USER}: {error}");
    let user = User::from_name(USER).map_err(|error| failed(&error))?;
    // A container image may have no list of users.
    let (uid, gid) = user.map_or((65534, 65534), |user| (user.uid.as_raw(), user.gid.as_raw()));
    setgroups(&[])
        .and_then(|()| setgid(Gid::from_raw(gid)))
        .and_then(|()| setuid(Uid::from_raw(uid)))
        .map_err(|error| failed(&error))?;
    Ok(format!("user {uid}"))
}

/// Before root is given up. Without CAP_SETPCAP the bounding set stays, and means nothing to who may not
/// gain privileges.
fn bound_capabilities() {
    for capability in CapabilitySet::all().iter() {
        let _ = remove_capability_from_bounding_set(capability);
    }
}

fn no_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    clear_ambient_capability_set()?;
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

/// Nobody attaches to it, and its memory is in no `/proc/PID/mem` but root's.
fn not_dumpable() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// No file but those beneath the roots of static files, no listening, no signals to others: what it has, it was given as descriptors.
fn no_files(roots: &Roots) -> Result<String, String> {
    let status = landlock(roots).map_err(|error| format!("files: {error}"))?;
    let name = if roots.is_empty() { "no files" } else { "no files but static ones" };
    match status {
        RulesetStatus::FullyEnforced => Ok(name.to_owned()),
        RulesetStatus::PartiallyEnforced => Ok(format!("{name} (as far as this kernel can)")),
        RulesetStatus::NotEnforced => Err("files: this kernel has no Landlock".to_owned()),
    }
}

fn landlock(roots: &Roots) -> Result<RulesetStatus, RulesetError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rules(roots.descriptors().map(|root| {
            // Directories too: one is told from a file once it is open. None can be listed, for want of
            // the system call.
            let reading = AccessFs::ReadFile | AccessFs::ReadDir;
            Ok::<_, RulesetError>(PathBeneath::new(root, reading))
        }))?
        .restrict_self()?;
    Ok(status.ruleset)
}
