//! `--minutes`: all kinds of clients, routes, containers and certificates that come and go, and
//! handoffs; whether anything grows, and whether anybody feels it.

use std::time::{Duration, Instant};

use baton_load::{Kind, Load, Protocol, Report, Running, Upstream};
use baton_tests::{Baton, Config, Docker, until};

use crate::kernel::{Counters, Resets};
use crate::samples::Samples;
use crate::transfers::{Direction, Transfers};
use crate::{BYTES, HOST, LIMIT, settle};

const CYCLE: Duration = Duration::from_secs(10);
/// Routes, each with a certificate of the local CA, that are others after each cycle.
const CHURN: u64 = 5;
const WEBSOCKETS: usize = 8;
/// The first part of the time, one in so many, has no handoff: a worker has to live to grow.
const ALONE: u32 = 3;

struct Endurance {
    baton: Baton,
    upstream: Upstream,
    docker: Docker,
    mode: String,
    cycle: u64,
    streams: u32,
    handoffs: u64,
    felt: u64,
    messages: u64,
}

/// How many requests, transfers and processes were not as they should be.
pub async fn soak(minutes: u64, mode: &str) -> u64 {
    let docker = Docker::connect();
    let upstream = Upstream::start("one").await.expect("upstream");
    let config = config(&upstream, &docker, mode, 0, 100);
    let baton = Baton::start(config).await;
    let mode = mode.to_owned();
    let (cycle, streams, handoffs, felt, messages) = (0, 100, 0, 0, 0);
    let endurance =
        Endurance { baton, upstream, docker, mode, cycle, streams, handoffs, felt, messages };
    endurance.run(Duration::from_secs(minutes * 60)).await
}

impl Endurance {
    async fn run(mut self, time: Duration) -> u64 {
        println!("handoff mode {}", self.baton.status_json()["handoff"]["mode"]);
        let (before, resets) = (Counters::read(), Resets::follow(&[self.baton.https_address()]));
        let load = load(&self.baton);
        let target = || self.baton.https(HOST);
        let transfers = [
            Transfers::start(target(), Direction::Down, Protocol::Http1, BYTES),
            Transfers::start(target(), Direction::Up, Protocol::Http1, BYTES),
            Transfers::start(target(), Direction::Up, Protocol::Http2, BYTES),
        ];
        let mut alone = Samples::of("one worker, no handoff");
        let first_part = Instant::now() + time / ALONE;
        while Instant::now() < first_part {
            self.cycle(false).await;
            alone.take(self.baton.worker_pid());
            self.tell(&load);
        }
        let mut controller = Samples::of("controller");
        let mut workers = Samples::of("worker after worker");
        let second_part = Instant::now() + (time - time / ALONE);
        while Instant::now() < second_part {
            self.cycle(true).await;
            controller.take(self.baton.pid());
            workers.take(self.baton.worker_pid());
            self.tell(&load);
        }
        self.upgrade().await;
        let report = load.stop().await;
        let (mut whole, mut torn) = (0, 0);
        for transfer in transfers {
            let (more, failed) = transfer.stop().await;
            (whole, torn) = (whole + more, torn + failed);
        }
        print!("\n{report}");
        println!("WebSocket: {} messages", self.messages);
        println!("transfers of 100 MB: {whole} whole, {torn} failed");
        println!("{} handoffs, {} cycles of routes and containers\n", self.handoffs, self.cycle);
        Samples::print_head();
        let grown = [alone, controller, workers].map(|samples| samples.judge());
        println!();
        Counters::read().print_since(&before, resets.as_ref().and_then(Resets::count));
        report.failed() + torn + self.felt + grown.into_iter().filter(|grows| *grows).count() as u64
    }

    /// Other routes, a container that comes and goes, and tunnels, which a handoff leaves in the old generation.
    async fn cycle(&mut self, hand_over: bool) {
        let next = Instant::now() + CYCLE;
        let tunnels = tunnels(&self.baton).await;
        self.cycle += 1;
        self.reload();
        self.container().await;
        if hand_over {
            self.hand_over();
        }
        tokio::time::sleep_until(next.into()).await;
        let tunnels = tunnels.stop().await;
        self.messages += tunnels.requests();
        self.count("tunnels", &tunnels);
        alone(&self.baton).await;
    }

