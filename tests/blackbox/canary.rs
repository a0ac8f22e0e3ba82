//! Canaries: a new binary is tried on a share of new connections, and taken back where it does worse.

use std::time::Duration;

use baton_load::{Kind, Load};
use baton_tests::until;
use serde_json::Value;

use crate::stage::{LIMIT, Mode, Stage, in_modes, text};
use crate::{APP, more_requests, nobody_felt_anything};

in_modes! {
    both:
    workers_that_do_not_come_up_leave_the_old_program_in_charge,
    an_upgrade_tells_its_outcome_as_json;
    ebpf:
    a_good_canary_gets_its_share_and_then_everything,
    a_canary_goes_on_while_routes_change,
    a_canary_that_answers_with_errors_is_taken_back,
    a_canary_that_crashes_is_taken_back,
    a_second_handoff_during_a_canary_is_refused_by_name,
}

async fn a_good_canary_gets_its_share_and_then_everything(mode: Mode) {
    let stage = Stage::start(mode).await;
    let load = stage.mixed_load().await;
    let output = stage.done(&["upgrade", "--canary", "30%", "--for", "3s"], 2);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("canary: 30% of new connections go to generation 2 for 3 s\n"), "{said}");
    assert!(said.contains("the canary did well: "), "{said}");
    more_requests(&load, 300).await;
    nobody_felt_anything(&load.stop().await);

    let steps = stage.last_handoff()["steps"].to_string();
    let (tried, _) = steps.split_once(" connections, 0 failed handshakes").expect("what it did");
    let tried: u64 = tried.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    assert!(tried > 0, "{steps}");
}

async fn a_canary_goes_on_while_routes_change(mode: Mode) {
    let stage = Stage::start(mode).await;
    let load = stage.mixed_load().await;
    let mut canary = stage.baton.spawn_command(&["upgrade", "--canary", "50%", "--for", "2s"]);
    let upstream = [stage.upstream.address()];
    let mut number = 0;
    while canary.try_wait().expect("our child").is_none() {
        let config = stage.config().route(&format!("extra{number}.test"), &upstream);
        // While the program becomes the next one, nobody answers.
        stage.baton.try_reconfigure(&config);
        number += 1;
        more_requests(&load, 10).await;
    }
    let output = canary.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stage.active()["id"], 2);
    nobody_felt_anything(&load.stop().await);
}

async fn a_canary_that_answers_with_errors_is_taken_back(mode: Mode) {
    let stage = Stage::start(mode).await;
    let tunnels = Load::new(stage.baton.https(APP)).clients(Kind::WebSocket, 4).start();
    more_requests(&tunnels, 20).await;
    // These clients feel the canary's answers.
    let load = Load::new(stage.baton.https(APP)).clients(Kind::Http1Fresh, 8).start();
    more_requests(&load, 50).await;
    let program = stage.program();
    let copy = stage.copy(1);
    let command = ["upgrade", text(&copy), "--canary", "50%", "--for", "60s", "--fault", "errors"];
    let said = stage.refused(&command);
    assert!(said.contains("canary: more 5xx answers than the active generation: "), "{said}");
    assert!(said.ends_with("generation 1 goes on; the program before it is back\n"), "{said}");
    assert_eq!((stage.active()["id"].as_u64(), stage.program()), (Some(1), program));
    stage.draining_at_most(0).await;
    let before = load.stop().await;
    assert!(before.failed() > 0, "it failed for nobody: {before}");

    let after = Load::new(stage.baton.https(APP)).clients(Kind::Http1Fresh, 4).requests(50);
    nobody_felt_anything(&after.start().finish().await);
    nobody_felt_anything(&tunnels.stop().await);
    let handoff = stage.last_handoff();
    assert_eq!((&handoff["kind"], &handoff["outcome"]), (&"upgrade".into(), &"failed".into()));
    stage.done(&["upgrade"], 3);
}

async fn a_canary_that_crashes_is_taken_back(mode: Mode) {
    let stage = Stage::start(mode).await;
    let load = Load::new(stage.baton.https(APP)).clients(Kind::Http1Fresh, 8).start();
    more_requests(&load, 50).await;
    let command = ["upgrade", "--canary", "50%", "--for", "60s", "--fault", "crash-in-service"];
    let said = stage.refused(&command);
    assert!(
        said.contains("generation 2: canary: it exited with status 1; generation 1 goes on"),
        "{said}"
    );
    more_requests(&load, 50).await;
    // Those whose connection the crashed process had; none was refused.
    let report = load.stop().await;
    let causes = &report.kinds[&Kind::Http1Fresh].failures;
    assert!(!causes.contains_key(&baton_load::Cause::ConnectRefused), "{report}");
    assert_eq!(stage.active()["id"], 1);
    let after = Load::new(stage.baton.https(APP)).clients(Kind::Http1Fresh, 4).requests(50);
    nobody_felt_anything(&after.start().finish().await);
}

async fn a_second_handoff_during_a_canary_is_refused_by_name(mode: Mode) {
    let stage = Stage::start(mode).await;
    let canary = stage.baton.spawn_command(&["upgrade", "--canary", "10%", "--for", "3s"]);
    until("the canary", LIMIT, async || (stage.generations("canary") == [2]).then_some(())).await;
    let want = "baton: handoff 1 (upgrade) is under way: try again when it is over\n";
    assert_eq!(stage.refused(&["upgrade"]), want);
    assert_eq!(
        stage.refused(&["rollback"]),
        "baton: handoff 1 (upgrade) is under way: try again when it is over\n"
    );
    let said = stage.baton.reconfigure(&stage.with_streams(50));
    assert_eq!(said["error"], "handoff 1 (upgrade) is under way: try again when it is over");
    assert!(canary.wait_with_output().expect("it ends").status.success());
    assert_eq!(stage.active()["id"], 2);
}

async fn workers_that_do_not_come_up_leave_the_old_program_in_charge(mode: Mode) {
    let stage = Stage::start(mode).await;
    let load = stage.mixed_load().await;
    let program = stage.program();
    let copy = stage.copy(1);
    for (fault, why) in [
        ("crash-at-start", "exited with status 1 before it was ready"),
        ("hang-at-start", "not ready within 10 s"),
        ("wrong-answer", "readiness: it answered 500 Internal Server Error \"\""),
    ] {
        let said = stage.refused(&["upgrade", text(&copy), "--fault", fault]);
        assert!(said.contains(&format!(": {why}; generation 1 goes on; ")), "{said}");
        assert!(said.ends_with("; the program before it is back\n"), "{said}");
        assert_eq!((stage.active()["id"].as_u64(), stage.program()), (Some(1), program.clone()));
        more_requests(&load, 100).await;
    }
    nobody_felt_anything(&load.stop().await);
    assert!(stage.generations("draining").is_empty());
}

async fn an_upgrade_tells_its_outcome_as_json(mode: Mode) {
    let stage = Stage::start(mode).await;
    let output = stage.baton.command(&["upgrade", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&told["kind"], &told["outcome"]), (&"upgrade".into(), &"done".into()));
    let close = Duration::from_millis(told["ms_to_close"].as_u64().expect("a time"));
    assert!(close < LIMIT, "{told}");
    assert_eq!(told["migrated"].is_u64(), mode == Mode::Ebpf, "{told}");
    if mode == Mode::Inherit {
        let said = stage.refused(&["upgrade", "--canary", "5%"]);
        assert_eq!(
            said,
            "baton: a canary needs handoff mode ebpf, and this is mode inherit (the configuration \
             asks for it): upgrade without --canary\n"
        );
    }
}
