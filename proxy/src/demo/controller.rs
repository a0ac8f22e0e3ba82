//! The controller that the demo runs: this very executable, as `baton run`.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::configuration::Demo;
use crate::controller::admin::answers::{Handoff, HandoffMode, Reloaded, Status, UpgradeOrder};
use crate::controller::admin::client::{self, AskError};
use crate::controller::generations::Launch;

const READY_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// Lines of its log that are shown when something went wrong.
const LAST_LINES: usize = 15;

pub(super) struct Controller {
    child: Child,
    pub(super) http: SocketAddr,
    pub(super) https: SocketAddr,
    socket: PathBuf,
    log: PathBuf,
}

impl Controller {
    /// Starts it, and waits until its worker serves.
    pub(super) async fn start(demo: &Demo) -> anyhow::Result<Self> {
        let log = File::create(demo.log_file()).context("the demo's log")?;
        let child = Command::new("/proc/self/exe")
            .arg("run")
            .arg("--config")
            .arg(demo.config_file())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the demo alone, which then stops the controller in order.
            .process_group(0)
            .spawn()
            .context("baton run")?;
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let (socket, log) = (demo.control_socket(), demo.log_file());
        let mut controller = Controller { child, http: unknown, https: unknown, socket, log };
        match timeout(READY_LIMIT, controller.ready()).await {
            Ok(Ok(())) => Ok(controller),
            Ok(Err(error)) => Err(error.context(controller.last_words())),
            Err(_) => bail!("not ready in time: {}", controller.last_words()),
        }
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("baton run ended with {status}");
            }
            if let Ok(body) = self.ask(Method::GET, "/status").await {
                let status: Status = serde_json::from_slice(&body).context("/status")?;
                if status.generations.iter().any(|generation| generation.state == "active") {
                    self.http = address(&status, "http")?;
                    self.https = address(&status, "https")?;
                    return Ok(());
                }
            }
            sleep(POLL).await;
        }
    }

    /// Tells it to read its configuration again; it has when this returns.
    pub(super) async fn reload(&self) -> anyhow::Result<()> {
        self.ask(Method::POST, "/reload").await.context("reload")?;
        Ok(())
    }

    /// As [`Controller::reload`], of what workers are started with. Returns the time to the flip.
    pub(super) async fn reload_workers(&self) -> anyhow::Result<Duration> {
        let answer = self.ask(Method::POST, "/reload").await.context("reload")?;
        let reloaded: Reloaded = client::parse(&answer)?;
        to_flip(&reloaded.handoff.context("the reload made no new generation")?)
    }

    /// An upgrade to the same file. Returns the time to the flip.
    pub(super) async fn upgrade(&self, launch: Launch) -> anyhow::Result<Duration> {
        to_flip(&self.follow("/upgrade", launch).await?)
    }

    pub(super) async fn rollback(&self) -> anyhow::Result<Duration> {
        to_flip(&self.follow("/rollback", Launch::default()).await?)
    }

    /// An upgrade to workers that are bad. Returns the time until the program before is back.
    pub(super) async fn failed_upgrade(&self, launch: Launch) -> anyhow::Result<Duration> {
        let began = Instant::now();
        match self.follow("/upgrade", launch).await {
            Err(AskError::Failed(_)) => Ok(began.elapsed()),
            Err(error) => Err(error.into()),
            Ok(_) => bail!("an upgrade to bad workers was not taken back"),
        }
    }

    async fn follow(&self, path: &'static str, launch: Launch) -> Result<Handoff, AskError> {
        let socket = self.socket.clone();
        let order = UpgradeOrder { binary: None, launch };
        let follow = move || client::follow(&socket, path, &order, |_| {});
        tokio::task::spawn_blocking(follow).await.expect("following does not panic")
    }

    /// SIGKILL for the worker. Returns the time until another one serves.
    pub(super) async fn kill_worker(&self) -> anyhow::Result<Duration> {
        let worker = self.worker().await?.context("no worker")?;
        let began = Instant::now();
        kill(Pid::from_raw(i32::try_from(worker)?), Signal::SIGKILL)?;
        while self.worker().await?.is_none_or(|pid| pid == worker) {
            if began.elapsed() > READY_LIMIT {
                bail!("no other worker serves {} s after the kill", READY_LIMIT.as_secs());
            }
            sleep(POLL).await;
        }
        Ok(began.elapsed())
    }

    /// The pid of the worker that gets new connections.
    async fn worker(&self) -> anyhow::Result<Option<u32>> {
        let status: Status = client::parse(&self.ask(Method::GET, "/status").await?)?;
        let active = status.generations.into_iter().find(|other| other.state == "active");
        Ok(active.and_then(|active| active.pid))
    }

    pub(super) async fn handoff_mode(&self) -> anyhow::Result<HandoffMode> {
        let answer = self.ask(Method::GET, "/status").await?;
        Ok(client::parse::<Status>(&answer)?.handoff)
    }

    async fn ask(&self, method: Method, path: &'static str) -> anyhow::Result<bytes::Bytes> {
        let socket = self.socket.clone();
        let ask = move || client::ask(&socket, method, path);
        Ok(tokio::task::spawn_blocking(ask).await??)
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        format!("the controller's last lines:\n{last}")
    }

    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.terminate();
        let status = timeout(STOP_LIMIT, self.child.wait())
            .await
            .with_context(|| format!("the controller does not stop; {}", self.last_words()))??;
        if !status.success() {
            bail!("the controller ended with {status}; {}", self.last_words());
        }
        Ok(())
    }

    fn terminate(&self) {
        // Without an id it has ended and was waited for: there is nobody to tell.
        if let Some(id) = self.child.id() {
            let pid = Pid::from_raw(i32::try_from(id).expect("the kernel's pids fit"));
            let _gone_already = kill(pid, Signal::SIGTERM);
        }
    }
}

impl Drop for Controller {
    /// However the tour ends, the worker is not left behind: the controller takes it along.
    #[expect(clippy::disallowed_methods, reason = "drop cannot await, and nothing else runs then")]
    fn drop(&mut self) {
        self.terminate();
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < STOP_LIMIT {
            std::thread::sleep(POLL);
        }
        drop(self.child.start_kill());
    }
}

fn to_flip(handoff: &Handoff) -> anyhow::Result<Duration> {
    let ms = handoff.ms_to_flip.context("a handoff without a flip")?;
    Ok(Duration::from_millis(ms))
}

fn address(status: &Status, kind: &str) -> anyhow::Result<SocketAddr> {
    let listener = status.listeners.iter().find(|listener| listener.kind == kind);
    let listener = listener.with_context(|| format!("no {kind} listener in /status"))?;
    Ok(listener.address.parse()?)
}
