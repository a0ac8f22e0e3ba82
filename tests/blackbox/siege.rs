//! What the tests of attacks have in common: a baton whose clients, memory and log must not feel them.

use std::time::Duration;

use baton_load::{Kind, Load, Running, Upstream};
use baton_tests::{Baton, Config, FrameClient, peak, reset_peak, resident};

use crate::{PLAIN, more_requests, nobody_felt_anything, routed_to};

/// What a worker may hold more for an attack.
pub const MEMORY: u64 = 32 << 20;
/// Of measurements with an attack and without.
const PAIRS: usize = 15;
/// Less of a wait is the scheduler's: the attacker, its victims and baton share the cores.
const NOTHING: Duration = Duration::from_millis(5);

/// A baton with clients that must not feel the attack on it.
pub struct Siege {
    pub baton: Baton,
    _upstream: Upstream,
    others: Running,
    worker: i32,
    resident: u64,
}

impl Siege {
    pub async fn begin() -> Self {
        Self::with("").await
    }

    /// With more in its configuration.
    pub async fn with(section: &str) -> Self {
        Self::of(|config| config.section(section)).await
    }

    /// As [`Siege::with`], of any kind.
    pub async fn of(more: impl FnOnce(Config) -> Config) -> Self {
        let upstream = Upstream::start("one").await.expect("upstream");
        let baton = Baton::start(more(routed_to(&upstream.address()))).await;
        let others = Load::new(baton.http(PLAIN))
            .clients(Kind::Http1KeepAlive, 1)
            .clients(Kind::Http2 { streams: 2 }, 1)
            .start();
        more_requests(&others, 20).await;
        let worker = baton.worker_pid();
        reset_peak(worker);
        let resident = resident(worker);
        Siege { baton, _upstream: upstream, others, worker, resident }
    }

    pub async fn attacker(&self, settings: &[(u16, u32)]) -> FrameClient {
        FrameClient::connect(&self.baton.http(PLAIN), settings).await
    }

    /// Other clients wait less than three times as long while `attack` goes on again and again.
    pub async fn slowed_little_by(&self, what: &str, attack: impl AsyncFn(&Siege)) {
        let slowed = self.slowed_by(attack).await;
        println!("{what}: {slowed:.2} times");
        assert!(slowed < 3.0, "{what}: {slowed:.2} times");
    }

    /// The 99th percentile of what other clients wait while `attack` goes on, over what they wait without it:
    /// the median of pairs, each measured right after the other.
    async fn slowed_by(&self, attack: impl AsyncFn(&Siege)) -> f64 {
        let mut ratios = Vec::new();
        for _ in 0..PAIRS {
            let quiet = self.wait_of_others().await;
            let under_attack = tokio::select! {
                wait = self.wait_of_others() => wait,
                () = async { loop { attack(self).await; } } => unreachable!("it goes on"),
            };
            ratios.push(under_attack.as_secs_f64() / quiet.max(NOTHING).as_secs_f64());
        }
        ratios.sort_unstable_by(f64::total_cmp);
        println!("p99 under attack over p99 without: {ratios:.2?}");
        ratios[PAIRS / 2]
    }

    async fn wait_of_others(&self) -> Duration {
        let load = Load::new(self.baton.http(PLAIN))
            .clients(Kind::Http1KeepAlive, 4)
            .think(Duration::ZERO..Duration::from_millis(4))
            .requests(50);
        let report = load.start().finish().await;
        nobody_felt_anything(&report);
        report.kinds[&Kind::Http1KeepAlive].latency.quantile(0.99)
    }

    pub async fn end(self) {
        let said = self.repelled(MEMORY).await;
        assert!(
            !said.contains("WARN") && !said.contains("ERROR"),
            "strangers fill the log: {said}"
        );
    }

    /// The end of an attack that may cost so many bytes of memory and be spoken of; what was said.
    pub async fn repelled(self, memory: u64) -> String {
        more_requests(&self.others, 20).await;
        nobody_felt_anything(&self.others.stop().await);
        assert_eq!(self.baton.worker_pid(), self.worker, "the worker lives");
        let grown = peak(self.worker).saturating_sub(self.resident);
        assert!(grown < memory, "the worker grew by {} KiB", grown / 1024);
        self.baton.stderr()
    }
}
