//! The command line: what can be typed, and what it means.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Mistakes};
use crate::controller::admin::answers::{UpgradeOrder, Wanted};
use crate::controller::canary::{Percent, Plan};
use crate::controller::generations::Launch;
use crate::protocol::fault::Fault;
use crate::sys;

/// The HTTPS front door of one Linux host.
///
/// Watches Docker and routes HTTP/1.1, HTTP/2, WebSocket and gRPC to containers by what they say in
/// their environment (VIRTUAL_HOST and friends) or labels (baton.host).
#[derive(Debug, Parser)]
#[command(
    name = "baton",
    version,
    propagate_version = true,
    after_help = "\
Exit status: 0 done, 1 refused or failed (stderr says why and what to do), 2 wrong usage, 78 the
configuration is invalid."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve, in the foreground. SIGHUP reloads, SIGUSR2 upgrades; SIGTERM, SIGINT and SIGQUIT drain and stop, a
    /// second one stops at once; SIGUSR1 leaves the workers to the next controller
    Run(RunArgs),
    /// Show baton at work: upstreams, load and changes under that load; needs nothing installed
    Demo(DemoArgs),
    /// Say what is wrong with the configuration and what the host lacks, or with --compose what services
    /// would get; listens on nothing
    Check(CheckArgs),
    /// Show processes, listeners and Docker
    Status(ShowArgs),
    /// Show where every running container is routed, or why it is not
    Routes(ShowArgs),
    /// Tell the whole story of one host or container: DNS, certificate, routes, health, and what to do
    Why(WhyArgs),
    /// Follow the access log of one host, until Ctrl-C: every request, whatever `[log]` leaves out
    Logs(LogsArgs),
    /// Show certificates, import some, or order, try again or revoke one of a CA
    Certs(CertsArgs),
    /// Read the configuration again: it goes live as a whole, without a restart, or not at all
    Reload(AskArgs),
    /// Become another binary without a restart; the one before comes back when its workers do not
    /// come up
    Upgrade(UpgradeArgs),
    /// Return to the binary before the last upgrade, whatever has become of its file
    Rollback(AskArgs),
    /// Let requests of a host wait, while its database moves or its containers are changed by hand
    Pause(PauseArgs),
    /// End the pause of a host: what waited goes on
    Resume(HostArgs),
    /// Answer every request of a host by 503, or end that
    Maintenance(MaintenanceArgs),
    /// The public half; the controller starts it
    #[command(hide = true)]
    Worker(WorkerArgs),
    /// Whether this binary could go on from the state on stdin; an upgrade asks
    #[command(hide = true)]
    Preflight,
    /// Enter the worker's sandbox, and try what it has to refuse
    #[command(hide = true)]
    SandboxTest(SandboxTestArgs),
    /// Write man pages and completions for shells into a directory; packages carry them
    #[command(hide = true)]
    Manual(ManualArgs),
}

#[derive(Debug, Args)]
pub struct ManualArgs {
    pub directory: PathBuf,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// State of the program that this process was
    #[arg(long, value_name = "FD", hide = true)]
    pub resume: Option<RawFd>,
}

#[derive(Debug, Args)]
pub struct UpgradeArgs {
    /// The new binary [default: the file that the running one was started from]
    pub binary: Option<PathBuf>,
    /// Try it on this share of new connections first; where it does worse than the program before,
    /// that one comes back
    #[arg(long, value_name = "SHARE")]
    canary: Option<Percent>,
    /// How long the canary lasts
    #[arg(long = "for", value_name = "TIME", requires = "canary", default_value = "30s", value_parser = config::time_span)]
    time: Duration,
    /// Make its workers fail on purpose: for tests and the demo
    #[arg(long, value_enum, hide = true)]
    fault: Option<Fault>,
    #[command(flatten)]
    pub ask: AskArgs,
}

impl UpgradeArgs {
    /// # Errors
    /// When this process has no current directory that the binary's path could be relative to.
    pub fn order(&self) -> io::Result<UpgradeOrder> {
        // The controller may stand elsewhere.
        let binary = self.binary.as_deref().map(std::path::absolute).transpose()?;
        let seconds = self.time.as_secs().max(1);
        let canary = self.canary.map(|share| Plan { share, seconds });
        Ok(UpgradeOrder { binary, launch: Launch { canary, fault: self.fault } })
    }
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Configuration file [default: /etc/baton/baton.toml, and defaults where it does not exist]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Compose files, `-` for stdin: say what each of their services would get from baton, and what it
    /// would lose (exit status 1). Docker is not asked
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub compose: Vec<PathBuf>,
    /// JSON for scripts: the answer only grows from version to version
    #[arg(long, requires = "compose")]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Keep serving afterwards, and print what to try by hand
    #[arg(long)]
    pub stay: bool,
    /// How long the load lasts
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
}

/// Which baton to ask.
#[derive(Debug, Args)]
pub struct SocketArgs {
    /// Configuration file that names the control socket
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Control socket; the configuration is not read then
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct AskArgs {
    /// JSON for scripts: the answer only grows from version to version
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    pub ask: AskArgs,
    /// Show it again as it changes, until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct HostArgs {
    /// As `baton routes` shows it
    pub host: String,
    #[command(flatten)]
    pub ask: AskArgs,
}

#[derive(Debug, Args)]
pub struct WhyArgs {
    /// A host name, or a container's name
    pub subject: String,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// A name, without a port
    #[arg(long, value_name = "NAME")]
    pub host: String,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Debug, Args)]
