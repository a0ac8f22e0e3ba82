//! Measures a row with each proxy in turns, and keeps what came of it.

use std::time::Duration;

use anyhow::{Result, bail};

use super::column::Figures;
use super::ground::Ground;
use super::proxy::Proxy;
use super::row::{Row, Work};
use super::{busy, idle, paced, reloads, starting};

pub struct Results {
    pub rounds: u64,
    pub seconds: u64,
    /// Name and version.
    pub proxies: Vec<(&'static str, String)>,
    pub rows: Vec<RowResults>,
}

pub struct RowResults {
    pub name: String,
    pub work: Work,
    /// In the order of [`Results::proxies`], and of the rounds.
    pub samples: Vec<Vec<Sample>>,
}

/// What one measurement gave, or why it does not count.
pub type Sample = Result<Figures, String>;

impl Results {
    pub fn new(rounds: u64, seconds: u64, proxies: &[Proxy]) -> Self {
        let name = |proxy: &Proxy| (proxy.product.name(), proxy.version.clone());
        Results { rounds, seconds, proxies: proxies.iter().map(name).collect(), rows: Vec::new() }
    }

    pub fn keep(&mut self, name: String, work: Work, samples: Vec<Vec<Sample>>) {
        self.rows.push(RowResults { name, work, samples });
    }
}

/// With proxies that are started for this row, so that the memory of the rows before is not in it.
pub fn measure(
    row: &Row,
    proxies: &[Proxy],
    ground: &Ground<'_>,
    results: &mut Results,
) -> Result<()> {
    println!("{}", row.name);
    if row.setup.certificates {
        ground.make_certificates(row.setup.hosts)?;
    }
    let rounds = row.work.rounds(results.rounds);
    let turns = Turns { row, ground, rounds, time: Duration::from_secs(results.seconds) };
    let samples = match row.work {
        Work::Idle { connections } => {
            let entered = turns.enter(proxies, |proxy| idle::settled(&turns, proxy))?;
            turns.take(&entered, |(proxy, base), _| {
                idle::sample(&turns, proxy, *base, connections)
            })?
        }
        Work::Start => {
            let entered = turns.enter(proxies, Ok)?;
            turns.take(&entered, |proxy, round| starting::sample(&turns, proxy, round))?
        }
        Work::Reloads { count, rate } => {
            let entered = turns.enter(proxies, Ok)?;
            turns.take(&entered, |proxy, _| reloads::sample(&turns, proxy, count, rate))?
        }
        Work::Paced { percentages, .. } => {
            return paced::measure(&turns, proxies, &percentages, results);
        }
        _ => {
            let entered = turns.enter(proxies, |proxy| busy::warm(&turns, proxy))?;
            turns.take(&entered, |(proxy, _), _| busy::sample(&turns, proxy))?
        }
    };
    results.keep(row.name.to_owned(), row.work, samples);
    Ok(())
}

/// A row under way: A B C D, A B C D, so that what else happens on the machine meets all of them.
pub struct Turns<'a> {
    pub row: &'a Row,
    pub ground: &'a Ground<'a>,
    pub rounds: u64,
    /// Of one measurement.
    pub time: Duration,
}

/// A proxy in a row, and what the row keeps of it; or why it is not in it.
pub struct Entered<'a, T> {
    proxy: &'a Proxy,
    state: Result<T, String>,
}

impl<'a, T> Entered<'a, T> {
    pub fn state(&self) -> Option<&T> {
        self.state.as_ref().ok()
    }
}

impl Turns<'_> {
    pub fn enter<'p, T>(
        &self,
        proxies: &'p [Proxy],
        prepare: impl Fn(&'p Proxy) -> Result<T>,
    ) -> Result<Vec<Entered<'p, T>>> {
        let mut entered = Vec::new();
        for proxy in proxies {
            let state = match proxy.product.cannot(self.row) {
                Some(reason) => Err(reason.to_owned()),
                None => prepare(proxy).map_err(|error| format!("{error:#}")),
            };
            self.unless_interrupted()?;
            entered.push(Entered { proxy, state });
        }
        Ok(entered)
    }

    /// One measurement of each in each round. Who did not enter has its reason in place of them.
    pub fn take<T>(
        &self,
        entered: &[Entered<'_, T>],
        sample: impl Fn(&T, u64) -> Result<Figures>,
    ) -> Result<Vec<Vec<Sample>>> {
        let mut samples = vec![Vec::new(); entered.len()];
        for round in 0..self.rounds {
            for (Entered { proxy, state }, samples) in entered.iter().zip(&mut samples) {
                let taken = match state {
                    Ok(state) => sample(state, round).map_err(|error| format!("{error:#}")),
                    Err(reason) => Err(reason.clone()),
                };
                self.unless_interrupted()?;
                println!("  {proxy:<8} {}", said(&taken));
                samples.push(taken);
            }
        }
        Ok(samples)
    }

    fn unless_interrupted(&self) -> Result<()> {
        if self.ground.interrupt.happened() {
            bail!("interrupted");
        }
        Ok(())
    }
}

fn said(sample: &Sample) -> String {
    match sample {
        Err(reason) => format!("void: {}", reason.lines().next().unwrap_or_default()),
        Ok(figures) => {
            let each = figures.all().map(|(column, value)| {
                let (label, unit, digits) = column.shown();
                format!("{label} {:.digits$}", value / unit)
            });
            each.collect::<Vec<_>>().join(" | ")
        }
    }
}
