//! Bad days of a host: processes that stop in the middle of a handoff, a disk that takes nothing, and
//! many containers at once.

use std::path::Path;
use std::process::Command;

use baton_load::{Load, Upstream};
use baton_tests::{Baton, Config, Docker, SlowDisk, SmallDisk, hang, until};
use nix::sys::signal::{Signal, kill};
use tokio::task::JoinSet;

use crate::stage::{IdleConnection, LIMIT, Mode, Stage, in_modes, tunnels_lived_on};
use crate::{APP, http_kinds, more_requests, nobody_felt_anything, routed_to};

in_modes! {
    both:
    who_is_in_progress_at_an_old_worker_that_stops_goes_on_with_it,
    a_new_worker_that_stops_after_the_flip_loses_nobody;
    ebpf:
}

/// Stopped while it drains: its own clients wait for it, no other client does, and nobody is lost.
async fn who_is_in_progress_at_an_old_worker_that_stops_goes_on_with_it(mode: Mode) {
    let stage = Stage::start(mode).await;
    let load = stage.mixed_load().await;
    let old = stage.baton.worker_pid();
    stage.hand_over(&stage.with_streams(50));
    stage.closed().await;
    let old = hang(old).await;
    // Those of the new generation: a new connection, and another request on it.
    IdleConnection::open(stage.baton.http_address()).await.ask().await;
    let others = Load::new(stage.baton.https(APP)).clients(baton_load::Kind::Http1Fresh, 2);
    nobody_felt_anything(&others.requests(20).start().finish().await);
    kill(old, Signal::SIGCONT).expect("it is stopped");
    more_requests(&load, 200).await;
    tunnels_lived_on(&load.stop().await);
    stage.draining_at_most(0).await;
}

/// Stopped when it serves: who comes waits, and is answered when it goes on.
async fn a_new_worker_that_stops_after_the_flip_loses_nobody(mode: Mode) {
    let stage = Stage::start(mode).await;
    let load = stage.mixed_load().await;
    stage.hand_over(&stage.with_streams(50));
    let new = hang(stage.baton.worker_pid()).await;
    // The old one drains meanwhile, and closes.
    stage.closed().await;
    kill(new, Signal::SIGCONT).expect("it is stopped");
    more_requests(&load, 200).await;
    tunnels_lived_on(&load.stop().await);
    stage.draining_at_most(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_state_disk_is_felt_by_nobody() {
    let Some(disk) = SmallDisk::mount() else { return };
    changes_go_live(disk.path(), || disk.fill(), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_disk_that_turns_read_only_is_felt_by_nobody() {
    let Some(disk) = SmallDisk::mount() else { return };
    changes_go_live(disk.path(), || remount(disk.path(), "ro"), true).await;
}

/// Writes to it wait for as long as the changes take. (So would an exec, for those of this process.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_disk_that_does_not_answer_is_felt_by_nobody() {
    let Some(disk) = SlowDisk::mount() else { return };
    let baton = changes_go_live(disk.path(), || disk.freeze(), false).await;
    disk.thaw();
    let leaf = disk.path().join("local-ca/leafs/later.test.pem");
    until("what waited is written", LIMIT, async || leaf.exists().then_some(())).await;
    drop(baton);
}

/// Whatever becomes of the disk, routes with certificates of the local CA, generations and, where wanted,
/// upgrades go live.
async fn changes_go_live(disk: &Path, break_it: impl FnOnce(), upgrades: bool) -> Baton {
    let upstream = Upstream::start("one").await.expect("upstream");
    let config = || routed_to(&upstream.address()).state_dir(disk);
    let baton = Baton::start(config()).await;
    let roots = {
        let pem = std::fs::read(disk.join("local-ca/ca.pem")).expect("the local CA");
        baton_load::roots_from_pem(&pem).expect("a certificate")
    };
    let target = |host| baton_load::Target::tls(baton.https_address(), host, roots.clone());
    let load = http_kinds(target(APP)).start();
    more_requests(&load, 100).await;
    break_it();
    let changed = config().route("later.test", &[upstream.address()]);
    let said = baton.reconfigure(&changed.clone().section("[limits]\nstreams = 50"));
    assert_eq!(said["handoff"]["outcome"], "done", "{said}");
    nobody_felt_anything(&http_kinds(target("later.test")).requests(5).start().finish().await);
    if upgrades {
        let output = baton.command(&["upgrade"]);
        assert!(output.status.success(), "{output:?}\n{}", baton.stderr());
    }
    more_requests(&load, 100).await;
    nobody_felt_anything(&load.stop().await);
    baton
}

fn remount(path: &Path, option: &str) {
    let status =
        Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(path).status();
    assert!(status.expect("mount is installed").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_containers_that_start_and_go_at_once_are_routed_and_forgotten() {
    at_once(20, "many.test").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute of a whole machine: cargo xtask test --alone"]
async fn a_hundred_containers_that_start_and_go_at_once_are_routed_and_forgotten() {
    at_once(100, "hundred.test").await;
}

async fn at_once(many: usize, host: &'static str) {
    let docker = Docker::connect();
    let baton = Baton::start(Config::new().docker(docker.endpoint())).await;
    let _stays = docker.run("stays", &[("VIRTUAL_HOST", host)], &[]);
    baton.wait_up(host, 1).await;
    let load = http_kinds(baton.https(host)).post_one_in(0).start();
    let mut starts = JoinSet::new();
    for _ in 0..many {
        let docker = docker.clone();
        starts.spawn_blocking(move || docker.run("one-of-many", &[("VIRTUAL_HOST", host)], &[]));
    }
    let containers = starts.join_all().await;
    baton.wait_up(host, many + 1).await;
    more_requests(&load, 200).await;
    let mut stops = JoinSet::new();
    for container in containers {
        stops.spawn(async move { container.stop().await });
    }
    stops.join_all().await;
    baton.wait_up(host, 1).await;
    more_requests(&load, 200).await;
    let report = load.stop().await;
    nobody_felt_anything(&report);
    assert!(report.answered_by("one-of-many") > 0, "{report}");
}
