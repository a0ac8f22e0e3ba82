//! What a person at the terminal is told.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use baton_tests::{Baton, Config, baton_binary};

use crate::{APP, in_front_of_one, routed_to};

fn check(text: &str) -> Output {
    let directory = tempfile::tempdir().expect("temp dir");
    let file = directory.path().join("baton.toml");
    std::fs::write(&file, text).expect("temp file");
    let mut command = Command::new(baton_binary());
    command.arg("check").arg("--config").arg(&file).output().expect("baton starts")
}

#[test]
fn check_accepts_a_good_file() {
    let output =
        check("threads = 2\n[[route]]\nhost = \"a.test\"\nupstreams = [\"127.0.0.1:1\"]\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn check_says_every_mistake_with_its_line_and_the_nearest_key() {
    let output =
        check("thread = 2\n[listen]\nhttp = [\"nonsense\"]\n[tmeouts]\nconnect = \"1s\"\n");
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    for word in ["baton.toml:1", "threads", "baton.toml:3", "nonsense", "baton.toml:4", "timeouts"]
    {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

#[test]
fn a_named_file_that_is_not_there_is_an_error() {
    let output = Command::new(baton_binary())
        .args(["check", "--config", "/nonexistent/baton.toml"])
        .output()
        .expect("baton starts");
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/baton.toml"));
}

/// The unit of systemd does not start it again.
#[tokio::test]
async fn an_invalid_configuration_is_status_78() {
    let mut baton = Baton::spawn(&Config::new().top("thread = 2"));
    let status = baton.ended().await;
    assert_eq!(status.code(), Some(78), "{}", baton.stderr());
    assert!(baton.stderr().contains("threads"), "{}", baton.stderr());
}

#[test]
fn wrong_usage_is_status_2() {
    let output = Command::new(baton_binary()).arg("conduct").output().expect("baton starts");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn status_without_a_baton_says_so_in_one_line() {
    let directory = tempfile::tempdir().expect("temp dir");
    let output = Command::new(baton_binary())
        .args(["status", "--socket"])
        .arg(directory.path().join("none.sock"))
        .output()
        .expect("baton starts");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
}

#[tokio::test]
async fn an_address_in_use_is_named_and_status_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("free port");
    let address = taken.local_addr().expect("bound");
    let config = Config::new().listen(&format!("http = [\"{address}\"]\nhttps = []"));
    let mut baton = Baton::spawn(&config);
    let status = baton.ended().await;
    assert_eq!(status.code(), Some(1), "{}", baton.stderr());
    assert!(baton.stderr().contains(&address.to_string()), "{}", baton.stderr());
    // The holder is this very test: root can see it.
    if nix::unistd::Uid::effective().is_root() {
        assert!(baton.stderr().contains(&std::process::id().to_string()), "{}", baton.stderr());
    }
}

#[tokio::test]
async fn without_docker_static_routes_are_served_and_it_says_so() {
    let upstream = baton_load::Upstream::start("one").await.expect("upstream");
    let config = routed_to(&upstream.address()).docker("unix:///nonexistent/docker.sock");
    let baton = Baton::start(config).await;
    assert_eq!(baton.curl("https://app.test/").run().await.status, 200);
    let status = baton.status_json();
    assert_eq!(status["docker"]["connected"], false, "{status}");
    baton.wait_said("/nonexistent/docker.sock").await;
}

#[tokio::test]
async fn status_routes_and_certs_answer_people_and_scripts() {
    let (baton, _upstream) = in_front_of_one().await;
    for command in ["status", "routes", "certs"] {
        let people = baton.command(&[command]);
        assert!(people.status.success(), "{people:?}");
        assert!(!people.stdout.is_empty(), "{command}");
        let scripts = baton.command(&[command, "--json"]);
        serde_json::from_slice::<serde_json::Value>(&scripts.stdout).expect(command);
    }
    let routes = String::from_utf8(baton.command(&["routes"]).stdout).expect("text");
    assert!(routes.contains("app.test"), "{routes}");
}

#[tokio::test]
async fn the_access_log_has_a_line_for_each_request() {
    let upstream = baton_load::Upstream::start("one").await.expect("upstream");
    let config = routed_to(&upstream.address()).section("[log]\naccess = \"json\"");
    let baton = Baton::start(config).await;
    for path in ["/a", "/b", "/c"] {
        assert_eq!(baton.curl(&format!("https://app.test{path}")).run().await.status, 200);
    }
    let lines = baton_tests::until("three lines", std::time::Duration::from_secs(5), async || {
        let text = baton.stdout();
        (text.lines().count() == 3).then_some(text)
    })
    .await;
    for (line, path) in lines.lines().zip(["/a", "/b", "/c"]) {
        serde_json::from_str::<serde_json::Value>(line).expect("a JSON line");
        assert!(line.contains(path), "{line}");
    }
}

#[test]
fn a_state_of_another_version_is_refused_in_the_preflight() {
    let mut preflight = Command::new(baton_binary())
        .arg("preflight")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("baton starts");
    let mut stdin = preflight.stdin.take().expect("piped");
    stdin.write_all(b"{\"state_version\": 99}").expect("send");
    drop(stdin);
    let output = preflight.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, "baton: the state is of version 99, and this program knows version 1\n");
}

#[tokio::test]
async fn what_is_watched_is_shown_again_as_it_changes() {
    let (baton, upstream) = in_front_of_one().await;
    let mut watch = baton.spawn_command(&["routes", "--watch"]);
    let lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let mut lines = lines.map(|line| line.expect("text"));
    assert!(lines.any(|line| line.starts_with(APP)), "the first look");
    let more = routed_to(&upstream.address()).route("watched.test", &[upstream.address()]);
    baton.reconfigure(&more);
    let next = lines.find(|line| line.starts_with("watched.test"));
    // Nothing but text where nobody looks.
    assert!(next.expect("another look").is_ascii());
    watch.kill().expect("it runs");
    watch.wait().expect("it ends");
}

#[tokio::test]
async fn why_tells_the_story_of_a_host() {
    let (baton, _upstream) = in_front_of_one().await;
    let output = baton.command(&["why", APP]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    for part in ["app.test is routed, and it is served.", "DNS: ", "Certificate: valid (local"] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    let output = baton.command(&["why", "nobody.test"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("nobody.test: there is no such host"), "{said}");
}
