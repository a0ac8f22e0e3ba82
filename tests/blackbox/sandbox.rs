//! What stands between a worker and the host.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use baton_load::Upstream;
use baton_tests::{Baton, baton_binary};

use crate::{APP, every_kind, in_front_of_one, nobody_felt_anything, routed_to};

/// Each of them has to be refused from inside.
const REFUSED: [&str; 23] = [
    "open a file to read",
    "open a file by its path",
    "open a file by way of /proc",
    "open a file to write",
    "connect to a unix socket",
    "listen",
    "run a program",
    "make a unix socket",
    "make a netlink socket",
    "make a packet socket",
    "make a vsock socket",
    "call bpf",
    "call ptrace",
    "call process_vm_readv",
    "call pidfd_getfd",
    "call mount",
    "call unshare",
    "call setns",
    "call keyctl",
    "call perf_event_open",
    "call io_uring_setup",
    "call init_module",
    "call memfd_create",
];

#[test]
fn from_inside_a_worker_everything_but_its_work_is_refused() {
    tried_from_inside(None, &[]);
}

#[test]
fn with_static_files_it_reads_those_and_no_others() {
    let root = tempfile::tempdir().expect("temporary directory");
    std::fs::write(root.path().join("index.html"), "hello").expect("a file");
    // Who runs the worker is nobody.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(root.path(), mode).expect("a mode");
    let refused = ["list a root", "write to a static file"];
    let said = tried_from_inside(Some(root.path()), &refused);
    assert!(said.contains("open a static file: done"), "{said}");
}

/// What the self test says, in which everything has to be refused.
fn tried_from_inside(root: Option<&Path>, more: &[&str]) -> String {
    let directory = tempfile::tempdir().expect("temporary directory");
    let upstream = TcpListener::bind("127.0.0.1:0").expect("a port");
    let file = directory.path().join("docker.sock");
    let _docker = UnixListener::bind(&file).expect("a socket");
    let output = Command::new(baton_binary())
        .args(["sandbox-test", "--upstream"])
        .arg(upstream.local_addr().expect("an address").to_string())
        .arg("--socket-file")
        .arg(&file)
        .args(root.map(|root| format!("--root={}", root.display())))
        .output()
        .expect("baton starts");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    for done in ["connect to an upstream: done", "start a thread: done"] {
        assert!(lines.contains(&done), "{said}");
    }
    for what in REFUSED.iter().chain(more) {
        assert!(lines.contains(&format!("{what}: refused").as_str()), "{what}\n{said}");
    }
    said
}

/// A field of /proc/PID/status of the worker (proc_pid_status(5)).
fn field(baton: &Baton, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", baton.worker_pid()));
    let status = status.expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name}\n{status}"))
        .split_whitespace()
        .next()
        .expect("a value")
        .to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_serves_every_kind_of_client_without_a_right() {
    let (baton, _upstream) = in_front_of_one().await;
    nobody_felt_anything(&every_kind(baton.https(APP)).requests(20).start().finish().await);
    for (name, want) in [
        ("Uid", "65534"),
        ("Gid", "65534"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        assert_eq!(field(&baton, name), want, "{name}");
    }
    let status = baton.status_json();
    let sandbox = &status["generations"][0]["sandbox"];
    let layers =
        ["no core dumps", "user 65534", "no capability", "not dumpable", "no new privileges"];
    for layer in layers.into_iter().chain(["no files", "system calls"]) {
        let is_it = |active: &serde_json::Value| {
            active.as_str().is_some_and(|active| active.starts_with(layer))
        };
        assert!(sandbox.as_array().expect("a list").iter().any(is_it), "{layer}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switched_off_it_says_so() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let baton = Baton::start(routed_to(&upstream.address()).top("sandbox = \"off\"")).await;
    assert_eq!(field(&baton, "Seccomp"), "0");
    let missing = &baton.status_json()["generations"][0]["sandbox_missing"];
    assert_eq!(missing[0], "off: see `sandbox` in the configuration");
    // Back again, by a handoff.
    baton.reconfigure(&routed_to(&upstream.address()));
    assert_eq!(field(&baton, "Seccomp"), "2");
}
