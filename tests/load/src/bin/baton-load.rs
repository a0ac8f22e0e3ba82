//! The load client as a program, for machines that a test has no other hold on.

use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use baton_load::{Kind, Load, Report, Running, Target, roots_from_pem};
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Asks until SIGTERM and once more after it, or for so many seconds, and says what clients felt. Exit
/// status: 0, or 1 when one felt a failure.
#[derive(Debug, Parser)]
struct Arguments {
    address: SocketAddr,
    /// Host field, :authority and SNI
    host: String,
    /// Roots, as PEM, to verify the server by; without, plain HTTP
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// Offer TLS 1.3 with AES-128-GCM and X25519 alone
    #[arg(long)]
    one_suite: bool,
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Each client ends after so many requests
    #[arg(long, default_value_t = u64::MAX)]
    requests: u64,
    /// Milliseconds between two requests of a client, at most; 0: no pause at all
    #[arg(long, default_value_t = 20)]
    think: u64,
    /// Requests a second of all clients together, whatever has become of those before; latency counts
    /// from when a request was due
    #[arg(long, conflicts_with = "think")]
    rate: Option<u64>,
    /// Ask for this path alone
    #[arg(long, requires = "length")]
    path: Option<String>,
    /// Bytes that each answer to it has
    #[arg(long, requires = "path")]
    length: Option<usize>,
    /// Clients with a connection for each request
    #[arg(long, default_value_t = 4)]
    fresh: usize,
    /// Clients of HTTP/1.1 with one connection
    #[arg(long, default_value_t = 4)]
    keep_alive: usize,
    /// Clients of HTTP/2
    #[arg(long, default_value_t = 1)]
    http2: usize,
    /// Clients of gRPC, over HTTP/2
    #[arg(long, default_value_t = 0)]
    grpc: usize,
    /// Of each client of HTTP/2 or gRPC
    #[arg(long, default_value_t = 4)]
    streams: usize,
    /// Clients of HTTP/2 with a connection for each request, that resume their TLS sessions
    #[arg(long, default_value_t = 0, requires = "roots")]
    resumed: usize,
    #[arg(long, default_value_t = 1)]
    websockets: usize,
    /// Seconds that an answer may take
    #[arg(long, default_value_t = 10)]
    patience: u64,
    /// Say it as JSON, and nothing before; SIGTERM is the end
    #[arg(long)]
    json: bool,
}

/// Between two looks at what was asked so far.
const LOOK: Duration = Duration::from_millis(50);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match ask(&arguments).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("baton-load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How many requests failed.
async fn ask(arguments: &Arguments) -> std::io::Result<u64> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut running = load(arguments)?.start();
    let over = tokio::time::sleep(Duration::from_secs(arguments.seconds));
    if arguments.json {
        tokio::select! {
            _ = terminate.recv() => {}
            () = over => {}
            () = running.ended() => {}
        }
    } else {
        tokio::select! {
            () = until_end(&running, &mut terminate, arguments) => {}
            () = over => {}
        }
    }
    let report = running.stop().await;
    if arguments.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
        println!("{} requests, {} failed", report.requests(), report.failed());
    }
    // One that asked nothing has seen nothing.
    Ok(if report.requests() == 0 { 1 } else { report.failed() })
}

fn load(arguments: &Arguments) -> std::io::Result<Load> {
    let streams = arguments.streams;
    let load = Load::new(target(arguments)?)
        .clients(Kind::Http1Fresh, arguments.fresh)
        .clients(Kind::Http1KeepAlive, arguments.keep_alive)
        .clients(Kind::Http2 { streams }, arguments.http2)
        .clients(Kind::Grpc { streams }, arguments.grpc)
        .clients(Kind::Http2Resumed, arguments.resumed)
        .clients(Kind::WebSocket, arguments.websockets)
        .requests(arguments.requests)
        .timeout(Duration::from_secs(arguments.patience))
        .think(think(arguments.think));
    let load = match arguments.rate {
        Some(rate) => load.rate(rate),
        None => load,
    };
    Ok(match (&arguments.path, arguments.length) {
        (Some(path), Some(length)) => load.file(path, length),
        _ => load,
    })
}

/// Says when everything has been asked once: whoever starts us waits for it before anything happens.
/// What is asked after SIGTERM shows that all goes on.
async fn until_end(load: &Running, terminate: &mut Signal, arguments: &Arguments) {
    let nothing = Report::default();
    tokio::select! {
        () = asked(load, &nothing, arguments) => println!("everybody has asked"),
        _ = terminate.recv() => return,
    }
    let _ = terminate.recv().await;
    asked(load, &load.snapshot(), arguments).await;
}

/// Until each kind of client has asked as often as there are clients of it.
async fn asked(load: &Running, before: &Report, arguments: &Arguments) {
    let streams = arguments.streams;
    let kinds = [
        (Kind::Http1Fresh, arguments.fresh),
        (Kind::Http1KeepAlive, arguments.keep_alive),
        (Kind::Http2 { streams }, arguments.http2 * streams),
        (Kind::WebSocket, arguments.websockets),
    ];
    let of = |report: &Report, kind| report.kinds.get(&kind).map_or(0, |one| one.requests);
    loop {
        let now = load.snapshot();
        let more = |kind| of(&now, kind) - of(before, kind);
        if kinds.iter().all(|(kind, clients)| more(*kind) >= *clients as u64) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn think(most: u64) -> Range<Duration> {
    let least = Duration::from_millis(most.min(1));
    least..Duration::from_millis(most).max(least)
}

fn target(arguments: &Arguments) -> std::io::Result<Target> {
    let Arguments { address, host, roots, .. } = arguments;
    let Some(file) = roots else { return Ok(Target::plain(*address, host)) };
    let roots = roots_from_pem(&fs::read(file)?)?;
    let target = Target::tls(*address, host, roots);
    Ok(if arguments.one_suite { target.one_suite() } else { target })
}
