//! Runs baton-load, the load client of the tests, for what h2load cannot do, and reads what it says.

use std::fs::{File, read_to_string};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::cores::pinned;
use super::ground::Ground;
use super::report::Report;
use super::row::Work;
use crate::process::{Group, wait_until};

/// What it may take beyond its time before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(15);

/// How many clients of which kind, and what they do.
#[derive(Debug, Default)]
pub struct Clients {
    pub fresh: usize,
    pub keep_alive: usize,
    pub http2: usize,
    pub grpc: usize,
    pub resumed: usize,
    pub websockets: usize,
    /// Of each client of HTTP/2 or gRPC.
    pub streams: usize,
    /// Requests a second; `None` is as fast as answers come.
    pub rate: Option<u64>,
    /// Of each client; `None` is until the time is over.
    pub requests: Option<u64>,
}

impl Clients {
    /// Those of a kind of work; `None` where h2load does it.
    pub fn of(work: Work) -> Option<Self> {
        let none = Clients::default();
        match work {
            Work::Resumed { clients } => Some(Clients { resumed: clients, ..none }),
            Work::Messages { sockets } => Some(Clients { websockets: sockets, ..none }),
            Work::Calls { clients, streams } => Some(Clients { grpc: clients, streams, ..none }),
            _ => None,
        }
    }

    fn arguments(&self) -> Vec<String> {
        let mut words = vec!["--json".to_owned()];
        for (name, count) in [
            ("--fresh", self.fresh),
            ("--keep-alive", self.keep_alive),
            ("--http2", self.http2),
            ("--grpc", self.grpc),
            ("--resumed", self.resumed),
            ("--websockets", self.websockets),
            ("--streams", self.streams),
        ] {
            words.extend([name.to_owned(), count.to_string()]);
        }
        if let Some(requests) = self.requests {
            words.extend(["--requests".to_owned(), requests.to_string()]);
        }
        match self.rate {
            Some(rate) => words.extend(["--rate".to_owned(), rate.to_string()]),
            None => words.extend(["--think".to_owned(), "0".to_owned()]),
        }
        words
    }
}

/// One run under way.
pub struct BatonLoad {
    group: Group,
    output: PathBuf,
    limit: Duration,
}

impl BatonLoad {
    /// Over TLS, at host `bench.test`.
    pub fn start(
        clients: &Clients,
        address: SocketAddr,
        time: Duration,
        ground: &Ground<'_>,
    ) -> Result<Self> {
        let output = ground.path().join("baton-load.out");
        let mut command = pinned(ground.cores.load(), &ground.tools.load);
        command.arg(address.to_string()).arg("bench.test");
        command.arg("--roots").arg(ground.path().join("cert.pem"));
        command.args(["--one-suite", "--path", "/1k", "--length", "1024"]);
        command.args(clients.arguments()).arg("--seconds").arg(time.as_secs().max(1).to_string());
        let out = File::create(&output)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let group = Group::spawn(&mut command).context("baton-load")?;
        Ok(BatonLoad { group, output, limit: time + PATIENCE })
    }

    pub fn finish(mut self, ground: &Ground<'_>) -> Result<Report> {
        let group = &mut self.group;
        if !wait_until(self.limit, ground.interrupt, || !matches!(group.poll(), Ok(None))) {
            group.end(Duration::ZERO);
            bail!("baton-load did not end in {} s", self.limit.as_secs());
        }
        let output = read_to_string(&self.output)?;
        parse(&output).with_context(|| format!("baton-load said: {output}"))
    }
}

/// One request, which succeeds only with this host's own certificate.
pub fn verify(
    host: &str,
    certificate: &Path,
    address: SocketAddr,
    ground: &Ground<'_>,
) -> Result<()> {
    let mut command = Command::new(&ground.tools.load);
    command.arg(address.to_string()).arg(host).arg("--roots").arg(certificate);
    command.args(["--path", "/1k", "--length", "1024", "--requests", "1", "--seconds", "10"]);
    command.args(["--fresh", "1", "--keep-alive", "0", "--http2", "0", "--websockets", "0"]);
    let output = command.stdin(Stdio::null()).output().context("baton-load")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{host}: {}", String::from_utf8_lossy(&output.stdout).trim())
}

fn parse(output: &str) -> Result<Report> {
    let said: Value = serde_json::from_str(output)?;
    let count = |name| said[name].as_u64().with_context(|| format!("no count of {name}"));
    let (requests, failed) = (count("requests")?, count("failed")?);
    let seconds = said["seconds"].as_f64().context("no time")?;
    let time = |name| said[name].as_f64().filter(|_| requests > failed);
    Ok(Report {
        requests,
        failed,
        per_second: requests as f64 / seconds,
        p50: time("p50"),
        p99: time("p99"),
        p999: time("p999"),
        max: time("max"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_says() {
        let said = r#"{"requests": 10, "failed": 1, "seconds": 2.0, "p50": 7, "p99": 8, "p999": 9, "max": 9}"#;
        let report = parse(said).expect("a report");
        assert_eq!((report.requests, report.failed, report.per_second), (10, 1, 5.0));
        assert_eq!((report.p50, report.max), (Some(7.0), Some(9.0)));
        assert!(report.unless_failed().is_err());
        assert!(parse("baton-load: no").is_err());
    }
}
