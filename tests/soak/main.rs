//! Handoffs at length, under load: what clients feel of them, what the kernel counts meanwhile, and
//! what a handoff costs; or, in its place, a mixed load for some minutes, or deaths. `cargo xtask soak`
//! runs it.

mod endurance;
mod kernel;
mod kills;
mod samples;
mod transfers;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use baton_load::{Kind, Load, Protocol, Running, Upstream};
use baton_tests::{Baton, Config, Link, Namespace, proportional, until};
use clap::Parser;
use serde_json::Value;
use tokio::sync::oneshot;

use kernel::{Counters, Resets};
use transfers::{Direction, Transfers};

const HOST: &str = "app.test";
const LIMIT: Duration = Duration::from_secs(60);
/// Clients, and what each has in flight at most: the think time follows from the rate.
const KEEP_ALIVE: usize = 32;
const FRESH: usize = 16;
const HTTP2: usize = 4;
const STREAMS: usize = 16;
const WEBSOCKETS: usize = 8;
/// A body that spans several handoffs, in bytes, and one over a link, which is slower.
const BYTES: u64 = 100_000_000;
const BYTES_OVER_LINK: u64 = 10_000_000;

#[derive(Parser)]
#[command(name = "cargo xtask soak")]
struct Options {
    /// Handoffs, one after the other; each tenth is an upgrade, the others reload limits.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    handoffs: u64,
    /// Requests a second, over all clients.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Routes beside the one under load.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    routes: u64,
    /// `auto`, `ebpf` or `inherit`.
    #[arg(long, default_value = "auto")]
    mode: String,
    /// In place of handoffs alone: a mixed load for so long, with routes, containers and certificates that
    /// come and go, and a handoff each 10 s; fails where memory or descriptors grow.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=55), conflicts_with_all = ["handoffs", "kills"])]
    minutes: Option<u64>,
    /// In place of handoffs alone: so many times a controller or a worker dies (SIGKILL), at a random moment.
    #[arg(long, conflicts_with = "handoffs")]
    kills: Option<u64>,
    /// Clients are at the far end of a link, in another network namespace, on which each packet takes so many
    /// milliseconds.
    #[arg(long, conflicts_with_all = ["minutes", "kills"])]
    delay: Option<u64>,
    /// Of the moments of `--kills`.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let failed = match options.delay {
        None => run(&options, None),
        Some(delay) => over_link(options, Duration::from_millis(delay)),
    };
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(options: &Options, near: Option<&Namespace>) -> u64 {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(chosen(options, near))
}

/// Everything but baton and its upstream is at the far end.
fn over_link(options: Options, delay: Duration) -> u64 {
    let Some(link) = Link::create(delay) else { return 1 };
    let near = link.near.clone();
    link.far.run(move || run(&options, Some(&near)))
}

async fn chosen(options: &Options, near: Option<&Namespace>) -> u64 {
    match (options.minutes, options.kills) {
        (Some(minutes), _) => endurance::soak(minutes, &options.mode).await,
        (None, Some(rounds)) => kills::soak(rounds, options.seed, &options.mode).await,
        (None, None) => soak(options, near).await,
    }
}

/// How many requests and transfers failed.
async fn soak(options: &Options, near: Option<&Namespace>) -> u64 {
    let upstream = &Serving::start(near).await;
    let baton = match near {
        Some(near) => Baton::start_in(near, config(options, upstream, 0)).await,
        None => Baton::start(config(options, upstream, 0)).await,
    };
    let counters = || near.map_or_else(Counters::read, |near| near.run(Counters::read));
    let mode = baton.status_json()["handoff"]["mode"].clone();
    println!("handoff mode {mode}, {} routes", options.routes + 1);
    let memory = memory(&baton, options, upstream).await;

    let (before, resets) = (counters(), Resets::follow(&[baton.https_address()]));
    let load = start_load(&baton, options);
    // All tunnels in one generation.
    until("the tunnels", LIMIT, async || {
        (load.snapshot().kinds[&Kind::WebSocket].connections == WEBSOCKETS as u64).then_some(())
    })
    .await;
    let bytes = if near.is_some() { BYTES_OVER_LINK } else { BYTES };
    let transfers = Transfers::start(baton.https(HOST), Direction::Down, Protocol::Http1, bytes);
    let mut handoffs = Vec::new();
    for number in 1..=options.handoffs {
        handoffs.push(hand_over(&baton, options, upstream, number).await);
        settle(&baton).await;
        if number % 10 == 0 {
            let (requests, failed) = (load.snapshot().requests(), load.snapshot().failed());
            println!("{number} handoffs, {requests} requests, {failed} failed");
        }
    }
    // Before clients leave: who closes with an answer on its way is reset for a reason.
    let sent = resets.as_ref().and_then(Resets::count);
    let report = load.stop().await;
    let (whole, torn) = transfers.stop().await;
    print!("\n{report}");
    println!("downloads of {} MB: {whole} whole, {torn} failed", bytes / 1_000_000);
    println!("rate: {:.0} requests/s\n", report.requests() as f64 / report.elapsed.as_secs_f64());
    print_times(&handoffs);
    println!("{memory}");
    print_bound(
        report.failed() + torn,
        &[("handoffs", options.handoffs), ("requests", report.requests())],
    );
    counters().print_since(&before, sent);
    report.failed() + torn + sent.unwrap_or(0)
}

/// An upstream, in this namespace or another, that ends with its handle.
struct Serving {
    address: SocketAddr,
    _end: oneshot::Sender<()>,
}

