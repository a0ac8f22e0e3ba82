//! A controller that is killed: its workers serve on, and the next controller takes them over.

use std::fs;
use std::time::Instant;

use baton_load::{Kind, Load, Running};
use baton_tests::{Baton, Config, Docker, hang, until};
use serde_json::Value;

use crate::stage::{LIMIT, Mode, Stage, find, in_modes, tunnels_lived_on};
use crate::{APP, http_kinds, more_requests, nobody_felt_anything};

in_modes! {
    both:
    workers_serve_on_without_a_controller_and_the_next_one_takes_them_over,
    a_controller_killed_while_workers_start_is_followed_by_another,
    a_controller_killed_right_after_the_flip_is_followed_by_another,
    a_controller_killed_while_generations_drain_is_followed_by_another,
    an_idle_worker_that_hangs_is_not_waited_for,
    a_controller_that_leaves_is_followed_by_another;
    ebpf:
    a_takeover_whose_worker_does_not_come_up_is_tried_again,
    a_controller_killed_during_a_canary_is_followed_by_another,
}

async fn workers_serve_on_without_a_controller_and_the_next_one_takes_them_over(mode: Mode) {
    let mut stage = Stage::start(mode).await;
    let load = stage.mixed_load().await;
    for generation in [2, 3] {
        killed_and_followed(&mut stage.baton, &load, generation).await;
        more_requests(&load, 300).await;
    }
    stage.draining_at_most(1).await;
    // The tunnels live on in the generation that the first controller made.
    assert_eq!(stage.generations("draining"), [1]);
    stage.hand_over(&stage.with_streams(50));
    stage.done(&["upgrade"], 5);
    more_requests(&load, 300).await;
    tunnels_lived_on(&load.stop().await);
    stage.draining_at_most(0).await;
    assert_eq!(stage.baton.left_workers().len(), 1);
}

/// `systemctl restart` asks for it.
async fn a_controller_that_leaves_is_followed_by_another(mode: Mode) {
    let mut stage = Stage::start(mode).await;
    let load = stage.mixed_load().await;
    // One drains meanwhile, with tunnels in it.
    stage.hand_over(&stage.with_streams(50));
    let status = stage.baton.leave().await;
    assert!(status.success(), "{status}");
    more_requests(&load, 200).await;
    assert!(!stage.baton.left_workers().is_empty());
    stage.baton.start_controller();
    taken_over(&stage.baton, 3).await;
    more_requests(&load, 200).await;
    tunnels_lived_on(&load.stop().await);
    stage.draining_at_most(0).await;
}

async fn a_takeover_whose_worker_does_not_come_up_is_tried_again(mode: Mode) {
    let mut stage = Stage::start(mode).await;
    let load = stage.mixed_load().await;
    stage.baton.kill_controller().await;
    stage.baton.start_controller();
    let first = hang(first_child(stage.baton.pid())).await;
    until("a takeover that failed", LIMIT, async || {
        let status = stage.baton.try_status_json()?;
        let handoff = &status["last_handoffs"][0];
        (handoff["kind"] == "takeover" && handoff["outcome"] == "failed").then_some(())
    })
    .await;
    more_requests(&load, 200).await;
    taken_over(&stage.baton, 3).await;
    assert_ne!(stage.baton.worker_pid(), first.as_raw());
    more_requests(&load, 200).await;
    tunnels_lived_on(&load.stop().await);
    stage.draining_at_most(0).await;
}

/// The first process that it starts, at the moment that it does: it becomes ready in no time. Not before
/// exec, though: until then its parent waits for it (vfork(2)).
fn first_child(controller: i32) -> i32 {
    let began = Instant::now();
    loop {
        let children = fs::read_to_string(format!("/proc/{controller}/task/{controller}/children"));
        let first = children.unwrap_or_default().split(' ').find_map(|pid| pid.parse().ok());
        let is_worker = |pid: &i32| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments.split(|byte| *byte == 0).nth(1) == Some(b"worker")
        };
        if let Some(first) = first.filter(is_worker) {
            return first;
        }
        assert!(began.elapsed() < LIMIT, "it starts nobody");
        std::thread::yield_now();
    }
}

