//! The `baton` binary: a table of contents, and the one place where exit statuses are made.

use std::borrow::Cow;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::net::ToSocketAddrs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use baton::cli::{
    AskArgs, CertsArgs, CheckArgs, Cli, Command, DemoArgs, HostArgs, LogsArgs, MaintenanceArgs,
    SandboxTestArgs, ShowArgs, UpgradeArgs, WhyArgs, WorkerArgs,
};
use baton::config::{self, Mistakes};
use baton::controller::admin::answers::{
    CertificateOrder, CertificateOutcome, Handoff, Intervened, InterventionOrder, Reloaded, Step,
    UpgradeOrder, Wanted,
};
use baton::controller::admin::client::AskError;
use baton::controller::admin::terminal::Terminal;
use baton::controller::admin::why::{Known, story};
use baton::controller::admin::{client, tables};
use baton::controller::certificates::import;
use baton::controller::run::{self, RunError};
use baton::controller::{check, compose, upgrade};
use baton::protocol::WORKER_NAME;
use baton::protocol::settings::Sandbox;
use baton::worker::sandbox::self_test;
use baton::{demo, manual, worker};
use clap::Parser;
use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// EX_CONFIG of sysexits.h: the unit of systemd does not start it again.
const INVALID_CONFIGURATION: u8 = 78;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => {
            run::run(args.config.config.as_deref(), args.resume).map_err(Into::into)
        }
        Command::Demo(args) => demonstrate(&args),
        Command::Check(args) => check(&args),
        Command::Status(args) => print_answer(&args, "/status", tables::status),
        Command::Routes(args) => print_answer(&args, "/routes", tables::routes),
        Command::Why(args) => why(&args),
        Command::Logs(args) => logs(&args),
        Command::Certs(args) => certificates(&args),
        Command::Reload(args) => reload(&args),
        Command::Upgrade(args) => upgrade(&args),
        Command::Rollback(args) => follow(&args, "/rollback", &UpgradeOrder::default()),
        Command::Pause(args) => intervene(&args.host, Wanted::Pause { max: args.max }),
        Command::Resume(args) => intervene(&args, Wanted::Resume),
        Command::Maintenance(args) => maintain(&args),
        Command::Worker(args) => serve_public(&args),
        Command::Preflight => preflight(),
        Command::SandboxTest(args) => test_sandbox(&args),
        Command::Manual(args) => manual::write(&args.directory).map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("baton: {error}");
            exit_status(&error)
        }
    }
}

fn exit_status(error: &anyhow::Error) -> ExitCode {
    let of_run = error.downcast_ref::<RunError>();
    match error.is::<Mistakes>() || matches!(of_run, Some(RunError::Config(_))) {
        true => ExitCode::from(INVALID_CONFIGURATION),
        false => ExitCode::FAILURE,
    }
}

fn demonstrate(args: &DemoArgs) -> anyhow::Result<()> {
    let all_good = demo::run(&demo::Options { stay: args.stay, seconds: args.seconds })?;
    if !all_good {
        bail!("the demo saw failures: see above");
    }
    Ok(())
}

fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let config = args.config.config.as_deref();
    match args.compose.is_empty() {
        true => print_check(config),
        false => check_compose(args, config),
    }
}

fn check_compose(args: &CheckArgs, config: Option<&Path>) -> anyhow::Result<()> {
    let report = compose::check(&args.compose, &config::load(config)?)?;
    match args.json {
        true => print_json(&report)?,
        false => print(&compose::tables(&report))?,
    }
    if !report.complete {
        bail!("not everything would be served as before (problems: {})", report.diagnoses.len());
    }
    Ok(())
}

fn print_check(config: Option<&Path>) -> anyhow::Result<()> {
    let remarks = check::check(config)?;
    print(&format!("configuration: valid\n{}\n", remarks.join("\n")))
}

/// Asks the controller that runs; JSON passes as it came, fields that we do not know included.
fn print_answer<T: DeserializeOwned>(
    args: &ShowArgs,
    path: &str,
    table: impl Fn(&T) -> String,
) -> anyhow::Result<()> {
    let socket = args.ask.socket.path()?;
    let look = || Ok(table(&client::parse(&client::ask(&socket, Method::GET, path)?)?));
    let terminal = Terminal::stdout();
    if args.watch {
        let look = || look().map_err(|error: AskError| error.to_string());
        return terminal.watch(look, print);
    }
    if args.ask.json {
        let answer = client::ask(&socket, Method::GET, path)?;
        return print(&String::from_utf8_lossy(&answer));
    }
    print(&terminal.dressed(&look()?))
}

fn why(args: &WhyArgs) -> anyhow::Result<()> {
    let socket = args.socket.path()?;
    let ask = |path| client::ask(&socket, Method::GET, path);
    let (routes, certificates, status) = (ask("/routes")?, ask("/certs")?, ask("/status")?);
    let addresses = (args.subject.as_str(), 443).to_socket_addrs();
    let known = Known {
        routes: &client::parse(&routes)?,
        certificates: &client::parse::<Vec<_>>(&certificates)?,
        status: &client::parse(&status)?,
        addresses: &addresses
            .map(|found| found.map(|address| address.ip()).collect())
            .map_err(|error| error.to_string()),
    };
    match story(&args.subject, &known) {
        Some(story) => print(&story),
        None => bail!(
            "{}: there is no such host and no such container: `baton routes` shows all that there are",
            args.subject
        ),
    }
}

