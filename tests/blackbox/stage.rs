//! What the tests of handoffs have in common: a baton in one handoff mode in front of one upstream,
//! load on it, and questions about its generations.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use baton_load::{Kind, Load, Report, Running, Upstream};
use baton_tests::{Baton, Config, baton_binary, until};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{APP, more_requests, nobody_felt_anything, routed_to};

/// For what baton does by itself.
pub const LIMIT: Duration = Duration::from_secs(20);
pub const WEBSOCKETS: usize = 4;

/// Makes tests of `async fn NAME(mode: Mode)`: of those in `both` one in each handoff mode, of those
/// in `ebpf` one where the selector can be had.
macro_rules! in_modes {
    (both: $($both:ident),* ; ebpf: $($ebpf:ident),* $(,)?) => {
        mod ebpf {
            $crate::stage::in_modes!(@Ebpf $($both)* $($ebpf)*);
        }
        mod inherit {
            $crate::stage::in_modes!(@Inherit $($both)*);
        }
    };
    (@$mode:ident $($name:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let mode = $crate::stage::Mode::$mode;
            if mode.is_possible(stringify!($name)) {
                super::$name(mode).await;
            }
        })*
    };
}
pub(crate) use in_modes;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Ebpf,
    Inherit,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Ebpf => "ebpf",
            Mode::Inherit => "inherit",
        }
    }

    /// Says so where it is not.
    pub fn is_possible(self, test: &str) -> bool {
        let possible = self == Mode::Inherit || nix::unistd::geteuid().is_root();
        if !possible {
            println!("{test}: skipped: the selector needs CAP_BPF");
        }
        possible
    }
}

/// A baton in front of one upstream.
#[derive(Debug)]
pub struct Stage {
    pub baton: Baton,
    pub upstream: Upstream,
    mode: Mode,
}

impl Stage {
    pub async fn start(mode: Mode) -> Self {
        Stage::start_with(mode, |config| config).await
    }

    /// With more in its configuration than [`Stage::config`] has.
    pub async fn start_with(mode: Mode, more: impl FnOnce(Config) -> Config) -> Self {
        let upstream = Upstream::start("one").await.expect("upstream");
        let baton = Baton::start(more(config_for(&upstream, mode))).await;
        assert_eq!(baton.status_json()["handoff"]["mode"], mode.as_str());
        Stage { baton, upstream, mode }
    }

    /// The configuration that it was started with.
    pub fn config(&self) -> Config {
        config_for(&self.upstream, self.mode)
    }

    /// A change of this key needs a generation.
    pub fn with_streams(&self, streams: u32) -> Config {
        self.with_streams_to(&self.upstream, streams)
    }

    /// As [`Stage::with_streams`], in front of another upstream.
    pub fn with_streams_to(&self, upstream: &Upstream, streams: u32) -> Config {
        config_for(upstream, self.mode).section(&format!("[limits]\nstreams = {streams}"))
    }

    /// A reload that makes a generation.
    pub fn hand_over(&self, config: &Config) {
        let said = self.baton.reconfigure(config);
        assert_eq!(said["handoff"]["outcome"], "done", "{said}");
        assert_eq!(said["handoff"]["to"], self.active()["id"], "{said}");
    }

