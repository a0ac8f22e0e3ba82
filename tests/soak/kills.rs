//! `--kills`: controllers and workers that die at random moments.

use baton_load::Upstream;
use baton_tests::{Baton, Config, Kills};

use crate::HOST;

/// How many requests failed beyond what the deaths of workers explain: none, else it panics.
pub async fn soak(rounds: u64, seed: u64, mode: &str) -> u64 {
    let upstream = Upstream::start("one").await.expect("upstream");
    let config = |streams: u32| {
        Config::new()
            .top(&format!("handoff = {mode:?}"))
            .route(HOST, &[upstream.address()])
            .section(&format!("[limits]\nstreams = {streams}"))
    };
    let mut baton = Baton::start(config(100)).await;
    let load = Kills::load(&baton, HOST).start();
    let mut kills = Kills::new(seed, [config(100), config(101)]);
    for round in 1..=rounds {
        kills.round(&mut baton, &load).await;
        if round % 20 == 0 {
            println!(
                "{round} rounds, {:?}, {} requests",
                kills.deaths(),
                load.snapshot().requests()
            );
        }
    }
    print!("\n{}", load.stop().await);
    let deaths = kills.deaths();
    println!(
        "{} controllers and {} workers killed, {} requests failed, all in flight at a worker that died",
        deaths.controllers, deaths.workers, deaths.felt
    );
    0
}
