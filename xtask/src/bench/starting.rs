//! How long a proxy takes from exec to its first answer, and what it takes up then.

use anyhow::Result;

use super::baton_load::verify;
use super::column::{Column, Figures};
use super::configs::host;
use super::idle;
use super::measure::Turns;
use super::proxy::{Proxy, Started};

/// Memory is that of the first round alone: until it stays takes longer than the start.
pub fn sample(turns: &Turns<'_>, proxy: &Proxy, round: u64) -> Result<Figures> {
    let (started, took) = proxy.start_timed(turns.ground, turns.row.setup)?;
    let cpu = started.cpu_time();
    knows_its_hosts(turns, &started)?;
    let memory = match round {
        0 => Some(idle::at_rest(&started, turns.ground)? as f64),
        _ => None,
    };
    Ok(Figures::default()
        .with(Column::Start, took.as_secs_f64() * 1e3)
        .with(Column::StartCpu, cpu.as_secs_f64() * 1e3)
        .with(Column::Memory, memory)
        .with(Column::Program, proxy.size()? as f64 / 1024.0))
}

/// A proxy that serves before it has read everything would have a head start.
fn knows_its_hosts(turns: &Turns<'_>, proxy: &Started<'_>) -> Result<()> {
    let (setup, ground) = (&turns.row.setup, turns.ground);
    let last = host(setup.hosts - 1);
    match setup.certificates {
        true => verify(&last, &ground.certificate_of(&last), proxy.address(true), ground),
        false => proxy.serves(&last, ground),
    }
}