    /// A command that hands over to this generation, in the same process.
    pub fn done(&self, command: &[&str], generation: u64) -> Output {
        let output = self.baton.command(command);
        assert_eq!(output.status.code(), Some(0), "{output:?}\n{}", self.baton.stderr());
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.ends_with(&format!("done: generation {generation} serves\n")), "{said}");
        assert_eq!(self.active()["id"], generation);
        assert_eq!(self.baton.status_json()["pid"], self.baton.pid());
        output
    }

    /// A command that is refused or fails: exit status 1, and one line that says why.
    pub fn refused(&self, command: &[&str]) -> String {
        let output = self.baton.command(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(said.starts_with("baton: "), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    }

    /// A file of its own with the same program. By `cp`, so that this process, which starts others
    /// all the time, never has the file open for writing (ETXTBSY).
    pub fn copy(&self, number: usize) -> PathBuf {
        let to = self.baton.directory().join(format!("baton-{number}"));
        let status = Command::new("cp").arg(baton_binary()).arg(&to).status().expect("cp");
        assert!(status.success(), "{status}");
        to
    }

    /// The file that the controller runs, as the kernel names it.
    pub fn program(&self) -> PathBuf {
        fs::read_link(format!("/proc/{}/exe", self.baton.pid())).expect("it is running")
    }

    pub fn active(&self) -> Value {
        let status = self.baton.status_json();
        find(&status, "active").next().expect("an active generation").clone()
    }

    /// The generations in this state, by number.
    pub fn generations(&self, state: &str) -> Vec<u64> {
        let status = self.baton.status_json();
        find(&status, state).map(|found| found["id"].as_u64().expect("a number")).collect()
    }

    pub async fn draining_at_most(&self, count: usize) {
        let what = format!("at most {count} generations drain");
        until(&what, LIMIT, async || (self.generations("draining").len() <= count).then_some(()))
            .await;
    }

    /// Waits until the generation before has closed its listeners.
    pub async fn closed(&self) {
        until("the close of the old listeners", LIMIT, async || {
            self.last_handoff()["ms_to_close"].as_u64()
        })
        .await;
    }

    pub fn last_handoff(&self) -> Value {
        self.baton.status_json()["last_handoffs"][0].clone()
    }

    pub fn listeners(&self) -> Vec<SocketAddr> {
        let status = self.baton.status_json();
        let listeners = status["listeners"].as_array().expect("a list of listeners");
        let address = |listener: &Value| listener["address"].as_str().expect("text").parse();
        listeners.iter().map(|listener| address(listener).expect("an address")).collect()
    }

    /// Clients of every kind under way: think times of 1 to 20 ms, and 16 streams over HTTP/2.
    pub async fn mixed_load(&self) -> Running {
        let load = Load::new(self.baton.https(APP))
            .clients(Kind::Http1KeepAlive, 8)
            .clients(Kind::Http1Fresh, 4)
            .clients(Kind::Http2 { streams: 16 }, 2)
            .clients(Kind::WebSocket, WEBSOCKETS)
            .start();
        // All tunnels in the first generation.
        until("the tunnels", LIMIT, async || {
            let tunnels = &load.snapshot().kinds[&Kind::WebSocket];
            (tunnels.connections == WEBSOCKETS as u64).then_some(())
        })
        .await;
        more_requests(&load, 200).await;
        load
    }
}

fn config_for(upstream: &Upstream, mode: Mode) -> Config {
    routed_to(&upstream.address()).top(&format!("handoff = {:?}", mode.as_str()))
}

pub fn find<'a>(status: &'a Value, state: &'a str) -> impl Iterator<Item = &'a Value> {
    let generations = status["generations"].as_array().expect("a list of generations");
    generations.iter().filter(move |generation| generation["state"] == state)
}

pub fn tunnels_lived_on(report: &Report) {
    nobody_felt_anything(report);
    assert_eq!(report.kinds[&Kind::WebSocket].connections, WEBSOCKETS as u64, "{report}");
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

pub fn get(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// HTTP/1.1 over plain TCP, with one request behind it.
#[derive(Debug)]
pub struct IdleConnection(TcpStream);

impl IdleConnection {
    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: plain.test\r\n\r\n";

    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("baton listens");
        let mut connection = IdleConnection(stream);
        let answer = connection.ask().await;
        assert!(!says_close(&answer), "{answer}");
        connection
    }

    /// One request and its answer.
    pub async fn ask(&mut self) -> String {
        self.0.write_all(Self::REQUEST.as_bytes()).await.expect("send");
        let mut answer = String::new();
        // The upstream's body is one line.
        while answer.split_once("\r\n\r\n").is_none_or(|(_, body)| !body.ends_with('\n')) {
            let mut buffer = [0; 4096];
            let length = self.0.read(&mut buffer).await.expect("an answer, not a reset");
            assert!(length > 0, "closed after {answer}");
            answer.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        answer
    }

    /// Sends one more, and returns everything up to the end of the stream; none where it has ended
    /// already.
    pub async fn last_request(self) -> Option<String> {
        self.last(Self::REQUEST).await
    }

    /// The same with a request of the test's own.
    pub async fn last(mut self, request: &str) -> Option<String> {
        // A connection that has had its last answer may take no more.
        drop(self.0.write_all(request.as_bytes()).await);
        let mut answer = String::new();
        match self.0.read_to_string(&mut answer).await {
            Ok(0) => None,
            // Closed by an orderly end before: the request was answered by a reset.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Ok(_) => Some(answer),
            Err(error) => panic!("{error}"),
        }
    }
}

pub fn says_close(answer: &str) -> bool {
    answer.to_lowercase().contains("\r\nconnection: close\r\n")
}
