//! A host with thousands of containers, which no host of tests has: one real one, of which the daemon's
//! answers make as many as are wanted.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use baton_tests::{Baton, Config, Docker, resident, until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

const MANY: usize = 2000;
const LIMIT: Duration = Duration::from_secs(60);
/// Resident, in bytes, of the controller and of the worker: an answer of Docker's about a container is of
/// some 10 KiB, and a certificate with its key of some 2.
const MEMORY: u64 = 160 << 20;

fn id(number: usize) -> String {
    format!("{number:064x}")
}

fn host(number: usize) -> String {
    format!("c{number}.crowd.test")
}

/// In front of a daemon.
struct Crowd {
    socket: PathBuf,
    task: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Crowd {
    /// What the daemon says of `container`, so many times, each with a name and a host of its own; beside
    /// it nothing but what happens from now on.
    async fn of(docker: &Docker, container: &str) -> Self {
        let real = PathBuf::from(docker.endpoint().trim_start_matches("unix://"));
        let answer = get(&real, &format!("/containers/{container}/json")).await;
        let model: Value = serde_json::from_slice(&answer).expect("a container");
        let directory = tempfile::tempdir().expect("tempdir");
        let socket = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).expect("bind");
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client, real.clone(), model.clone()));
            }
        });
        Crowd { socket, task, _directory: directory }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request a connection, as baton asks. A client that goes is no fault.
async fn serve(mut client: UnixStream, real: PathBuf, model: Value) -> std::io::Result<()> {
    let mut head = vec![0; 4096];
    let length = client.read(&mut head).await?;
    let line = String::from_utf8_lossy(&head[..length]).into_owned();
    let path = line.split(' ').nth(1).unwrap_or_default();
    let Some(answer) = answer(path, model) else {
        let mut daemon = UnixStream::connect(&real).await?;
        daemon.write_all(&head[..length]).await?;
        return tokio::io::copy_bidirectional(&mut client, &mut daemon).await.map(|_| ());
    };
    let body = answer.to_string();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    client.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await?;
    client.shutdown().await
}

/// None for what the daemon answers itself.
fn answer(path: &str, mut model: Value) -> Option<Value> {
    if path.contains("/containers/json") {
        return Some(
            (0..MANY).map(|number| json!({"Id": id(number), "State": "running"})).collect(),
        );
    }
    let asked = path.split("/containers/").nth(1)?.split('/').next()?;
    let number = usize::from_str_radix(asked, 16).ok().filter(|number| *number < MANY)?;
    model["Id"] = json!(asked);
    model["Name"] = json!(format!("/crowd-{number}"));
    model["Config"]["Env"] = json!([format!("VIRTUAL_HOST={}", host(number))]);
    Some(model)
}

async fn get(socket: &Path, path: &str) -> Vec<u8> {
    let mut daemon = UnixStream::connect(socket).await.expect("dockerd");
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    daemon.write_all(request.as_bytes()).await.expect("dockerd reads");
    let mut answer = Vec::new();
    daemon.read_to_end(&mut answer).await.expect("dockerd answers");
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
    answer.split_off(head + 4)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_containers_are_routed_and_one_more_is_soon() {
    let docker = Docker::connect();
    let model = docker.run("crowd-model", &[], &[]);
    let crowd = Crowd::of(&docker, model.name()).await;
    let begun = Instant::now();
    let config = Config::new().docker(&format!("unix://{}", crowd.socket.display()));
    let baton = Baton::start(config).await;
    let served = async |host: &str| {
        let answer = baton.curl(&format!("https://{host}/")).run().await;
        assert_eq!((answer.status, answer.field("x-upstream")), (200, Some("crowd-model")));
    };
    let all = || {
        let routes = baton.routes_json();
        let routes = routes["routes"].as_array().expect("a list");
        routes.iter().filter(|route| route["upstreams"][0]["state"] == "up").count()
    };
    until("all routes", LIMIT, async || (all() == MANY).then_some(())).await;
    println!("{MANY} containers are routed after {:.1?}", begun.elapsed());
    for number in [0, MANY / 2, MANY - 1] {
        served(&host(number)).await;
    }

    let begun = Instant::now();
    let _one_more = docker.run("crowd-more", &[("VIRTUAL_HOST", "more.crowd.test")], &[]);
    let started = begun.elapsed();
    baton.wait_up("more.crowd.test", 1).await;
    println!("one more: started in {started:.1?}, routed after {:.1?}", begun.elapsed() - started);
    let answer = baton.curl("https://more.crowd.test/").run().await;
    assert_eq!((answer.status, answer.field("x-upstream")), (200, Some("crowd-more")));
    for (what, pid) in [("controller", baton.pid()), ("worker", baton.worker_pid())] {
        let bytes = resident(pid);
        println!("{what}: {} MiB", bytes >> 20);
        assert!(bytes < MEMORY, "{what}: {} MiB", bytes >> 20);
    }
}
