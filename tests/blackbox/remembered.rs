//! What a baton that starts knows of containers before Docker has told it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use baton_tests::{Baton, Config, Docker, until};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::holds::held;

/// The socket of a daemon that takes connections and says nothing until it is let.
struct SlowDocker {
    socket: PathBuf,
    go_on: Arc<Notify>,
    task: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl SlowDocker {
    fn of(docker: &Docker) -> Self {
        let directory = tempfile::tempdir().expect("tempdir");
        let socket = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).expect("bind");
        let go_on = Arc::new(Notify::new());
        let real = docker.endpoint().trim_start_matches("unix://").to_owned();
        let task = tokio::spawn(pass_on(listener, go_on.clone(), real.into()));
        SlowDocker { socket, go_on, task, _directory: directory }
    }

    fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

impl Drop for SlowDocker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass_on(listener: UnixListener, go_on: Arc<Notify>, real: PathBuf) {
    let (mut first, _) = listener.accept().await.expect("accept");
    go_on.notified().await;
    loop {
        let mut daemon = UnixStream::connect(&real).await.expect("the real one");
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut first, &mut daemon).await });
        (first, _) = listener.accept().await.expect("accept");
    }
}

/// A baton that knows these hosts' containers from its first run, and is stopped.
async fn stopped_after_a_list(docker: &Docker, hosts: &[&str]) -> Baton {
    let mut baton = Baton::start(Config::new().docker(docker.endpoint())).await;
    for host in hosts {
        baton.wait_up(host, 1).await;
    }
    assert!(baton.stop_for_now().await.success());
    baton
}

#[tokio::test]
async fn while_docker_does_not_answer_its_last_list_is_served() {
    const HOST: &str = "kept.test";
    let docker = Docker::connect();
    let _web = docker.run("web", &[("VIRTUAL_HOST", HOST)], &[]);
    let mut baton = stopped_after_a_list(&docker, &[HOST]).await;
    let file = baton.directory().join("state").join("containers.json");
    let mode = file.metadata().expect("written at the stop").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "labels hold secrets");

    let nowhere = format!("unix://{}", baton.directory().join("absent.sock").display());
    baton.start_again(&Config::new().docker(&nowhere)).await;
    baton.wait_up(HOST, 1).await;
    assert_eq!(baton.curl(&format!("https://{HOST}/")).run().await.status, 200);
    assert_eq!(baton.status_json()["docker"]["connected"], false);
}

#[tokio::test]
async fn requests_that_come_before_dockers_first_list_wait_for_it() {
    let docker = Docker::connect();
    let _web = docker.run("web", &[("VIRTUAL_HOST", "early.test")], &[]);
    let gone = docker.run("gone", &[("VIRTUAL_HOST", "removed.test")], &[]);
    let mut baton = stopped_after_a_list(&docker, &["early.test", "removed.test"]).await;
    drop(gone);

    let slow = SlowDocker::of(&docker);
    baton.start_again(&Config::new().docker(&slow.endpoint())).await;
    let early = tokio::spawn(baton.curl("https://early.test/").run());
    let vain = tokio::spawn(baton.curl("https://removed.test/").run());
    held(&baton, 2).await;
    slow.go_on.notify_one();
    let (early, vain) = (early.await.expect("no panic"), vain.await.expect("no panic"));
    assert_eq!((early.status, vain.status), (200, 503));
    until("no memory of what is gone", Duration::from_secs(5), async || {
        (!baton.routes_json().to_string().contains("removed.test")).then_some(())
    })
    .await;
}