pub struct PauseArgs {
    #[command(flatten)]
    pub host: HostArgs,
    /// When the pause ends by itself: clients wait no longer than this
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = config::time_span)]
    pub max: Duration,
}

#[derive(Debug, Args)]
pub struct MaintenanceArgs {
    #[command(flatten)]
    pub host: HostArgs,
    #[arg(value_enum)]
    pub switch: Switch,
    /// HTML to answer with, up to 48 KiB
    #[arg(long, value_name = "FILE")]
    pub page: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    On,
    Off,
}

impl MaintenanceArgs {
    /// # Errors
    /// When the page cannot be read, or is too large to travel.
    pub fn wanted(&self) -> io::Result<Wanted> {
        match self.switch {
            Switch::Off => Ok(Wanted::EndMaintenance),
            Switch::On => {
                let page = self.page.as_deref().map(read_page).transpose()?;
                Ok(Wanted::Maintenance { page })
            }
        }
    }
}

/// The order that carries it stays below the admin socket's limit, escapes included.
const MAX_PAGE: usize = 48 * 1024;

fn read_page(path: &Path) -> io::Result<String> {
    let named = |problem: String| io::Error::other(format!("{}: {problem}", path.display()));
    let page = fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
    match page.len() {
        0..=MAX_PAGE => Ok(page),
        length => Err(named(format!("{length} bytes: a page has up to {MAX_PAGE}"))),
    }
}

#[derive(Debug, Args)]
pub struct CertsArgs {
    /// Copy the certificates of certbot or acme-companion in this directory into the state directory,
    /// so that nothing is ordered anew
    #[arg(long, value_name = "DIR", conflicts_with_all = ["socket", "CertificateOrders"])]
    pub import: Option<PathBuf>,
    #[command(flatten)]
    pub order: CertificateOrders,
    #[command(flatten)]
    pub show: ShowArgs,
}

/// What a CA is to be asked for, beside what the schedule asks it.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct CertificateOrders {
    /// Order another certificate now, although none is due
    #[arg(long, value_name = "NAME")]
    renew: Option<String>,
    /// Try an order again that failed, without waiting for its time
    #[arg(long, value_name = "NAME")]
    retry: Option<String>,
    /// Revoke the certificate and take it out of service; none is ordered until --renew
    #[arg(long, value_name = "NAME")]
    revoke: Option<String>,
}

impl CertificateOrders {
    /// Where it is asked for, and for which name.
    pub fn asked(&self) -> Option<(&'static str, &str)> {
        let orders = [
            ("/certs/renew", &self.renew),
            ("/certs/retry", &self.retry),
            ("/certs/revoke", &self.revoke),
        ];
        orders.into_iter().find_map(|(path, name)| Some((path, name.as_deref()?)))
    }
}

#[derive(Debug, Args)]
pub struct SandboxTestArgs {
    /// Somebody who accepts connections
    #[arg(long)]
    pub upstream: SocketAddr,
    /// A unix socket that somebody listens on
    #[arg(long)]
    pub socket_file: String,
    /// A directory that static files are served from
    #[arg(long)]
    pub root: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Descriptor of the control channel
    #[arg(long, value_name = "FD")]
    control_fd: RawFd,
    #[arg(long, value_enum)]
    pub fault: Option<Fault>,
}

impl SocketArgs {
    /// # Errors
    /// When the configuration that would name the socket is invalid.
    pub fn path(&self) -> Result<PathBuf, Mistakes> {
        match &self.socket {
            Some(socket) => Ok(socket.clone()),
            None => Ok(config::load(self.config.as_deref())?.control_socket),
        }
    }
}

impl WorkerArgs {
    /// Takes the control channel. Called once, before anything else is opened.
    pub fn control(&self) -> OwnedFd {
        sys::own_inherited(self.control_fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    /// As scripts and packages ask for it.
    #[test]
    fn it_calls_itself_as_it_is_called() {
        let version = concat!("baton ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(Cli::command().render_version(), version);
    }

    #[test]
    fn wrong_usage_is_status_2() {
        for line in [
            &["baton"][..],
            &["baton", "fly"],
            &["baton", "status", "--socket", "a", "--config", "b"],
            &["baton", "demo", "--seconds", "0"],
            &["baton", "certs", "--renew"],
            &["baton", "certs", "--renew", "a", "--revoke", "a"],
            &["baton", "certs", "--import", "a", "--renew", "a"],
            &["baton", "upgrade", "--canary", "0%"],
            &["baton", "upgrade", "--for", "10s"],
            &["baton", "maintenance", "a.test"],
            &["baton", "pause"],
            &["baton", "logs"],
            &["baton", "check", "--json"],
            &["baton", "check", "--compose"],
            &["baton", "upgrade", "--canary", "5%", "--for", "never"],
        ] {
            assert_eq!(Cli::try_parse_from(line).expect_err("usage").exit_code(), 2, "{line:?}");
        }
    }
}
