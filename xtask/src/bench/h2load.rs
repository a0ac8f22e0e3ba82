//! Runs h2load, and reads what it says.

use std::fs::{File, read_to_string};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::configs;
use super::cores::pinned;
use super::ground::Ground;
use super::report::Report;
use super::row::{Row, Work};
use super::statistics::percentile;
use crate::process::{Group, find, wait_until};

/// What h2load may take beyond its time before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(15);
/// For connections that are to be idle.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);
/// Connections may be far apart: one request over each at the beginning, and none while it is looked at.
const IDLE_RATE: &str = "0.01";

/// One run under way.
pub struct H2load {
    group: Group,
    /// Of what it says and logs.
    directory: TempDir,
    limit: Duration,
}

impl H2load {
    /// Against a proxy at that address; for about so long.
    pub fn start(
        row: &Row,
        address: SocketAddr,
        time: Duration,
        ground: &Ground<'_>,
    ) -> Result<Self> {
        let program = find("h2load").context("h2load is missing")?;
        let directory = tempfile::Builder::new().prefix("h2load").tempdir_in(ground.path())?;
        let scheme = if row.tls { "https" } else { "http" };
        let mut command = pinned(ground.cores.load(), &program);
        // One suite and one group, so that the work is the same whatever a server would prefer.
        command.args(["--tls13-ciphers=TLS_AES_128_GCM_SHA256", "--groups=X25519"]);
        command.args(arguments(row.work, time)?).arg(format!("--connect-to={address}"));
        command.arg(format!("--log-file={}", directory.path().join("log").display()));
        if let Some(body) = row.body {
            command.arg("-d").arg(ground.path().join(body));
        }
        command.arg(format!("{scheme}://{}:{}{}", host(row), address.port(), row.path));
        let out = File::create(directory.path().join("out"))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let group = Group::spawn(&mut command).context("h2load")?;
        Ok(H2load { group, directory, limit: time + PATIENCE })
    }

    pub fn finish(mut self, ground: &Ground<'_>) -> Result<Report> {
        let group = &mut self.group;
        if !wait_until(self.limit, ground.interrupt, || !matches!(group.poll(), Ok(None))) {
            group.end(Duration::ZERO);
            bail!("h2load did not end in {} s", self.limit.as_secs());
        }
        let output = self.read("out")?;
        parse(&output, &self.read("log").unwrap_or_default())
            .with_context(|| format!("h2load said: {output}"))
    }

    /// Waits until so many requests have been answered; the connections stay.
    pub fn answered(&self, count: usize, ground: &Ground<'_>) -> Result<()> {
        let lines = || self.read("log").map_or(0, |log| log.lines().count());
        if !wait_until(CONNECT_LIMIT, ground.interrupt, || lines() >= count) {
            bail!("{} of {count} connections were answered", lines());
        }
        let log = latencies(&self.read("log")?);
        match log.1 {
            0 => Ok(()),
            failed => bail!("{failed} failed"),
        }
    }

    fn read(&self, name: &str) -> std::io::Result<String> {
        read_to_string(self.directory.path().join(name))
    }

    pub fn end(mut self) {
        self.group.end(Duration::ZERO);
    }
}

/// In the clear and among many hosts the one in the middle: some proxies look through all before it.
fn host(row: &Row) -> String {
    match (row.tls, row.setup.hosts) {
        (true, _) => "bench.test".to_owned(),
        (false, 0) => "plain.test".to_owned(),
        (false, hosts) => configs::host(hosts / 2),
    }
}