impl Serving {
    async fn start(near: Option<&Namespace>) -> Self {
        let (_end, ended) = oneshot::channel::<()>();
        let (started, address) = oneshot::channel();
        let serve = async move {
            let upstream = Upstream::start("one").await.expect("upstream");
            let _ = started.send(upstream.address());
            let _ = ended.await;
        };
        match near {
            Some(near) => drop(near.block_on(move || serve)),
            None => drop(tokio::spawn(serve)),
        }
        Serving { address: address.await.expect("it starts"), _end }
    }
}

/// Where none of so many failed, at most three in so many do, with 95 % confidence (rule of three).
fn print_bound(failed: u64, counts: &[(&str, u64)]) {
    for (what, count) in counts.iter().filter(|_| failed == 0) {
        println!("none of {count} {what} felt: fewer than one in {} is, at 95 %", count / 3);
    }
    println!();
}

fn config(options: &Options, upstream: &Serving, number: u64) -> Config {
    let upstream = [upstream.address];
    let listen = if options.delay.is_some() { Link::ADDRESS } else { Ipv4Addr::LOCALHOST };
    let config = Config::new()
        .listen(&format!("http = [\"{listen}:0\"]\nhttps = [\"{listen}:0\"]"))
        .top(&format!("handoff = {:?}", options.mode))
        .route(HOST, &upstream);
    let config = (0..options.routes)
        .fold(config, |config, number| config.route(&format!("app{number}.test"), &upstream));
    config.section(&format!("[limits]\nstreams = {}", 100 + number % 3))
}

fn start_load(baton: &Baton, options: &Options) -> Running {
    let in_flight = KEEP_ALIVE + FRESH + HTTP2 * STREAMS + WEBSOCKETS;
    let mean = Duration::from_secs_f64(in_flight as f64 / options.rate as f64);
    Load::new(baton.https(HOST))
        .clients(Kind::Http1KeepAlive, KEEP_ALIVE)
        .clients(Kind::Http1Fresh, FRESH)
        .clients(Kind::Http2 { streams: STREAMS }, HTTP2)
        .clients(Kind::WebSocket, WEBSOCKETS)
        .think(Duration::ZERO..2 * mean)
        .time(Duration::MAX)
        .start()
}

/// The journal's entry of a handoff that is done.
async fn hand_over(baton: &Baton, options: &Options, upstream: &Serving, number: u64) -> Value {
    if number.is_multiple_of(10) {
        let output = baton.command(&["upgrade"]);
        assert!(output.status.success(), "{output:?}\n{}", baton.stderr());
    } else {
        let said = baton.reconfigure(&config(options, upstream, number));
        assert_eq!(said["handoff"]["outcome"], "done", "{said}");
    }
    baton.status_json()["last_handoffs"][0].clone()
}

/// Until one generation drains at most: that of the WebSockets, which live on.
async fn settle(baton: &Baton) {
    until("the drain of the old generation", LIMIT, async || {
        let status = baton.status_json();
        let generations = status["generations"].as_array()?;
        (generations.iter().filter(|other| other["state"] == "draining").count() <= 1).then_some(())
    })
    .await;
}

/// What all processes hold by themselves (PSS, proc(5)), with one generation and with two.
async fn memory(baton: &Baton, options: &Options, upstream: &Serving) -> String {
    let one = processes(baton);
    // A WebSocket keeps the old generation.
    let tunnel = Load::new(baton.https(HOST)).clients(Kind::WebSocket, 1).start();
    until("a tunnel", LIMIT, async || (tunnel.snapshot().requests() > 0).then_some(())).await;
    hand_over(baton, options, upstream, 1).await;
    let two = processes(baton);
    drop(tunnel);
    until("the end of the old generation", LIMIT, async || {
        (baton.status_json()["generations"].as_array()?.len() == 1).then_some(())
    })
    .await;
    hand_over(baton, options, upstream, 2).await;
    settle(baton).await;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!(
        "memory (PSS of controller and workers): one generation {:.1} MiB, two {:.1} MiB: {:.2} times",
        mib(one),
        mib(two),
        two as f64 / one as f64
    )
}

fn processes(baton: &Baton) -> u64 {
    let status = baton.status_json();
    let generations = status["generations"].as_array().expect("a list of generations");
    let workers = generations.iter().filter_map(|other| other["pid"].as_i64());
    let workers = workers.map(|pid| i32::try_from(pid).expect("the kernel's pids fit"));
    workers.chain([baton.pid()]).map(proportional).sum()
}

fn print_times(handoffs: &[Value]) {
    println!("{:<28} {:>9} {:>9} {:>9}", "handoffs", "number", "median", "longest");
    for kind in ["reload", "upgrade"] {
        let of_kind: Vec<&Value> = handoffs.iter().filter(|h| h["kind"] == kind).collect();
        let ms = |key: &str| of_kind.iter().filter_map(|h| h[key].as_u64()).collect::<Vec<_>>();
        let from_ready =
            ms("ms_to_flip").iter().zip(ms("ms_to_ready")).map(|(f, r)| f - r).collect();
        print_row(&format!("{kind}: to ready"), ms("ms_to_ready"));
        print_row(&format!("{kind}: ready to flip"), from_ready);
        print_row(&format!("{kind}: to flip"), ms("ms_to_flip"));
    }
    println!();
}

fn print_row(name: &str, mut times: Vec<u64>) {
    times.sort_unstable();
    if let (Some(median), Some(longest)) = (times.get(times.len() / 2), times.last()) {
        println!("{name:<28} {:>9} {median:>6} ms {longest:>6} ms", times.len());
    }
}
