//! Measures a row with each proxy in turns, and keeps what came of it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::cores::Cores;
use super::ground::Ground;
use super::h2load::H2load;
use super::proxy::{Proxy, Started};
use super::row::{Row, Work};
use crate::interrupt::Interrupt;
use crate::process::wait_until;

/// Fills pools and caches before the first measurement of a row.
const WARM_UP: Duration = Duration::from_secs(1);
/// Memory that has not changed for so long is what a proxy has at rest.
const STEADY: Duration = Duration::from_secs(2);
/// A change by more than one in so many is one.
const UNSTEADY: u64 = 100;
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

pub struct Results {
    pub rounds: u64,
    pub seconds: u64,
    /// Name and version.
    pub proxies: Vec<(&'static str, String)>,
    pub rows: Vec<RowResults>,
}

pub struct RowResults {
    pub name: &'static str,
    pub work: Work,
    /// In the order of [`Results::proxies`], and of the rounds.
    pub samples: Vec<Vec<Sample>>,
}

/// What one measurement gave, or why it does not count.
pub type Sample = Result<Figures, String>;

#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// None where nothing is asked.
    pub per_second: Option<f64>,
    /// Microseconds.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    /// CPU time of the proxy for each request, in microseconds.
    pub cpu: Option<f64>,
    /// CPU time of the proxy, as a share of the time that passed.
    pub busy: Option<f64>,
    /// Of the proxy at the end, in KiB.
    pub memory: f64,
    /// Of each connection, in KiB, where they are idle.
    pub per_connection: Option<f64>,
}

impl Results {
    pub fn new(rounds: u64, seconds: u64, proxies: &[Proxy]) -> Self {
        let proxies = proxies.iter().map(|proxy| (proxy.name, proxy.version.clone())).collect();
        Results { rounds, seconds, proxies, rows: Vec::new() }
    }
}

/// With proxies that are started for this row, so that the memory of the rows before is not in it.
pub fn measure(
    row: &Row,
    proxies: &[Proxy],
    ground: &Ground,
    cores: &Cores,
    interrupt: &Interrupt,
    results: &mut Results,
) -> Result<()> {
    println!("{}", row.name);
    let bench = Bench { row, time: Duration::from_secs(results.seconds), ground, cores, interrupt };
    let mut started = Vec::new();
    for proxy in proxies {
        started.push(bench.warm(proxy)?);
    }
    let mut samples = vec![Vec::new(); proxies.len()];
    for _ in 0..results.rounds {
        for (index, (proxy, base)) in started.iter().enumerate() {
            let sample = bench.sample(proxy, *base).map_err(|error| format!("{error:#}"));
            if interrupt.happened() {
                bail!("interrupted");
            }
            println!("  {:<8} {}", proxies[index].name, said(&sample));
            samples[index].push(sample);
        }
    }
    results.rows.push(RowResults { name: row.name, work: row.work, samples });
    Ok(())
}

struct Bench<'a> {
    row: &'a Row,
    time: Duration,
    ground: &'a Ground,
    cores: &'a Cores,
    interrupt: &'a Interrupt,
}

impl Bench<'_> {
    /// A proxy that serves, and its memory before the row in KiB.
    fn warm(&self, proxy: &Proxy) -> Result<(Started, u64)> {
        let started = proxy.start(self.ground, self.cores, self.interrupt)?;
        if matches!(self.row.work, Work::Idle { .. }) {
            let memory = self.settled(&started)?;
            return Ok((started, memory));
        }
        self.load(&started, WARM_UP)?.finish(self.interrupt)?;
        let memory = started.memory();
        Ok((started, memory))
    }

    /// Memory in KiB once it stays. What a start needs for a moment would be taken off what
    /// connections cost.
    fn settled(&self, proxy: &Started) -> Result<u64> {
        let mut memory = proxy.memory();
        let mut since = Instant::now();
        let stays = || {
            let now = proxy.memory();
            if now.abs_diff(memory) * UNSTEADY > memory {
                (memory, since) = (now, Instant::now());
            }
            since.elapsed() >= STEADY
        };
        if !wait_until(SETTLE_LIMIT, self.interrupt, stays) {
            bail!("memory did not settle in {} s", SETTLE_LIMIT.as_secs());
        }
        Ok(memory)
    }

    fn load(&self, proxy: &Started, time: Duration) -> Result<H2load> {
        let address = proxy.address(self.row.tls);
        H2load::start(self.row, address, time, self.ground.path(), self.cores)
    }

    fn sample(&self, proxy: &Started, base: u64) -> Result<Figures> {
        match self.row.work {
            Work::Idle { connections } => self.idle(proxy, base, connections),
            Work::Closed { .. } | Work::Connections { .. } => self.busy(proxy),
        }
    }

    fn busy(&self, proxy: &Started) -> Result<Figures> {
        let (before, began) = (proxy.cpu_time(), Instant::now());
        let report = self.load(proxy, self.time)?.finish(self.interrupt)?;
        let (cpu, elapsed) = (proxy.cpu_time() - before, began.elapsed());
        if report.failed > 0 || report.requests == 0 {
            bail!("{} of {} requests failed", report.failed, report.requests);
        }
        Ok(Figures {
            per_second: Some(report.per_second),
            p50: report.latency(0.5),
            p99: report.latency(0.99),
            cpu: Some(cpu.as_secs_f64() * 1e6 / report.requests as f64),
            busy: Some(cpu.as_secs_f64() / elapsed.as_secs_f64()),
            memory: proxy.memory() as f64,
            per_connection: None,
        })
    }

    fn idle(&self, proxy: &Started, base: u64, connections: usize) -> Result<Figures> {
        let load = self.load(proxy, self.time)?;
        let answered = load.answered(connections, self.interrupt);
        let memory = proxy.memory() as f64;
        load.end();
        answered?;
        let per_connection = Some((memory - base as f64) / connections as f64);
        Ok(Figures { memory, per_connection, ..Figures::default() })
    }
}

fn said(sample: &Sample) -> String {
    match sample {
        Err(reason) => format!("void: {reason}"),
        Ok(Figures { per_connection: Some(size), .. }) => format!("{size:.1} KiB each"),
        Ok(figures) => format!(
            "{:.0}/s, {:.1} µs of CPU each",
            figures.per_second.unwrap_or_default(),
            figures.cpu.unwrap_or_default()
        ),
    }
}
