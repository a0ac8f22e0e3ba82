//! The unit that is delivered: systemd understands every line of it, and it leaves little open.

use std::path::{Path, PathBuf};
use std::process::Command;

use baton_tests::baton_binary;

use crate::stage::text;

/// Of 100: what is left is the host's network, Docker's group and the two capabilities.
const EXPOSURE: &str = "--threshold=20";

#[test]
fn systemd_takes_the_unit_without_a_word() {
    let unit = std::fs::read_to_string(delivered("baton.service")).expect("the unit");
    // It insists that the programs are there.
    let unit = unit.replace("/usr/bin/baton", text(&baton_binary()));
    let directory = tempfile::tempdir().expect("temp dir");
    let copy = directory.path().join("baton.service");
    std::fs::write(&copy, unit).expect("a copy");
    // Of this file alone, a key that it does not know is a failure too.
    analyze(&["verify", "--man=no", "--recursive-errors=no", text(&copy)]);
}

/// Workers shut themselves in with these, and a unit that refuses them leaves the walls out.
#[test]
fn the_unit_lets_workers_give_up_what_they_have() {
    let unit = std::fs::read_to_string(delivered("baton.service")).expect("it is delivered");
    let last = unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")).next_back();
    let last: Vec<&str> = last.expect("a filter").split_whitespace().collect();
    for call in
        ["capset", "prlimit64", "seccomp", "landlock_create_ruleset", "landlock_restrict_self"]
    {
        assert!(last.contains(&call), "{call}: {last:?}");
    }
}

#[test]
fn the_unit_leaves_little_open() {
    let unit = delivered("baton.service");
    analyze(&["security", "--no-pager", "--offline=true", EXPOSURE, text(&unit)]);
}

#[test]
fn the_user_of_the_unit_is_made_by_sysusers() {
    let root = tempfile::tempdir().expect("temp dir");
    std::fs::create_dir(root.path().join("etc")).expect("etc");
    let made = Command::new("systemd-sysusers")
        .arg("--root")
        .arg(root.path())
        .arg(delivered("baton.sysusers"))
        .output()
        .expect("systemd-sysusers");
    assert!(made.status.success(), "{made:?}");
    let users = std::fs::read_to_string(root.path().join("etc/passwd")).expect("passwd");
    assert!(users.starts_with("baton:"), "{users}");
    // Where Docker comes later: the unit asks for its group.
    let groups = std::fs::read_to_string(root.path().join("etc/group")).expect("group");
    assert!(groups.lines().any(|group| group.starts_with("docker:")), "{groups}");
}

fn delivered(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd").join(name)
}

fn analyze(arguments: &[&str]) {
    let output = Command::new("systemd-analyze").args(arguments).output().expect("systemd-analyze");
    assert!(output.status.success(), "{output:?}");
}
