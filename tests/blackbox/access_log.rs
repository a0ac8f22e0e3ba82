//! What the access log says, and that nobody but baton writes lines of it.

use std::io::{BufRead, BufReader};
use std::sync::mpsc;
use std::time::Duration;

use baton_load::Upstream;
use baton_tests::{Baton, until};

use crate::{APP, routed_to};

const PATIENCE: Duration = Duration::from_secs(5);

async fn lines(baton: &Baton, count: usize) -> Vec<String> {
    until("lines in the log", PATIENCE, async || {
        let lines: Vec<String> = baton.stdout().lines().map(ToOwned::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

#[tokio::test]
async fn a_format_of_nginx_is_written_and_cannot_be_forged() {
    let upstream = Upstream::start("one").await.expect("upstream");
    // Each thread has a sample of its own.
    let config = routed_to(&upstream.address())
        .top("threads = 1")
        .section("[log]\nlevel = \"info\"\nredact = [\"token\"]")
        .variable("LOG_FORMAT", "$host $remote_user \"$request\" $status $http_x_a $upstream_addr");
    let baton = Baton::start(config).await;
    let answer = baton
        .curl(&format!("https://{APP}/a?token=hunter2&b=1"))
        // A name with a line feed in it: a, LF, b.
        .args(["--http1.1", "--header", "Authorization: Basic YQpiOmM="])
        .args(["--header", "X-A: x\" y\\"])
        .run()
        .await;
    assert_eq!(answer.status, 200);
    let address = upstream.address();
    assert_eq!(
        lines(&baton, 1).await,
        [format!(
            "{APP} a\\x0Ab \"GET /a?token=(hidden)&b=1 HTTP/1.1\" 200 x\\x22 y\\x5C {address}"
        )]
    );
    // The configuration's word stands before the environment's, and costs a generation.
    let config = routed_to(&upstream.address())
        .top("threads = 1")
        .section("[log]\naccess = \"json\"\nsample = 3");
    baton.reconfigure(&config);
    for _ in 0..3 {
        assert_eq!(baton.curl(&format!("https://{APP}/")).arg("--http2").run().await.status, 200);
    }
    let line = lines(&baton, 2).await.pop().expect("a line");
    let line: serde_json::Value = serde_json::from_str(&line).expect("a JSON line");
    for (key, want) in [
        ("generation", serde_json::json!(2)),
        ("tls", "TLSv1.3".into()),
        ("protocol", "HTTP/2.0".into()),
        ("upstream_address", address.to_string().into()),
    ] {
        assert_eq!(line[key], want, "{key}: {line}");
    }
    assert_eq!(baton.stdout().lines().count(), 2, "one of three has a line");
}

/// Asks until a line that speaks of `path` comes, for it takes a moment until workers know who follows.
async fn followed(baton: &Baton, lines: &mpsc::Receiver<String>, path: &str) {
    until(&format!("a line about {path}"), PATIENCE, async || {
        let answer = baton.curl(&format!("https://{APP}{path}")).run().await;
        assert_eq!(answer.status, 200);
        lines.try_iter().any(|line| line.contains(path)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_host_is_followed_across_handoffs_and_controllers() {
    const OTHER: &str = "other.test";
    let upstream = Upstream::start("one").await.expect("upstream");
    let config = |threads: u8| {
        routed_to(&upstream.address())
            .route(OTHER, &[upstream.address()])
            .top(&format!("threads = {threads}"))
            // Who follows sees them all the same.
            .section("[log]\nlevel = \"info\"\naccess = \"off\"")
    };
    let mut baton = Baton::start(config(1)).await;
    let mut logs = baton.spawn_command(&["logs", "--host", "APP.test"]);
    let stdout = BufReader::new(logs.stdout.take().expect("piped"));
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        for line in stdout.lines().map_while(Result::ok) {
            all.push(line.clone());
            let _ = sender.send(line);
        }
        all
    });
    followed(&baton, &lines, "/first").await;
    assert_eq!(baton.curl(&format!("https://{OTHER}/unseen")).run().await.status, 200);
    followed(&baton, &lines, "/behind").await;
    baton.reconfigure(&config(2));
    followed(&baton, &lines, "/handed-over").await;
    assert!(baton.command(&["upgrade"]).status.success());
    followed(&baton, &lines, "/upgraded").await;
    baton.kill_controller().await;
    baton.start_controller();
    baton.wait_ready().await;
    followed(&baton, &lines, "/taken-over").await;
    logs.kill().expect("it runs");
    logs.wait().expect("it ends");
    let all = reader.join().expect("it reads");
    assert!(all.iter().all(|line| line.contains(APP) && line.contains("GET /")), "{all:#?}");
    assert_eq!(baton.stdout(), "", "the log itself is off");
}