async fn a_controller_killed_while_workers_start_is_followed_by_another(mode: Mode) {
    let mut stage = Stage::start(mode).await;
    let load = stage.mixed_load().await;
    let upgrade = stage.baton.spawn_command(&["upgrade", "--fault", "hang-at-start"]);
    until("the start of generation 2", LIMIT, async || {
        // The program that is asked may just become the next one.
        let status = stage.baton.try_status_json()?;
        status["last_handoffs"][0]["steps"].to_string().contains("this is baton").then_some(())
    })
    .await;
    killed_and_followed(&mut stage.baton, &load, 2).await;
    assert!(!upgrade.wait_with_output().expect("it ends").status.success());
    more_requests(&load, 200).await;
    tunnels_lived_on(&load.stop().await);
}

async fn a_controller_killed_right_after_the_flip_is_followed_by_another(mode: Mode) {
    let mut stage = Stage::start(mode).await;
    let load = stage.mixed_load().await;
    stage.hand_over(&stage.with_streams(50));
    killed_and_followed(&mut stage.baton, &load, 3).await;
    more_requests(&load, 200).await;
    tunnels_lived_on(&load.stop().await);
    stage.draining_at_most(0).await;
}

async fn a_controller_killed_while_generations_drain_is_followed_by_another(mode: Mode) {
    let mut stage = Stage::start(mode).await;
    let load = stage.mixed_load().await;
    for streams in [50, 60] {
        stage.hand_over(&stage.with_streams(streams));
        stage.draining_at_most(1).await;
    }
    killed_and_followed(&mut stage.baton, &load, 4).await;
    assert_eq!(stage.generations("draining")[0], 1);
    more_requests(&load, 200).await;
    tunnels_lived_on(&load.stop().await);
    stage.draining_at_most(0).await;
}

async fn a_controller_killed_during_a_canary_is_followed_by_another(mode: Mode) {
    let mut stage = Stage::start(mode).await;
    let load = stage.mixed_load().await;
    let upgrade = stage.baton.spawn_command(&["upgrade", "--canary", "50%", "--for", "60s"]);
    until("the canary", LIMIT, async || (stage.generations("canary") == [2]).then_some(())).await;
    more_requests(&load, 200).await;
    killed_and_followed(&mut stage.baton, &load, 3).await;
    assert!(!upgrade.wait_with_output().expect("it ends").status.success());
    more_requests(&load, 200).await;
    tunnels_lived_on(&load.stop().await);
    stage.draining_at_most(0).await;
}

async fn an_idle_worker_that_hangs_is_not_waited_for(mode: Mode) {
    let mut stage = Stage::start(mode).await;
    let worker = stage.baton.worker_pid();
    stage.baton.kill_controller().await;
    hang(worker).await;
    stage.baton.start_controller();
    stage.baton.wait_said("has lost its controller and does not answer: killing it").await;
    // On other ports: those of the configuration are free ones.
    stage.baton.wait_ready().await;
    let load = Load::new(stage.baton.https(APP)).clients(Kind::Http1Fresh, 2).requests(10);
    nobody_felt_anything(&load.start().finish().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_stay_routed_while_the_next_controller_learns_of_them() {
    let docker = Docker::connect();
    let mut baton = Baton::start(Config::new().docker(docker.endpoint())).await;
    let host = "orphaned.test";
    // One is asked by its HEALTHCHECK, one by its port.
    let _checked = docker.run_checked("checked", &[("VIRTUAL_HOST", host)], &[]);
    let _plain = docker.run("plain", &[("VIRTUAL_HOST", host)], &[]);
    baton.wait_up(host, 2).await;
    let load = http_kinds(baton.https(host)).start();
    more_requests(&load, 200).await;
    killed_and_followed(&mut baton, &load, 2).await;
    more_requests(&load, 200).await;
    nobody_felt_anything(&load.stop().await);
    assert_eq!(baton.upstreams_up(host), 2);
}

/// The controller dies, workers serve on, and the next one serves with this generation.
async fn killed_and_followed(baton: &mut Baton, load: &Running, generation: u64) {
    baton.kill_controller().await;
    more_requests(load, 200).await;
    baton.start_controller();
    taken_over(baton, generation).await;
}

/// The next controller serves with workers of its own.
async fn taken_over(baton: &Baton, generation: u64) {
    let status = until("the takeover", LIMIT, async || {
        let status = baton.try_status_json()?;
        (status["last_handoffs"][0]["outcome"] == "done").then_some(status)
    })
    .await;
    let handoff: &Value = &status["last_handoffs"][0];
    assert_eq!((&handoff["kind"], &handoff["to"]), (&"takeover".into(), &generation.into()));
    assert_eq!(find(&status, "active").next().expect("an active generation")["id"], generation);
    assert_eq!(status["pid"], baton.pid());
}
