//! Baton where something else starts it: a service manager, or a container in which it is process 1.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use baton_load::{Kind, Load, Target, Upstream};
use baton_tests::{Baton, Container, Docker, IMAGE, baton_binary, until};
use serde_json::Value;

use crate::stage::{LIMIT, text};
use crate::{PLAIN, more_requests, nobody_felt_anything, routed_to};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_manager_hears_that_it_serves_and_that_it_stops() {
    let directory = tempfile::tempdir().expect("temp dir");
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let hear = || {
        let mut message = [0; 4096];
        let length = manager.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let hear_until = |wanted: &str| while !hear().lines().any(|line| line == wanted) {};

    let upstream = Upstream::start("one").await.expect("upstream");
    let config = routed_to(&upstream.address());
    let baton = Baton::start_with(config, &[("NOTIFY_SOCKET", &path)]).await;
    hear_until("READY=1");
    let pid = baton.pid();
    let output = baton.command(&["upgrade"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(baton.status_json()["pid"], pid);
    // The program that it has become goes on to tell.
    hear_until("READY=1");
    // What it says waits in the socket meanwhile.
    assert!(baton.stop().await.success());
    hear_until("STOPPING=1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_process_1_of_a_container_it_upgrades_in_place() {
    let docker = Docker::connect();
    let upstream = Upstream::start("one").await.expect("upstream");
    let directory = tempfile::tempdir().expect("temp dir");
    let config = routed_to(&upstream.address()).write_to(directory.path());
    let name = format!("baton-test-{}-process-1", std::process::id());
    let volumes = [
        format!("{0}:{0}", text(directory.path())),
        format!("{}:/baton:ro", text(&baton_binary())),
    ];
    docker.do_it(&[
        "run",
        "--detach",
        "--name",
        &name,
        "--network",
        "host",
        "--volume",
        &volumes[0],
        "--volume",
        &volumes[1],
        "--entrypoint",
        "/baton",
        IMAGE,
        "run",
        "--config",
        text(&config),
    ]);
    let container = Container::started(&docker, &name);
    let socket = directory.path().join("control.sock");
    let ask = |command: &[&str]| {
        let mut baton = Command::new(baton_binary());
        baton.args(command).arg("--socket").arg(&socket).output().expect("baton starts")
    };
    let status = || serde_json::from_slice::<Value>(&ask(&["status", "--json"]).stdout).ok();
    let first = until("process 1 serves", LIMIT, async || status()).await;
    assert_eq!(first["pid"], 1, "{first}");
    // Docker gives no CAP_BPF.
    assert_eq!(first["handoff"]["mode"], "inherit", "{first}");
    let why = first["handoff"]["why"].as_str().expect("a reason");
    assert!(why.contains("--cap-add BPF"), "{why}");

    let address = first["listeners"][0]["address"].as_str().expect("an address");
    let target = Target::plain(address.parse().expect("an address"), PLAIN);
    let load = Load::new(target).clients(Kind::Http1Fresh, 4).clients(Kind::Http1KeepAlive, 4);
    let load = load.start();
    more_requests(&load, 100).await;
    for command in ["upgrade", "rollback"] {
        let output = ask(&[command]);
        assert!(output.status.success(), "{output:?}");
        more_requests(&load, 100).await;
    }
    let last = status().expect("it serves");
    assert_eq!((&last["pid"], &last["generations"][0]["id"]), (&1.into(), &3.into()), "{last}");
    nobody_felt_anything(&load.stop().await);
    let stopped = tokio::time::timeout(Duration::from_secs(20), container.stop()).await;
    stopped.expect("SIGTERM ends process 1");
}
