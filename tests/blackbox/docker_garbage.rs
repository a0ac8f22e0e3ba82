//! A Docker daemon that talks nonsense, or very slowly: containers stay where they were, memory stays
//! bounded, and baton comes back with the daemon.

use std::path::PathBuf;
use std::time::Duration;

use baton_tests::{Baton, Config, Docker, peak, reset_peak, resident, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const HOST: &str = "garbage.test";
const LIMIT: Duration = Duration::from_secs(20);
/// What a controller may hold more for an answer of a daemon.
const MEMORY: u64 = 32 << 20;
/// Bytes of an answer that does not end, before the connection is closed.
const ENDLESS: usize = 256 << 20;
/// What a slow daemon says at once, in bytes, and how long until it goes on: a description of a container
/// takes it about half a second.
const PIECE: usize = 256;
const PAUSE: Duration = Duration::from_millis(10);

/// What is answered in place of the daemon.
#[derive(Debug, Clone, Copy)]
struct Garbage {
    /// To requests whose line has this in it.
    path: &'static str,
    answer: &'static [u8],
    /// The last byte is repeated.
    endless: bool,
}

/// In front of a daemon; garbage on new connections as long as it is told so.
struct Liar {
    socket: PathBuf,
    says: watch::Sender<Option<Garbage>>,
    /// How many lies were told, to their end or until the other side had enough.
    told: watch::Receiver<usize>,
    task: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Liar {
    fn before(docker: &Docker) -> Self {
        Self::start(docker, false)
    }

    /// In place of lies: the truth, piece by piece.
    fn slow(docker: &Docker) -> Self {
        Self::start(docker, true)
    }

    fn start(docker: &Docker, is_slow: bool) -> Self {
        let directory = tempfile::tempdir().expect("tempdir");
        let socket = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).expect("bind");
        let (says, said) = watch::channel(None);
        let (count, told) = watch::channel(0);
        let real = PathBuf::from(docker.endpoint().trim_start_matches("unix://"));
        let task = tokio::spawn(listen(listener, (real, is_slow), said, count));
        Liar { socket, says, told, task, _directory: directory }
    }

    fn say(&self, garbage: Option<Garbage>) {
        self.says.send_replace(garbage);
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(
    listener: UnixListener,
    real: (PathBuf, bool),
    says: watch::Receiver<Option<Garbage>>,
    told: watch::Sender<usize>,
) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (real, says, told) = (real.clone(), says.clone(), told.clone());
        connections.spawn(async move {
            // A daemon that goes, and a client that does, is what this is about.
            let _ = serve(client, real, says, &told).await;
        });
    }
}

/// One request a connection, as baton asks. Those that are open end when the lies begin.
async fn serve(
    mut client: UnixStream,
    (real, is_slow): (PathBuf, bool),
    mut says: watch::Receiver<Option<Garbage>>,
    told: &watch::Sender<usize>,
) -> std::io::Result<()> {
    let mut head = vec![0; 4096];
    let length = client.read(&mut head).await?;
    let line = String::from_utf8_lossy(&head[..length]).into_owned();
    let garbage = *says.borrow_and_update();
    if let Some(garbage) = garbage.filter(|garbage| line.contains(garbage.path)) {
        let heard = lie(client, garbage).await;
        told.send_modify(|told| *told += 1);
        return heard;
    }
    let mut daemon = UnixStream::connect(&real).await?;
    daemon.write_all(&head[..length]).await?;
    if is_slow {
        return trickle(daemon, client).await;
    }
    tokio::select! {
        done = tokio::io::copy_bidirectional(&mut client, &mut daemon) => done.map(|_| ()),
        _ = says.changed() => Ok(()),
    }
}

async fn trickle(mut daemon: UnixStream, mut client: UnixStream) -> std::io::Result<()> {
    let mut piece = [0; PIECE];
    loop {
        let length = tokio::select! {
            read = daemon.read(&mut piece) => read?,
            gone = client.readable() => return gone,
        };
        if length == 0 {
            return client.shutdown().await;
        }
        client.write_all(&piece[..length]).await?;
        sleep(PAUSE).await;
    }
}

async fn lie(mut client: UnixStream, garbage: Garbage) -> std::io::Result<()> {
    client.write_all(garbage.answer).await?;
    let again = vec![*garbage.answer.last().expect("an answer"); 1 << 16];
    let mut left = if garbage.endless { ENDLESS } else { 0 };
    while left > 0 {
        client.write_all(&again).await?;
        left = left.saturating_sub(again.len());
    }
    client.shutdown().await
}

const GARBAGE: [Garbage; 7] = [
    Garbage { path: "GET ", answer: b"\x00\xff no HTTP\r\n\r\n", endless: false },
    Garbage {
        path: "GET ",
        answer: b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
        endless: false,
    },
    Garbage {
        path: "/containers/json",
        answer: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[{\"Id\":7,",
        endless: false,
    },
    Garbage {
        path: "/containers/json",
        answer: b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[",
        endless: false,
    },
    Garbage {
        path: "/events",
        answer: b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"Type\": 7}\n",
        endless: false,
    },
    Garbage {
        path: "/version",
        answer: b"HTTP/1.1 200 OK\r\n\r\n{\"Version\": \"1",
        endless: true,
    },
    Garbage { path: "/events", answer: b"HTTP/1.1 200 OK\r\n\r\n{\"Type\": \"a", endless: true },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_talks_nonsense_costs_no_route_and_no_memory() {
    let docker = Docker::connect();
    let liar = Liar::before(&docker);
    let _web = docker.run("web", &[("VIRTUAL_HOST", HOST)], &[]);
    let endpoint = format!("unix://{}", liar.socket.display());
    let baton = Baton::start(Config::new().docker(&endpoint)).await;
    baton.wait_up(HOST, 1).await;
    for garbage in GARBAGE {
        reset_peak(baton.pid());
        let before = resident(baton.pid());
        let told = *liar.told.borrow();
        liar.say(Some(garbage));
        until("a lie told", LIMIT, async || (*liar.told.borrow() > told).then_some(())).await;
        assert_eq!(baton.curl(&format!("https://{HOST}/")).run().await.status, 200, "{garbage:?}");
        let grown = peak(baton.pid()).saturating_sub(before);
        assert!(grown < MEMORY, "{garbage:?}: {} MiB", grown >> 20);
        liar.say(None);
        until("the daemon again", LIMIT, async || {
            (baton.status_json()["docker"]["connected"] == true).then_some(())
        })
        .await;
        assert_eq!(baton.upstreams_up(HOST), 1, "{garbage:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_trickles_is_waited_for() {
    let docker = Docker::connect();
    let slow = Liar::slow(&docker);
    let _web = docker.run("web", &[("VIRTUAL_HOST", "trickle.test")], &[]);
    let endpoint = format!("unix://{}", slow.socket.display());
    let baton = Baton::start(Config::new().docker(&endpoint)).await;
    baton.wait_up("trickle.test", 1).await;
    let load = crate::http_kinds(baton.https("trickle.test")).start();
    let _second = docker.run("second", &[("VIRTUAL_HOST", "trickle.test")], &[]);
    baton.wait_up("trickle.test", 2).await;
    crate::more_requests(&load, 50).await;
    let report = load.stop().await;
    crate::nobody_felt_anything(&report);
    assert!(report.answered_by("second") > 0, "{report}");
}
