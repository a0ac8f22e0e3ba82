//! Proxies under load: what a request costs, and how long it takes.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::baton_load::{BatonLoad, Clients};
use super::column::{Column, Figures};
use super::h2load::H2load;
use super::measure::Turns;
use super::proxy::{Proxy, Started};
use super::report::Report;

/// Fills pools and caches before the first measurement of a row.
const WARM_UP: Duration = Duration::from_secs(1);

/// A proxy that serves, and how many requests a second it has answered while it warmed up.
pub fn warm<'p>(turns: &Turns<'_>, proxy: &'p Proxy) -> Result<(Started<'p>, f64)> {
    let started = proxy.start(turns.ground, turns.row.setup)?;
    let clients = Clients::of(turns.row.work);
    let once = || load(turns, &started, clients.as_ref(), WARM_UP);
    // On a busy machine h2load was seen to hang.
    let report = once().or_else(|_| once())?;
    Ok((started, report.per_second))
}

pub fn sample(turns: &Turns<'_>, proxy: &Started<'_>) -> Result<Figures> {
    let figures = under(turns, proxy, Clients::of(turns.row.work).as_ref())?;
    Ok(figures.with(Column::Memory, proxy.memory() as f64))
}

/// What is measured under the load of these clients, or of h2load.
pub fn under(turns: &Turns<'_>, proxy: &Started<'_>, clients: Option<&Clients>) -> Result<Figures> {
    let (before, began) = (proxy.cpu_time(), Instant::now());
    let report = load(turns, proxy, clients, turns.time)?;
    let (cpu, elapsed) = (proxy.cpu_time().saturating_sub(before), began.elapsed());
    let report = report.unless_failed()?;
    Ok(Figures::default()
        .with(Column::PerSecond, report.per_second)
        .with(Column::P50, report.p50)
        .with(Column::P99, report.p99)
        .with(Column::P999, report.p999)
        .with(Column::Cpu, cpu.as_secs_f64() * 1e6 / report.requests as f64)
        .with(Column::Busy, cpu.as_secs_f64() / elapsed.as_secs_f64()))
}

fn load(
    turns: &Turns<'_>,
    proxy: &Started<'_>,
    clients: Option<&Clients>,
    time: Duration,
) -> Result<Report> {
    let (row, ground) = (turns.row, turns.ground);
    let address = proxy.address(row.tls);
    match clients {
        Some(clients) => BatonLoad::start(clients, address, time, ground)?.finish(ground),
        None => H2load::start(row, address, time, ground)?.finish(ground),
    }
}
