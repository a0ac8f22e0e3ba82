//! A running baton: the built binary with a state directory and ports of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_load::{Target, roots_from_pem};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::RootCertStore;
use serde_json::Value;
use tempfile::TempDir;

use crate::binaries::baton_binary;
use crate::config::Config;
use crate::curl::Curl;
use crate::namespace::Namespace;
use crate::scrape::Scrape;
use crate::wait::until;

/// For start, stop and every change to be seen.
const LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub struct Baton {
    directory: TempDir,
    variables: Vec<(String, String)>,
    child: Child,
    http: Option<SocketAddr>,
    https: Option<SocketAddr>,
}

impl Baton {
    /// Starts it and waits until it serves.
    pub async fn start(config: Config) -> Self {
        let mut baton = Self::spawn(&config);
        baton.wait_ready().await;
        baton
    }

    /// As [`Baton::start`], in a network namespace.
    pub async fn start_in(namespace: &Namespace, config: Config) -> Self {
        let directory = directory_with(&config);
        let (path, variables) = (directory.path().to_owned(), config.variables().to_vec());
        let child = namespace.run(move || run(&path, &variables));
        let variables = config.variables().to_vec();
        let mut baton = Baton { directory, variables, child, http: None, https: None };
        baton.wait_ready().await;
        baton
    }

    /// As [`Baton::start`], with more in its environment.
    pub async fn start_with(config: Config, environment: &[(&str, &Path)]) -> Self {
        let text = |path: &Path| path.to_str().expect("test paths are UTF-8").to_owned();
        let more =
            |config: Config, (name, path): &(&str, &Path)| config.variable(name, &text(path));
        let config = environment.iter().fold(config, more);
        let mut baton = Self::spawn(&config);
        baton.wait_ready().await;
        baton
    }

    /// Starts it without waiting, for one that is not to become ready.
    pub fn spawn(config: &Config) -> Self {
        let directory = directory_with(config);
        let variables = config.variables().to_vec();
        let child = run(directory.path(), &variables);
        Baton { directory, variables, child, http: None, https: None }
    }

