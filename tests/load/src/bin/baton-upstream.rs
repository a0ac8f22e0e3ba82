//! The upstream as a program, for containers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use baton_load::{Upstream, UpstreamOptions};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// How long `--probe` waits for an answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A small HTTP server for tests: says its name, echoes, streams, and stops gracefully on SIGTERM.
#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long, default_value = "0.0.0.0:80")]
    listen: SocketAddr,
    /// What it calls itself; default: the host name
    #[arg(long, env = "HOSTNAME", default_value = "upstream")]
    name: String,
    /// Speak TLS, with a certificate of its own
    #[arg(long)]
    tls: bool,
    /// /health says no as long as this file is there
    #[arg(long)]
    unhealthy_file: Option<PathBuf>,
    /// /health says no for so many milliseconds
    #[arg(long, default_value_t = 0)]
    healthy_after: u64,
    /// Milliseconds that it serves on after SIGTERM
    #[arg(long, default_value_t = 0)]
    stop_delay: u64,
    /// Ask /health there, and exit 0 if it says yes: a HEALTHCHECK for an image without curl
    #[arg(long, value_name = "ADDRESS")]
    probe: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.probe {
        Some(address) => probe(address),
        None => serve(arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("baton-upstream: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(arguments: Arguments) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let upstream = Upstream::start_with(UpstreamOptions {
        name: arguments.name,
        listen: Some(arguments.listen),
        tls: arguments.tls,
        unhealthy_file: arguments.unhealthy_file,
        healthy_after: Duration::from_millis(arguments.healthy_after),
        stop_delay: Duration::from_millis(arguments.stop_delay),
    })
    .await?;
    println!("listening on {}", upstream.address());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    upstream.stop().await;
    Ok(())
}

fn probe(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err(std::io::Error::other(answer.lines().next().unwrap_or("no answer").to_owned()))
    }
}
