//! Baton where something else starts it: a service manager, or a container in which it is process 1.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use baton_load::{Kind, Load, Target, Upstream};
use baton_tests::{Baton, Config, Container, Docker, IMAGE, baton_binary, until};
use serde_json::Value;
use tempfile::TempDir;

use crate::stage::{LIMIT, text};
use crate::{PLAIN, more_requests, nobody_felt_anything, routed_to};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_manager_hears_that_it_serves_and_that_it_stops() {
    let manager = Manager::start();
    let upstream = Upstream::start("one").await.expect("upstream");
    let baton = manager.run(routed_to(&upstream.address())).await;
    manager.hear_until("READY=1");
    let pid = baton.pid();
    let output = baton.command(&["upgrade"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(baton.status_json()["pid"], pid);
    // The program that it has become goes on to tell.
    manager.hear_until("READY=1");
    // What it says waits in the socket meanwhile.
    assert!(baton.stop().await.success());
    let heard = manager.hear_until("STOPPING=1");
    // Nobody watches.
    assert!(!heard.iter().any(|line| line == ALIVE), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_that_watches_hears_signs_of_life_as_long_as_the_loop_runs() {
    let manager = Manager::start();
    let upstream = Upstream::start("one").await.expect("upstream");
    let config = routed_to(&upstream.address()).variable("WATCHDOG_USEC", "200000");
    let baton = manager.run(config).await;
    manager.hear_until(ALIVE);
    let began = Instant::now();
    manager.hear_until(ALIVE);
    manager.hear_until(ALIVE);
    assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
    let output = baton.command(&["upgrade"]);
    assert!(output.status.success(), "{output:?}");
    manager.hear_until("READY=1");
    manager.hear_until(ALIVE);
    manager.hear_until(ALIVE);
    assert!(baton.stop().await.success());
    manager.hear_until("STOPPING=1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signs_of_life_are_not_for_a_service_manager_that_watches_another() {
    let manager = Manager::start();
    let config = routed_to(&"127.0.0.1:1").variable("WATCHDOG_USEC", "1000");
    assert!(manager.run(config.variable("WATCHDOG_PID", "1")).await.stop().await.success());
    let heard = manager.hear_until("STOPPING=1");
    assert!(!heard.iter().any(|line| line == ALIVE), "{heard:?}");
}

const ALIVE: &str = "WATCHDOG=1";

/// The service manager's end of sd_notify(3).
struct Manager {
    directory: TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        Manager { directory, socket }
    }

    async fn run(&self, config: Config) -> Baton {
        let path = self.directory.path().join("notify");
        Baton::start_with(config, &[("NOTIFY_SOCKET", &path)]).await
    }

    /// Everything up to this line.
    fn hear_until(&self, wanted: &str) -> Vec<String> {
        let mut heard = Vec::new();
        while !heard.iter().any(|line| line == wanted) {
            let mut message = [0; 4096];
            let length = self.socket.recv(&mut message).expect("a message");
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            heard.extend(message.lines().map(str::to_owned));
        }
        heard
    }
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
