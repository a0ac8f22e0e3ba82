//! `baton demo`: the tour; needs nothing installed and no root.
//!
//! A real controller and worker on free ports of 127.0.0.1, three upstreams inside this process, and
//! a load on them that counts what a client feels while routes change, workers hand over to others
//! or are killed, and the program becomes itself again, on a share of connections first, and goes
//! back.

mod acts;
mod configuration;
mod controller;
mod table;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use baton_load::{Kind, Load, Report, Running, Target, Upstream, roots_from_pem};
use indicatif::{ProgressBar, ProgressStyle};
use rustls::RootCertStore;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

use acts::Director;
use configuration::{Demo, Variant};
use controller::Controller;

/// Where the load goes.
const HOST: &str = "app.localhost";
/// The route that comes and goes under it.
const EXTRA_HOST: &str = "extra.localhost";
const UPSTREAMS: [&str; 3] = ["one", "two", "three"];
/// Shorter than this, nothing is shown.
const MIN_SECONDS: u64 = 2;

#[derive(Debug, Clone)]
pub struct Options {
    /// Keep running after the tour, until Ctrl-C.
    pub stay: bool,
    /// How long the load lasts.
    pub seconds: u64,
}

/// Runs the tour; true when nothing failed.
///
/// # Errors
/// When it cannot be set up, or the controller does not do what it is told, or at Ctrl-C before the
/// end.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut end = End::new()?;
        let stage = tokio::select! {
            stage = Stage::set_up() => stage?,
            () = end.asked() => bail!("interrupted"),
        };
        let clean = tokio::select! {
            clean = under_load(&stage, options) => clean,
            () = end.asked() => bail!("interrupted"),
        };
        let clean = clean.map_err(|error| error.context(stage.controller.last_words()))?;
        if options.stay {
            print_what_to_try(&stage);
            end.asked().await;
        }
        stage.controller.stop().await?;
        Ok(clean)
    })
}

/// Somebody wants it to end: Ctrl-C, or SIGTERM.
struct End {
    interrupt: Signal,
    terminate: Signal,
}

impl End {
    fn new() -> std::io::Result<Self> {
        Ok(End {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Everything that runs. The controller first, so that it ends before what it stands in front of.
struct Stage {
    controller: Controller,
    demo: Demo,
    _upstreams: Vec<Upstream>,
}

impl Stage {
    async fn set_up() -> anyhow::Result<Self> {
        let mut upstreams = Vec::new();
        for name in UPSTREAMS {
            upstreams.push(Upstream::start(name).await.context("upstream")?);
        }
        let demo = Demo::new(upstreams.iter().map(Upstream::address).collect())?;
        demo.write(Variant::default())?;
        let controller = Controller::start(&demo).await?;
        println!("controller and worker are up: {}, {}", controller.http, controller.https);
        let mode = controller.handoff_mode().await?;
        println!("handoff mode {}: {}", mode.mode, mode.why);
        Ok(Stage { controller, demo, _upstreams: upstreams })
    }
}

async fn under_load(stage: &Stage, options: &Options) -> anyhow::Result<bool> {
    let Stage { controller, demo, .. } = stage;
    let roots = roots_from_pem(&std::fs::read(demo.ca_file()).context("the local CA's file")?)?;
    let load = load(controller, roots.clone());
    let time = Duration::from_secs(options.seconds.max(MIN_SECONDS));
    let outcome = {
        let bar = Bar::new(time);
        let director = Director { demo, controller, roots, load: &load, bar: &bar };
        tokio::select! {
            played = director.play(time) => played,
            never = bar.follow(&load) => match never {},
        }
    };
    let report = load.stop().await;
    print!("{}", table::draw(&report));
    print_first_failures(&report);
    let acts = outcome?;
    print!("{}", table::draw_acts(&acts, &report));
    Ok(acts::unexcused(&acts, &report) == 0)
}

/// Small enough for a laptop: the tour shows that nothing is lost, not how fast it is.
fn load(controller: &Controller, roots: Arc<RootCertStore>) -> Running {
    Load::new(Target::tls(controller.https, HOST, roots))
        .clients(Kind::Http1KeepAlive, 8)
        .clients(Kind::Http1Fresh, 4)
        .clients(Kind::Http2 { streams: 8 }, 2)
        .clients(Kind::WebSocket, 4)
        .start()
}

fn print_first_failures(report: &Report) {
    for (kind, felt) in &report.kinds {
        for first in &felt.first_failures {
            println!("{kind}, after {:.3} s: {}", first.at.as_secs_f64(), first.failure);
        }
    }
}

/// A progress bar that moves with the clock and says what the load felt so far.
struct Bar {
    bar: ProgressBar,
    began: Instant,
}

impl Bar {
    fn new(time: Duration) -> Self {
        let bar = ProgressBar::new(time.as_millis() as u64);
        let style = ProgressStyle::with_template("{bar:40} {msg}").expect("a fixed template");
        bar.set_style(style);
        Bar { bar, began: Instant::now() }
    }

    /// Above the bar on a terminal, and a line of its own where there is none.
    fn say(&self, text: &str) {
        self.bar.suspend(|| println!("{text}"));
    }

    async fn follow(&self, load: &Running) -> std::convert::Infallible {
        loop {
            let report = load.snapshot();
            self.bar.set_position(self.began.elapsed().as_millis() as u64);
            let (requests, failed) = (report.requests(), report.failed());
            self.bar.set_message(format!("{requests} requests, {failed} failed"));
            sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn print_what_to_try(stage: &Stage) {
    let Stage { controller, demo, .. } = stage;
    let (port, ca) = (controller.https.port(), demo.ca_file().display().to_string());
    println!("\nThe local CA is {ca}. Try:\n");
    for (options, path) in
        [("", "/"), ("", "/headers"), ("-N ", "/sse?n=5&ms=500"), ("-d hello ", "/echo")]
    {
        println!(
            "  curl {options}--cacert {ca} --resolve {HOST}:{port}:127.0.0.1 \
             'https://{HOST}:{port}{path}'"
        );
    }
    let socket = demo.control_socket().display().to_string();
    for path in ["status", "routes"] {
        println!("  curl --unix-socket {socket} http://baton/{path}");
    }
    println!("\nThe routes are in {}: change them, then\n", demo.config_file().display());
    println!("  curl --unix-socket {socket} -X POST http://baton/reload\n\nCtrl-C ends it.");
}