fn arguments(work: Work, time: Duration) -> Result<Vec<String>> {
    let millis = time.as_millis();
    let words = match work {
        Work::Closed { http1: true, clients, streams } => {
            format!("--h1 -c {clients} -m {streams} -D {millis}ms")
        }
        // To find out what the limit is.
        Work::Closed { clients, streams, .. } | Work::Paced { clients, streams, .. } => {
            format!("-c {clients} -m {streams} -D {millis}ms")
        }
        Work::Counted { http1, requests } => {
            format!("{}-n {requests} -c 1 -m 1", if http1 { "--h1 " } else { "" })
        }
        Work::Connections { rate } => {
            let count = (rate as u128 * millis / 1000).max(1);
            // Ten times a second a tenth of them: h2load opens those of a period at once.
            let tenth = (rate / 10).max(1);
            format!("-n {count} -c {count} -m 1 -r {tenth} --rate-period=100ms")
        }
        Work::Idle { connections } => {
            format!("-c {connections} -m 1 -D 600 --rps={IDLE_RATE}")
        }
        _ => bail!("h2load does not do that"),
    };
    Ok(words.split(' ').map(str::to_owned).collect())
}

fn parse(output: &str, log: &str) -> Result<Report> {
    let line = |start| output.lines().find_map(|line| line.strip_prefix(start));
    let requests = line("requests: ").context("no line of requests")?;
    let count = |what| counted(requests, what).with_context(|| format!("no count of {what}"));
    let done = count("done")?;
    let succeeded = count("succeeded")?;
    let failed = count("failed")? + count("errored")? + count("timeout")?;
    let finished = line("finished in ").context("no time")?;
    let per_second = finished.split(", ").nth(1).and_then(|rate| rate.split(' ').next());
    let (latencies, not_ok) = latencies(log);
    let latency = |share| percentile(&latencies, share).map(|microseconds| microseconds as f64);
    Ok(Report {
        requests: done,
        failed: failed.max(done - succeeded.min(done)).max(not_ok),
        per_second: per_second.context("no rate")?.parse().context("rate")?,
        p50: latency(0.5),
        p99: latency(0.99),
        p999: latency(0.999),
        max: latency(1.0),
    })
}

/// The number before a word, in `10 total, 9 started, ..`.
fn counted(line: &str, what: &str) -> Option<u64> {
    let part = line.split(", ").find_map(|part| part.trim().strip_suffix(what))?;
    part.trim().parse().ok()
}

/// Of the log, a line for each request: its start, its status, its microseconds. Sorted; and how many
/// had another status than 200.
fn latencies(log: &str) -> (Vec<u64>, u64) {
    let mut all = Vec::new();
    let mut not_ok = 0;
    for line in log.lines() {
        let mut columns = line.split('\t').skip(1);
        not_ok += u64::from(columns.next() != Some("200"));
        all.extend(columns.next().and_then(|time| time.parse::<u64>().ok()));
    }
    all.sort_unstable();
    (all, not_ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
starting benchmark...
Application protocol: h2

finished in 1.00s, 19353.00 req/s, 21.23MB/s
requests: 19353 total, 19369 started, 19353 done, 19350 succeeded, 2 failed, 1 errored, 0 timeout
status codes: 19353 2xx, 0 3xx, 0 4xx, 0 5xx
";

    #[test]
    fn reads_counts_rate_and_latencies() {
        let log = "1795635604754022\t200\t654859\n1795635605401856\t200\t88760\n";
        let report = parse(OUTPUT, log).expect("the output of h2load");
        let expected = Report {
            requests: 19353,
            failed: 3,
            per_second: 19353.0,
            p50: Some(88_760.0),
            p99: Some(654_859.0),
            p999: Some(654_859.0),
            max: Some(654_859.0),
        };
        assert_eq!(report, expected);
    }

    #[test]
    fn a_status_that_is_not_200_has_failed() {
        let output = OUTPUT.replace(
            "19350 succeeded, 2 failed, 1 errored",
            "19353 succeeded, 0 failed, 0 errored",
        );
        let failed = |log| parse(&output, log).expect("the output of h2load").failed;
        assert_eq!(failed("1\t200\t5\n"), 0);
        assert_eq!(failed("1\t200\t5\n2\t204\t5\n"), 1);
    }

    #[test]
    fn silence_is_an_error() {
        assert!(parse("", "").is_err());
        assert!(parse("requests: many\nfinished in 1s", "").is_err());
    }
}
