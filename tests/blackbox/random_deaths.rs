//! Controllers and workers that are killed at random moments, handoffs under way; at length:
//! `cargo xtask soak -- --kills 200`.

use baton_tests::Kills;

use crate::APP;
use crate::stage::{Mode, Stage, in_modes};

in_modes! {
    both: whom_a_death_at_a_random_moment_costs_is_who_was_in_flight_at_the_dead_worker;
    ebpf:
}

const ROUNDS: usize = 4;
/// With these, both kinds die.
const SEED: u64 = 8;

/// A controller's death is felt by nobody; a worker's costs what was in flight at it, and never a refused
/// connection.
async fn whom_a_death_at_a_random_moment_costs_is_who_was_in_flight_at_the_dead_worker(mode: Mode) {
    let mut stage = Stage::start(mode).await;
    let load = Kills::load(&stage.baton, APP).start();
    let mut kills = Kills::new(SEED, [stage.config(), stage.with_streams(50)]);
    for _ in 0..ROUNDS {
        kills.round(&mut stage.baton, &load).await;
    }
    drop(load.stop().await);
    let deaths = kills.deaths();
    assert!(deaths.controllers > 0 && deaths.workers > 0, "{deaths:?}");
}
