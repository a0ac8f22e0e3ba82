//! Proxies at rest: what they take up, and what connections add to it that do nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::column::{Column, Figures};
use super::ground::Ground;
use super::h2load::H2load;
use super::measure::Turns;
use super::proxy::{Proxy, Started};
use super::row::{Row, Work};
use crate::process::wait_until;

/// Memory that has not changed for so long is what a proxy has at rest.
const STEADY: Duration = Duration::from_secs(2);
/// A change by more than one in so many is one.
const UNSTEADY: u64 = 100;
/// Connections that come at the same time.
const AT_ONCE: usize = 1_000;
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// A proxy that serves, and its memory before the row in KiB.
pub fn settled<'p>(turns: &Turns<'_>, proxy: &'p Proxy) -> Result<(Started<'p>, u64)> {
    let started = proxy.start(turns.ground, turns.row.setup)?;
    let memory = at_rest(&started, turns.ground)?;
    Ok((started, memory))
}

/// Memory in KiB once it stays. What a start needs for a moment would be taken off what connections
/// cost.
pub fn at_rest(proxy: &Started<'_>, ground: &Ground<'_>) -> Result<u64> {
    let mut memory = proxy.memory();
    let mut since = Instant::now();
    let stays = || {
        let now = proxy.memory();
        if now.abs_diff(memory) * UNSTEADY > memory {
            (memory, since) = (now, Instant::now());
        }
        since.elapsed() >= STEADY
    };
    if !wait_until(SETTLE_LIMIT, ground.interrupt, stays) {
        bail!("memory did not settle in {} s", SETTLE_LIMIT.as_secs());
    }
    Ok(memory)
}

/// So many at once, and then the next ones: with all of them at once none is through before a machine
/// has done nearly all handshakes.
fn connect(
    turns: &Turns<'_>,
    proxy: &Started<'_>,
    connections: usize,
    loads: &mut Vec<H2load>,
) -> Result<()> {
    for _ in 0..connections / AT_ONCE {
        let row = Row { work: Work::Idle { connections: AT_ONCE }, ..*turns.row };
        let address = proxy.address(row.tls);
        loads.push(H2load::start(&row, address, turns.time, turns.ground)?);
        if let Some(load) = loads.last() {
            load.answered(AT_ONCE, turns.ground)?;
        }
    }
    Ok(())
}

pub fn sample(
    turns: &Turns<'_>,
    proxy: &Started<'_>,
    base: u64,
    connections: usize,
) -> Result<Figures> {
    let mut loads = Vec::new();
    let connected = connect(turns, proxy, connections, &mut loads);
    let memory = proxy.memory() as f64;
    loads.into_iter().for_each(H2load::end);
    connected?;
    Ok(Figures::default()
        .with(Column::PerConnection, (memory - base as f64) / connections as f64)
        .with(Column::Memory, memory))
}
