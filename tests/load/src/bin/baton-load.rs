//! The load client as a program, for machines that a test has no other hold on.

use std::fs;
use std::net::SocketAddr;
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
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Milliseconds between two requests of a client, at most
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..))]
    think: u64,
    /// Clients with a connection for each request
    #[arg(long, default_value_t = 4)]
    fresh: usize,
    /// Clients of HTTP/1.1 with one connection
    #[arg(long, default_value_t = 4)]
    keep_alive: usize,
    /// Clients of HTTP/2, with four streams each
    #[arg(long, default_value_t = 1)]
    http2: usize,
    #[arg(long, default_value_t = 1)]
    websockets: usize,
    /// Seconds that an answer may take
    #[arg(long, default_value_t = 10)]
    patience: u64,
}

/// Streams of a client of HTTP/2.
const STREAMS: usize = 4;
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
    let load = load(arguments)?;
    tokio::select! {
        () = until_end(&load, &mut terminate, arguments) => {}
        () = tokio::time::sleep(Duration::from_secs(arguments.seconds)) => {}
    }
    let report = load.stop().await;
    print!("{report}");
    println!("{} requests, {} failed", report.requests(), report.failed());
    // One that asked nothing has seen nothing.
    Ok(if report.requests() == 0 { 1 } else { report.failed() })
}

fn load(arguments: &Arguments) -> std::io::Result<Running> {
    let http2 = Kind::Http2 { streams: STREAMS };
    Ok(Load::new(target(arguments)?)
        .clients(Kind::Http1Fresh, arguments.fresh)
        .clients(Kind::Http1KeepAlive, arguments.keep_alive)
        .clients(http2, arguments.http2)
        .clients(Kind::WebSocket, arguments.websockets)
        .think(Duration::from_millis(1)..Duration::from_millis(arguments.think))
        .timeout(Duration::from_secs(arguments.patience))
        .start())
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
    let kinds = [
        (Kind::Http1Fresh, arguments.fresh),
        (Kind::Http1KeepAlive, arguments.keep_alive),
        (Kind::Http2 { streams: STREAMS }, arguments.http2 * STREAMS),
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

fn target(arguments: &Arguments) -> std::io::Result<Target> {
    let Arguments { address, host, roots, .. } = arguments;
    let Some(file) = roots else { return Ok(Target::plain(*address, host)) };
    let roots = roots_from_pem(&fs::read(file)?)?;
    Ok(Target::tls(*address, host, roots))
}