fn logs(args: &LogsArgs) -> anyhow::Result<()> {
    let mut stdout = io::stdout();
    let followed = client::follow_log(&args.socket.path()?, &args.host, |lines| {
        stdout.write_all(&visible(lines))?;
        stdout.flush()
    });
    match followed {
        // Whoever read it has seen enough.
        Err(AskError::Told(e)) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// A worker is the public's neighbour: what it writes must not speak to a terminal.
fn visible(lines: &[u8]) -> Cow<'_, [u8]> {
    if !io::stdout().is_terminal() {
        return Cow::Borrowed(lines);
    }
    let shown = |byte: &u8| if matches!(byte, b'\n' | b' '..=b'~') { *byte } else { b'?' };
    lines.iter().map(shown).collect()
}

fn certificates(args: &CertsArgs) -> anyhow::Result<()> {
    if let Some(directory) = &args.import {
        return import_certificates(directory, &args.show.ask);
    }
    match args.order.asked() {
        Some((path, name)) => order_certificate(path, name, &args.show.ask),
        None => print_answer(&args.show, "/certs", |list: &Vec<_>| tables::certificates(list)),
    }
}

fn order_certificate(path: &str, name: &str, args: &AskArgs) -> anyhow::Result<()> {
    let order = CertificateOrder { name: name.to_owned() };
    let answer = client::order(&args.socket.path()?, path, &order)?;
    if args.json {
        return print(&String::from_utf8_lossy(&answer));
    }
    let outcome: CertificateOutcome = client::parse(&answer)?;
    print(&format!("{}\n", outcome.text))
}

/// Whether baton runs or not; one that runs reads them at once.
fn import_certificates(directory: &Path, args: &AskArgs) -> anyhow::Result<()> {
    let config = config::load(args.socket.config.as_deref())?;
    let imported = import::import(directory, &config.state_dir)?;
    imported.problems.iter().for_each(|problem| eprintln!("baton: {problem}"));
    if imported.certificates.is_empty() {
        bail!("nothing was imported");
    }
    for certificate in &imported.certificates {
        print(&format!("imported {certificate}\n"))?;
    }
    let socket = args.socket.socket.as_ref().unwrap_or(&config.control_socket);
    if socket.exists() {
        client::ask(socket, Method::POST, "/reload")?;
    }
    Ok(())
}

fn reload(args: &AskArgs) -> anyhow::Result<()> {
    let socket = args.socket.path()?;
    let answer = client::ask(&socket, Method::POST, "/reload")?;
    let mut reloaded: Reloaded = client::parse(&answer)?;
    if !args.json {
        print(&tables::reloaded(&reloaded))?;
    }
    if let Some(begun) = reloaded.handoff.take() {
        let handoff = client::watch(&socket, begun.id, |step| tell(args, step))?;
        reloaded.handoff = Some(handoff.clone());
        return finish(args, &handoff, &reloaded);
    }
    if args.json { print_json(&reloaded) } else { Ok(()) }
}

fn maintain(args: &MaintenanceArgs) -> anyhow::Result<()> {
    intervene(&args.host, args.wanted()?)
}

fn intervene(args: &HostArgs, wanted: Wanted) -> anyhow::Result<()> {
    // Names match without regard to case; regular expressions are as they are written.
    let host = match args.host.starts_with('~') {
        true => args.host.clone(),
        false => args.host.to_ascii_lowercase(),
    };
    let order = InterventionOrder { host, wanted };
    let answer = client::order(&args.ask.socket.path()?, "/intervene", &order)?;
    let intervened: Intervened = client::parse(&answer)?;
    if args.ask.json { print_json(&intervened) } else { print(&format!("{}\n", intervened.done)) }
}

fn upgrade(args: &UpgradeArgs) -> anyhow::Result<()> {
    follow(&args.ask, "/upgrade", &args.order()?)
}

fn follow(args: &AskArgs, path: &str, order: &UpgradeOrder) -> anyhow::Result<()> {
    let socket = args.socket.path()?;
    let handoff = client::follow(&socket, path, order, |step| tell(args, step))?;
    finish(args, &handoff, &handoff)
}

fn tell(args: &AskArgs, step: &Step) {
    if !args.json {
        // A step that nobody can read does not end the handoff.
        let _ = print(&format!("{:>6} ms  {}\n", step.ms, step.text));
    }
}

fn finish(args: &AskArgs, handoff: &Handoff, whole: &impl Serialize) -> anyhow::Result<()> {
    if args.json {
        return print_json(whole);
    }
    print(&format!("done: generation {} serves\n", handoff.to))
}

fn print_json(answer: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(answer)?))
}

fn preflight() -> anyhow::Result<()> {
    print(&format!("{}\n", upgrade::answer_preflight()?))
}

fn serve_public(args: &WorkerArgs) -> anyhow::Result<()> {
    let control = args.control();
    // Started through a descriptor, the process would be called by its number in ps and top.
    let _ = fs::write("/proc/self/comm", WORKER_NAME);
    Ok(worker::run(control, args.fault)?)
}

fn test_sandbox(args: &SandboxTestArgs) -> anyhow::Result<()> {
    let said =
        self_test::run(Sandbox::Strict, args.upstream, &args.socket_file, args.root.clone())?;
    print(&format!("{}\n", said.join("\n")))
}

/// Like `print!`, but a reader that has seen enough (`baton routes | head`) is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}
