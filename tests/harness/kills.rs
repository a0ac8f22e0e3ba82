//! Deaths at random moments: of controllers and workers, while generations change and clients ask.

use std::time::Duration;

use baton_load::random::Random;
use baton_load::{Cause, Kind, Load, Report, Running};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{Baton, Config, until};

const LIMIT: Duration = Duration::from_secs(30);
/// A handoff takes less.
const MOMENTS: u64 = 300;
const FRESH: usize = 4;
const KEEP_ALIVE: usize = 4;
const STREAMS: usize = 4;
/// Requests in flight at most: what the death of a worker may cost.
const IN_FLIGHT: u64 = (FRESH + KEEP_ALIVE + STREAMS) as u64;

/// Rounds of `kill -9` on one baton, each at another moment.
#[derive(Debug)]
pub struct Kills {
    random: Random,
    configs: [Config; 2],
    round: usize,
    deaths: Deaths,
}

/// Who died, and what clients felt of it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Deaths {
    pub controllers: u64,
    pub workers: u64,
    /// Requests that failed, all of them with a worker that died.
    pub felt: u64,
}

impl Kills {
    /// A change from one of these configurations to the other needs a generation.
    pub fn new(seed: u64, configs: [Config; 2]) -> Self {
        Kills { random: Random::new(seed), configs, round: 0, deaths: Deaths::default() }
    }

    pub fn load(baton: &Baton, host: &str) -> Load {
        Load::new(baton.https(host))
            .clients(Kind::Http1KeepAlive, KEEP_ALIVE)
            .clients(Kind::Http1Fresh, FRESH)
            .clients(Kind::Http2 { streams: STREAMS }, 1)
    }

    pub fn deaths(&self) -> Deaths {
        self.deaths
    }

    /// One death, and what follows until all is as it was.
    ///
    /// # Panics
    /// When clients felt more than they may: of a controller's death nothing; of a worker's, what was in
    /// flight at it, and never a refused connection.
    pub async fn round(&mut self, baton: &mut Baton, load: &Running) {
        let before = load.snapshot();
        self.round += 1;
        baton.write_config(&self.configs[self.round % 2]);
        // Nothing, a reload that makes a generation, or an upgrade is under way.
        let command = [None, Some("reload"), Some("upgrade")][self.random.below(3) as usize];
        let changing = command.map(|command| baton.spawn_command(&[command]));
        tokio::time::sleep(Duration::from_millis(self.random.below(MOMENTS))).await;
        let controller = self.random.below(2) == 0;
        if controller {
            baton.kill_controller().await;
            more(load, IN_FLIGHT).await;
            baton.start_controller();
            self.deaths.controllers += 1;
        } else if let Some(worker) = self.some_worker(baton) {
            // It may have ended by itself.
            self.deaths.workers += u64::from(kill(worker, Signal::SIGKILL).is_ok());
        }
        if let Some(mut changing) = changing {
            if controller {
                // It may wait for the end of a handoff that the next controller knows nothing of.
                drop(changing.kill());
            }
            drop(changing.wait_with_output());
        }
        settled(baton).await;
        more(load, 4 * IN_FLIGHT).await;
        let after = load.snapshot();
        let felt = after.failed() - before.failed();
        let allowed = if controller { 0 } else { IN_FLIGHT };
        let round = self.round;
        assert!(felt <= allowed, "round {round}: {felt} felt {command:?} {controller}\n{after}");
        assert_eq!(refused(&after), 0, "round {round}: {after}");
        self.deaths.felt += felt;
    }

    /// Of whatever generation: it starts, serves or drains.
    fn some_worker(&mut self, baton: &Baton) -> Option<Pid> {
        let status = baton.try_status_json()?;
        let pids: Vec<i64> = generations(&status).filter_map(|one| one["pid"].as_i64()).collect();
        let chosen = pids.get(self.random.below(pids.len() as u64) as usize)?;
        Some(Pid::from_raw(i32::try_from(*chosen).expect("the kernel's pids fit")))
    }
}

fn generations(status: &Value) -> impl Iterator<Item = &Value> {
    status["generations"].as_array().into_iter().flatten()
}

/// One generation serves, and no handoff is under way.
async fn settled(baton: &Baton) {
    until("one generation that serves", LIMIT, async || {
        let status = baton.try_status_json()?;
        let all: Vec<&Value> = generations(&status).collect();
        let serves = matches!(all[..], [one] if one["state"] == "active" && one["pid"].is_i64());
        (serves && status["pid"] == baton.pid()).then_some(())
    })
    .await;
}

async fn more(load: &Running, count: u64) {
    let wanted = load.snapshot().requests() + count;
    until("requests under load", LIMIT, async || {
        (load.snapshot().requests() >= wanted).then_some(())
    })
    .await;
}

fn refused(report: &Report) -> u64 {
    report.kinds.values().filter_map(|kind| kind.failures.get(&Cause::ConnectRefused)).sum()
}