    fn tell(&self, load: &Running) {
        if self.cycle.is_multiple_of(6) {
            let seen = load.snapshot();
            println!(
                "cycle {}: {} requests, {} failed",
                self.cycle,
                seen.requests(),
                seen.failed()
            );
        }
    }

    fn count(&mut self, what: &str, report: &Report) {
        self.felt += report.failed();
        if report.failed() > 0 {
            println!("{what}: {report}");
        }
    }

    fn reload(&self) {
        let said = self.baton.reconfigure(&self.config());
        assert!(said["error"].is_null(), "{said}");
    }

    fn config(&self) -> Config {
        config(&self.upstream, &self.docker, &self.mode, self.cycle, self.streams)
    }

    /// One that comes, is asked, and goes.
    async fn container(&mut self) {
        let host = format!("container{}.test", self.cycle);
        let (docker, name) = (self.docker.clone(), host.clone());
        let run = move || docker.run("comes", &[("VIRTUAL_HOST", &name)], &[]);
        let container = tokio::task::spawn_blocking(run).await.expect("docker was run");
        self.baton.wait_up(&host, 1).await;
        // The controller knows it a moment before the worker that is asked.
        until("its first answer", LIMIT, async || {
            let answer = self.baton.curl(&format!("https://{host}/")).run().await;
            (answer.status == 200).then_some(())
        })
        .await;
        let asked = Load::new(self.baton.https(&host)).clients(Kind::Http2 { streams: 4 }, 2);
        let report = asked.requests(20).start().finish().await;
        self.count(&host, &report);
        tokio::task::spawn_blocking(move || drop(container)).await.expect("docker was run");
    }

    /// With tunnels and transfers under way.
    fn hand_over(&mut self) {
        self.handoffs += 1;
        self.streams = 100 + (self.streams + 1) % 3;
        let said = self.baton.reconfigure(&self.config());
        assert_eq!(said["handoff"]["outcome"], "done", "{said}");
    }

    async fn upgrade(&mut self) {
        self.handoffs += 1;
        let output = self.baton.command(&["upgrade"]);
        assert!(output.status.success(), "{output:?}\n{}", self.baton.stderr());
        settle(&self.baton).await;
    }
}

fn load(baton: &Baton) -> Running {
    Load::new(baton.https(HOST))
        .clients(Kind::Http1KeepAlive, 16)
        .clients(Kind::Http1Fresh, 4)
        .clients(Kind::Http2 { streams: 8 }, 4)
        .think(Duration::from_millis(20)..Duration::from_millis(100))
        .start()
}

/// All of them in the generation that serves.
async fn tunnels(baton: &Baton) -> Running {
    let load = Load::new(baton.https(HOST)).clients(Kind::WebSocket, WEBSOCKETS).start();
    until("the tunnels", LIMIT, async || {
        (load.snapshot().kinds[&Kind::WebSocket].connections == WEBSOCKETS as u64).then_some(())
    })
    .await;
    load
}

fn config(upstream: &Upstream, docker: &Docker, mode: &str, cycle: u64, streams: u32) -> Config {
    let upstream = [upstream.address()];
    let config = Config::new()
        .top(&format!("handoff = {mode:?}"))
        .docker(docker.endpoint())
        .route(HOST, &upstream)
        .section(&format!("[limits]\nstreams = {streams}"));
    (0..CHURN).fold(config, |config, number| {
        config.route(&format!("churn{}.test", cycle * CHURN + number), &upstream)
    })
}

/// Until no generation drains: its transfers come to an end.
async fn alone(baton: &Baton) {
    until("the end of the old generation", LIMIT, async || {
        (baton.status_json()["generations"].as_array()?.len() == 1).then_some(())
    })
    .await;
}
