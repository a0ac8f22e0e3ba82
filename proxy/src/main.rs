//! The `baton` binary: a table of contents, and the one place where exit statuses are made.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use baton::cli::{AskArgs, Cli, Command, DemoArgs, SocketArgs, UpgradeArgs, WorkerArgs};
use baton::controller::admin::answers::UpgradeOrder;
use baton::controller::admin::{client, tables};
use baton::controller::{check, run, upgrade};
use baton::{demo, worker};
use clap::Parser;
use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => {
            run::run(args.config.config.as_deref(), args.resume).map_err(Into::into)
        }
        Command::Demo(args) => demonstrate(&args),
        Command::Check(args) => print_check(args.config.as_deref()),
        Command::Status(args) => print_answer(&args, "/status", tables::status),
        Command::Routes(args) => print_answer(&args, "/routes", tables::routes),
        Command::Certs(args) => {
            print_answer(&args, "/certs", |list: &Vec<_>| tables::certificates(list))
        }
        Command::Reload(args) => reload(&args),
        Command::Upgrade(args) => upgrade(&args),
        Command::Rollback(args) => follow(&args, "/rollback", &()),
        Command::Worker(args) => serve_public(&args),
        Command::Preflight => preflight(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("baton: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate(args: &DemoArgs) -> anyhow::Result<()> {
    let all_good = demo::run(&demo::Options { stay: args.stay, seconds: args.seconds })?;
    if !all_good {
        bail!("the demo saw failures: see above");
    }
    Ok(())
}

fn print_check(config: Option<&Path>) -> anyhow::Result<()> {
    let remarks = check::check(config)?;
    print(&format!("configuration: valid\n{}\n", remarks.join("\n")))
}

/// Asks the controller that runs; JSON passes as it came, fields that we do not know included.
fn print_answer<T: DeserializeOwned>(
    args: &AskArgs,
    path: &str,
    table: impl Fn(&T) -> String,
) -> anyhow::Result<()> {
    let answer = client::ask(&args.socket.path()?, Method::GET, path)?;
    if args.json {
        return print(&String::from_utf8_lossy(&answer));
    }
    print(&table(&client::parse(&answer)?))
}

fn reload(args: &SocketArgs) -> anyhow::Result<()> {
    let answer = client::ask(&args.path()?, Method::POST, "/reload")?;
    print(&tables::reloaded(&client::parse(&answer)?))
}

fn upgrade(args: &UpgradeArgs) -> anyhow::Result<()> {
    // The controller may stand elsewhere.
    let binary = args.binary.as_deref().map(std::path::absolute).transpose()?;
    follow(&args.socket, "/upgrade", &UpgradeOrder { binary })
}

fn follow(socket: &SocketArgs, path: &str, order: &impl Serialize) -> anyhow::Result<()> {
    let handoff = client::follow(&socket.path()?, path, order, |step| {
        // A step that nobody can read does not end the upgrade.
        let _ = print(&format!("{:>6} ms  {}\n", step.ms, step.text));
    })?;
    print(&format!("done: generation {} serves\n", handoff.to))
}

fn preflight() -> anyhow::Result<()> {
    print(&format!("{}\n", upgrade::answer_preflight()?))
}

fn serve_public(args: &WorkerArgs) -> anyhow::Result<()> {
    let control = args.control();
    // Started through a descriptor, the process would be called by its number in ps and top.
    let _ = fs::write("/proc/self/comm", "baton-worker");
    Ok(worker::run(control)?)
}

/// Like `print!`, but a reader that has seen enough (`baton routes | head`) is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}
