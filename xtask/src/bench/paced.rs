//! Latency at fixed rates: the same for all, by what the slowest of them can do.

use anyhow::{Context, Result};

use super::baton_load::Clients;
use super::busy;
use super::measure::{Entered, Results, Turns};
use super::proxy::Proxy;
use super::row::Work;

/// A row for each percentage. The limit is what each has done while it warmed up.
pub fn measure(
    turns: &Turns<'_>,
    proxies: &[Proxy],
    percentages: &[u64],
    results: &mut Results,
) -> Result<()> {
    let Work::Paced { clients, streams, .. } = turns.row.work else { return Ok(()) };
    let entered = turns.enter(proxies, |proxy| busy::warm(turns, proxy))?;
    let limits = entered.iter().filter_map(Entered::state).map(|(_, limit)| *limit);
    let limit = limits.min_by(f64::total_cmp).context("no proxy serves")?;
    for percentage in percentages {
        let rate = limit as u64 * percentage / 100;
        let name = format!("{}, {percentage} % of the slowest: {rate}/s", turns.row.name);
        println!(" {name}");
        let load = Clients { http2: clients, streams, rate: Some(rate), ..Clients::default() };
        let samples =
            turns.take(&entered, |(proxy, _), _| busy::under(turns, proxy, Some(&load)))?;
        results.keep(name, turns.row.work, samples);
    }
    Ok(())
}