    /// SIGKILL for the controller alone.
    pub async fn kill_controller(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    /// SIGUSR1: the controller ends, and its workers serve on.
    pub async fn leave(&mut self) -> ExitStatus {
        self.signal(Signal::SIGUSR1);
        self.ended().await
    }

    /// Starts another controller with the same files, after [`Baton::kill_controller`].
    pub fn start_controller(&mut self) {
        self.child = run(self.directory(), &self.variables);
    }

    /// The same with another configuration, once it serves.
    pub async fn start_again(&mut self, config: &Config) {
        self.write_config(config);
        self.variables = config.variables().to_vec();
        self.start_controller();
        self.wait_ready().await;
    }

    /// The pids of workers that a controller that died has left.
    pub fn left_workers(&self) -> Vec<i32> {
        let directory = self.directory().join("control.sock.workers");
        let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
        let pid = |name: &str| name.split_once('-')?.1.parse().ok();
        entries
            .filter_map(|entry| pid(entry.ok()?.file_name().to_str()?))
            .filter(|pid| is_worker(*pid))
            .collect()
    }

    /// Waits until a generation serves, and learns where it listens.
    pub async fn wait_ready(&mut self) {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.try_status_json().filter(|s| active(s).is_some()) {
                self.http = listener(&status, "http");
                self.https = listener(&status, "https");
                return;
            }
            if let Some(status) = self.child.try_wait().expect("our child") {
                panic!("baton ended with {status}:\n{}", self.stderr());
            }
            assert!(Instant::now() < deadline, "not ready:\n{}", self.stderr());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Replaces the configuration file and tells baton; what it says.
    pub fn reconfigure(&self, config: &Config) -> Value {
        self.try_reconfigure(config).expect("the admin socket answers")
    }

    /// As [`Baton::reconfigure`]; none where nobody answers.
    pub fn try_reconfigure(&self, config: &Config) -> Option<Value> {
        self.write_config(config);
        self.ask("POST", "/reload")
    }

    /// Replaces the configuration file and tells nobody.
    pub fn write_config(&self, config: &Config) {
        config.write_to(self.directory());
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("the kernel's pids fit")
    }

    /// The process that serves.
    pub fn worker_pid(&self) -> i32 {
        active(&self.status_json()).expect("an active generation")
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn config_file(&self) -> PathBuf {
        self.directory().join("baton.toml")
    }

    pub fn control_socket(&self) -> PathBuf {
        self.directory().join("control.sock")
    }

    pub fn ca_file(&self) -> PathBuf {
        self.directory().join("state").join("local-ca").join("ca.pem")
    }

    pub fn roots(&self) -> Arc<RootCertStore> {
        let pem = std::fs::read(self.ca_file()).expect("the local CA's file");
        roots_from_pem(&pem).expect("the local CA's certificate")
    }

    pub fn http_address(&self) -> SocketAddr {
        self.http.expect("an http listener")
    }

    pub fn https_address(&self) -> SocketAddr {
        self.https.expect("an https listener")
    }

    /// Plain HTTP to this host.
    pub fn http(&self, host: &str) -> Target {
        Target::plain(self.http_address(), host)
    }

    /// HTTPS to this host, which has to have a certificate of the local CA.
    pub fn https(&self, host: &str) -> Target {
        Target::tls(self.https_address(), host, self.roots())
    }

    /// curl, led to this baton whatever the host in the URL.
    pub fn curl(&self, url: &str) -> Curl {
        Curl::new(self, url)
    }

    pub fn status_json(&self) -> Value {
        self.ask("GET", "/status").expect("the admin socket answers")
    }

    pub fn try_status_json(&self) -> Option<Value> {
        self.ask("GET", "/status")
    }

    pub fn routes_json(&self) -> Value {
        self.ask("GET", "/routes").expect("the admin socket answers")
    }

    pub fn certs_json(&self) -> Value {
        self.ask("GET", "/certs").expect("the admin socket answers")
    }

    /// Has an order that failed tried again, which gives a certificate.
    pub fn retry_order(&self, name: &str) {
        let output = self.command(&["certs", "--retry", name]);
        assert!(output.status.success(), "{name}: {output:?}");
    }

    fn ask(&self, method: &str, path: &str) -> Option<Value> {
        let mut stream = UnixStream::connect(self.control_socket()).ok()?;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: baton\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }

    /// The upstreams that are in rotation for a host, over all its paths.
    pub fn upstreams_up(&self, host: &str) -> usize {
        let routes = self.routes_json();
        let routes = routes["routes"].as_array().expect("a list of routes");
        routes
            .iter()
            .filter(|route| route["host"] == host)
            .flat_map(|route| route["upstreams"].as_array().expect("a list of upstreams"))
            .filter(|upstream| upstream["state"] == "up")
            .count()
    }

    /// Waits until so many upstreams of a host are in rotation.
    pub async fn wait_up(&self, host: &str, count: usize) {
        let what = format!("{count} upstreams of {host} up");
        until(&what, LIMIT, async || (self.upstreams_up(host) == count).then_some(())).await;
    }

    /// Runs another `baton` command that talks to this one.
    pub fn command(&self, arguments: &[&str]) -> std::process::Output {
        self.spawn_command(arguments).wait_with_output().expect("it ends")
    }

    /// As [`Baton::command`], without waiting for its end.
    pub fn spawn_command(&self, arguments: &[&str]) -> Child {
        Command::new(baton_binary())
            .args(arguments)
            .arg("--socket")
            .arg(self.control_socket())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("baton starts")
    }

    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.directory().join("stderr")).unwrap_or_default()
    }

    /// Where its metrics are, as it said last.
    pub fn metrics_address(&self) -> SocketAddr {
        let said = self.stderr();
        let (_, address) = said.rsplit_once("metrics at http://").expect("a listener of metrics");
        let (address, _) = address.split_once('/').expect("an address and a path");
        address.parse().expect("an address")
    }

    /// What Prometheus would read.
    pub async fn scrape(&self) -> Scrape {
        Scrape::of(self.metrics_address()).await
    }

    /// The access log.
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.directory().join("stdout")).unwrap_or_default()
    }

    /// Waits until the controller has said this on stderr.
    pub async fn wait_said(&self, text: &str) {
        until(&format!("`{text}` in the log"), LIMIT, async || {
            self.stderr().contains(text).then_some(())
        })
        .await;
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it is running");
    }

    /// SIGTERM, and its end.
    pub async fn stop(mut self) -> ExitStatus {
        self.stop_for_now().await
    }

    /// The same, for one that is to be started again.
    pub async fn stop_for_now(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        until("baton's end", LIMIT, async || self.child.try_wait().expect("our child")).await
    }
}

impl Drop for Baton {
    #[expect(clippy::disallowed_methods, reason = "drop cannot await, and its test is over")]
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGTERM);
            let deadline = Instant::now() + LIMIT;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
            drop(self.child.kill());
            drop(self.child.wait());
        }
        // Nobody will take over what a killed controller has left.
        for pid in self.left_workers() {
            let _gone_already = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if std::thread::panicking() {
            eprintln!("--- what baton said\n{}---", self.stderr());
        }
    }
}

fn directory_with(config: &Config) -> TempDir {
    let directory = tempfile::Builder::new().prefix("baton-test-").tempdir().expect("temp dir");
    config.write_to(directory.path());
    directory
}

fn run(directory: &Path, variables: &[(String, String)]) -> Child {
    let log = |name| {
        let path = directory.join(name);
        File::options().create(true).append(true).open(path).expect("log file")
    };
    Command::new(baton_binary())
        .arg("run")
        .arg("--config")
        .arg(directory.join("baton.toml"))
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log("stdout"))
        .stderr(log("stderr"))
        .spawn()
        .expect("baton starts")
}

fn is_worker(pid: i32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| name == "baton-worker\n")
}

/// The pid of the active generation.
fn active(status: &Value) -> Option<i32> {
    let generations = status["generations"].as_array()?;
    let active = generations.iter().find(|generation| generation["state"] == "active")?;
    i32::try_from(active["pid"].as_i64()?).ok()
}

fn listener(status: &Value, kind: &str) -> Option<SocketAddr> {
    let listeners = status["listeners"].as_array()?;
    let listener = listeners.iter().find(|listener| listener["kind"] == kind)?;
    listener["address"].as_str()?.parse().ok()
}
