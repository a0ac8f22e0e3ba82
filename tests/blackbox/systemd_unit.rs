//! The unit that is delivered: systemd understands every line of it, and it leaves little open.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use baton_tests::{baton_binary, until};

use crate::stage::{LIMIT, text};

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

/// What a controller gets of `systemctl restart`, of a host that shuts down, and of a stop, before
/// systemd itself sends SIGTERM.
#[tokio::test]
async fn a_restart_a_shutdown_and_a_stop_are_told_apart() {
    for (jobs, system, want) in [
        ("7 baton.service restart running", "running", "USR1"),
        ("7 other.service restart running", "running", ""),
        ("7 baton.service stop running", "stopping", "TERM"),
        ("7 baton.service stop running", "degraded", ""),
    ] {
        assert_eq!(signals_of_stop(jobs, system).await, want, "{jobs}, {system}");
    }
}

/// The signals that a process gets, which ends at the first one.
async fn signals_of_stop(jobs: &str, system: &str) -> String {
    let directory = tempfile::tempdir().expect("temp dir");
    let systemctl = format!(
        "#!/bin/sh\ncase $1 in list-jobs) echo '{jobs}' ;; is-system-running) echo {system} ;; esac\n"
    );
    let program = directory.path().join("systemctl");
    std::fs::write(&program, systemctl).expect("a systemctl");
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("its mode");
    let controller = "trap 'echo USR1 > heard; exit' USR1; trap 'echo TERM > heard; exit' TERM
        touch ready; while :; do sleep 0.05; done";
    let mut controller = Command::new("sh")
        .args(["-c", controller])
        .current_dir(directory.path())
        .spawn()
        .expect("sh");
    let ready = directory.path().join("ready");
    until("its traps", LIMIT, async || ready.exists().then_some(())).await;
    let path = format!("{}:{}", text(directory.path()), std::env::var("PATH").expect("a path"));
    let mut stop = Command::new("sh");
    stop.arg(delivered("stop")).arg("baton.service").env("PATH", path);
    let mut stop = stop.env("MAINPID", controller.id().to_string()).spawn().expect("sh");
    let stopped = until("the end of stop", LIMIT, async || {
        // Somebody has to take note of its end, as systemd does: a zombie is still there.
        let _ = controller.try_wait();
        stop.try_wait().expect("our child")
    });
    assert!(stopped.await.success());
    // It may have ended already.
    let _ = controller.kill();
    controller.wait().expect("our child");
    let heard = std::fs::read_to_string(directory.path().join("heard")).unwrap_or_default();
    heard.trim().to_owned()
}

fn delivered(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd").join(name)
}

fn analyze(arguments: &[&str]) {
    let output = Command::new("systemd-analyze").args(arguments).output().expect("systemd-analyze");
    assert!(output.status.success(), "{output:?}");
}
