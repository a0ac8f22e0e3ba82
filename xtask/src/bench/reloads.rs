//! What clients feel of new configurations: each has one host more than the one before.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::baton_load::{BatonLoad, Clients};
use super::column::{Column, Figures};
use super::configs::{Setup, host};
use super::measure::Turns;
use super::proxy::Proxy;
use crate::process::wait_until;

const BETWEEN: Duration = Duration::from_secs(1);

/// A failed request is what is measured here, and voids nothing.
pub fn sample(turns: &Turns<'_>, proxy: &Proxy, count: u64, rate: u64) -> Result<Figures> {
    let (ground, setup) = (turns.ground, turns.row.setup);
    let proxy = proxy.start(ground, setup)?;
    let rate = Some(rate);
    let clients =
        Clients { fresh: 4, keep_alive: 8, http2: 2, streams: 4, rate, ..Clients::default() };
    let time = BETWEEN * (count + 1) as u32;
    let load = BatonLoad::start(&clients, proxy.address(true), time, ground)?;
    let began = Instant::now();
    for number in 1..=count as u32 {
        wait_until(time, ground.interrupt, || began.elapsed() >= BETWEEN * number);
        proxy.reload(ground, Setup { hosts: setup.hosts + number as usize, ..setup })?;
    }
    let report = load.finish(ground)?;
    proxy.serves(&host(setup.hosts + count as usize - 1), ground)?;
    if report.requests == 0 {
        bail!("nothing was asked");
    }
    Ok(Figures::default()
        .with(Column::Failed, report.failed as f64)
        .with(Column::PerSecond, report.per_second)
        .with(Column::P50, report.p50)
        .with(Column::P99, report.p99)
        .with(Column::Max, report.max)
        .with(Column::Memory, proxy.memory() as f64))
}
