//! The controller's loop: what happens to whom, one thing after the other. Each event is followed to
//! its end before the next one is looked at.

mod becoming;
mod intervening;
mod reloading;
mod takeover;

use std::collections::HashSet;
use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::admin::answers::{Refused, Reloaded, UpgradeOrder};
use super::admin::server::{Order, Pauses, ReloadReply};
use super::certificates::acme::{Gate, Stock};
use super::docker::Containers;
use super::generations::{Event, Generations};
use super::journal::Entry;
use super::metrics::{Bound, Metrics};
use super::probe::{Prober, Target};
use super::publisher::Publisher;
use super::signals::{Signal, Signals};
use super::upgrade::state::Next;
use super::watchdog::Watchdog;
use crate::config::Config;
use becoming::{Becoming, tell};
use reloading::answer;

/// How long systemd waits for Docker's first list before it is told that we serve.
const FIRST_LIST_LIMIT: Duration = Duration::from_secs(2);
/// Until the next look at what was due already (certificates, ticket keys): a renewal that failed is
/// tried again then.
const DUE_PAUSE: Duration = Duration::from_secs(60);

/// Between two publishes, at most.
const LONGEST_REST: Duration = Duration::from_millis(500);

/// The configuration in force, and its text, which crosses an upgrade.
pub struct Live {
    pub config: Config,
    pub text: String,
    /// What the listener of its metrics needs, and is not there.
    pub metrics: Option<Bound>,
}

/// What the loop owns.
pub struct Controller<'a> {
    pub config_path: Option<&'a Path>,
    pub live: Live,
    pub started: SystemTime,
    pub control_socket: RawFd,
    pub publisher: Publisher,
    pub prober: Prober,
    pub containers: watch::Receiver<Arc<Containers>>,
    pub reachable: watch::Receiver<Arc<HashSet<Target>>>,
    pub asked: watch::Receiver<HashSet<Target>>,
    /// What CAs have issued, and what they are to be answered.
    pub stock: watch::Receiver<Arc<Stock>>,
    /// What CAs are asked for passes here.
    pub gate: Gate,
    pub admin: Pauses,
    /// Until Docker has answered this program, workers route by what the one before it published.
    pub holding: bool,
    pub orders: mpsc::Receiver<Order>,
    /// Changes that come until then are published together: of thousands of routes, a publish takes a
    /// while, and between two of them there is as much time for all else.
    pub rests_until: Instant,
    pub generations: Generations,
    pub metrics: Metrics,
    pub pending: Option<Pending>,
    pub retry: Option<Retry>,
    pub stop: Stop,
}

/// What a handoff that is under way leads to.
pub enum Pending {
    /// A configuration that it makes live, and who waits for it.
    Reload { live: Box<Live>, reply: Option<ReloadReply> },
    /// Workers of this program in place of those of the one before it.
    Upgrade,
    /// Workers of this program in place of those of a controller that died: they serve on until we
    /// know the routes as well as they do.
    TakeOver { entry: Entry },
    /// They start.
    TakingOver,
}

/// A takeover that failed, and is tried again unless another handoff has replaced the worker.
#[derive(Debug)]
pub struct Retry {
    at: Instant,
    generation: u64,
}

/// Why the loop ends.
enum Leave {
    Stopped,
    Become(Becoming),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    NotAsked,
    Draining,
    AtOnce,
    /// Without the workers, which serve on: the next controller is about to start.
    Leaving,
}

impl Controller<'_> {
    /// Runs until every worker is gone, or shall be left, and returns what is left to be ended. `next` is what the
    /// program before this one has left to do.
    ///
    /// # Errors
    /// When the active worker was lost on the way to another program.
    pub async fn run(mut self, signals: &mut Signals, next: Option<Next>) -> io::Result<Self> {
        if self.publisher.is_held() {
            self.announce_takeover();
        }
        if next.is_some() {
            // The program before has told this one what workers route by, not what that was made of; and
            // without Docker nobody else calls for it soon.
            self.publish();
        }
        let mut becoming = next.and_then(|next| self.go_on(next));
        loop {
            if let Some(becoming) = becoming {
                // Returns when this process stays what it is.
                self = self.become_program(becoming).await?;
            }
            match self.serve(signals).await {
                Leave::Become(other) => becoming = Some(other),
                Leave::Stopped => return Ok(self),
            }
        }
    }

    /// Follows containers, probes, orders and signals until every worker is gone, or this process is
    /// to become another program. A draining worker is kept up to date too: what it still serves may
    /// last.
    async fn serve(&mut self, signals: &mut Signals) -> Leave {
        let first_list_limit = Instant::now() + FIRST_LIST_LIMIT;
        let mut ready = false;
        let mut watchdog = Watchdog::of_environment();
        loop {
            let rested = Instant::now() >= self.rests_until;
            let becoming = tokio::select! {
                step = self.generations.next() => match self.generations.follow(step).await {
                    Some(Event::HandedOver) => { self.handed_over().await; None }
                    Some(Event::Failed { entry, error }) => self.handoff_failed(entry, error),
                    Some(Event::AllGone) => return Leave::Stopped,
                    None => None,
                },
                signal = signals.next() => self.obey(signal).await,
                Some(order) = self.orders.recv() => self.follow(order).await,
                Ok(()) = self.containers.changed(), if rested => { self.publish(); None }
                Ok(()) = self.reachable.changed(), if rested => { self.publish(); None }
                Ok(()) = self.asked.changed() => None,
                Ok(()) = self.stock.changed(), if rested => { self.publish(); None }
                () = sleep(until_due(self.publisher.due())), if rested => { self.publish(); None }
                () = sleep_until(self.rests_until), if !rested => None,
                () = sleep_until(first_list_limit), if !ready => None,
                () = retry_due(self.retry.as_ref()) => { self.take_over_again(); None }
                () = watchdog.due() => { notify(&[NotifyState::Watchdog]); None }
            };
            if let Some(becoming) = becoming {
                return Leave::Become(becoming);
            }
            if self.stop == Stop::Leaving {
                return Leave::Stopped;
            }
            self.take_over_when_ready();
            let heard_of_docker = self.docker_has_spoken();
            if !ready && (heard_of_docker || Instant::now() >= first_list_limit) {
                ready = true;
                notify(&[NotifyState::Ready]);
            }
        }
    }

    /// And what it said is published.
    fn docker_has_spoken(&self) -> bool {
        let views = self.publisher.views();
        let docker = &views.borrow().docker;
        !self.live.config.docker.enabled || docker.connected || docker.error.is_some()
    }

    async fn obey(&mut self, signal: Signal) -> Option<Becoming> {
        match (signal, self.stop) {
            (Signal::Reload, _) => self.reload(None).await,
            (Signal::Stop, Stop::NotAsked) => {
                tracing::info!("draining; a second signal stops at once");
                self.stop = Stop::Draining;
                notify(&[NotifyState::Stopping]);
                self.generations.drain_all(&self.live.config.drain).await;
            }
            (Signal::Stop, Stop::Draining) => {
                self.stop = Stop::AtOnce;
                self.generations.kill_all().await;
            }
            (Signal::Leave, Stop::NotAsked) => {
                tracing::info!(
                    "leaving: workers serve on, and the next controller takes them over"
                );
                self.stop = Stop::Leaving;
                notify(&[NotifyState::Stopping]);
            }
            // It drains already, or has left.
            (Signal::Stop, Stop::AtOnce | Stop::Leaving) | (Signal::Leave, _) => {}
            (Signal::Upgrade, _) => match self.upgrade(UpgradeOrder::default()) {
                Ok(becoming) => return Some(becoming),
                Err(Refused { error, .. }) => tracing::error!("upgrade refused: {error}"),
            },
        }
        None
    }

    async fn follow(&mut self, order: Order) -> Option<Becoming> {
        match order {
            Order::Reload(reply) => {
                self.reload(Some(reply)).await;
                None
            }
            Order::Upgrade { order, reply } => tell(reply, self.upgrade(order)),
            Order::Rollback { reply } => tell(reply, self.rollback()),
            Order::Intervene { order, reply } => {
                // Whoever asked may have gone.
                drop(reply.send(self.intervene(&order)));
                None
            }
        }
    }

    /// Rebuilds from what Docker and the prober say now.
    fn publish(&mut self) -> Vec<String> {
        let containers = self.containers.borrow_and_update().clone();
        let reachable = self.reachable.borrow_and_update().clone();
        if self.holding && !containers.status.connected {
            return Vec::new();
        }
        self.holding = false;
        let begun = Instant::now();
        let changes = self.publisher.publish(&containers, &reachable);
        let now = Instant::now();
        self.rests_until = now + now.duration_since(begun).min(LONGEST_REST);
        let table = self.publisher.table();
        self.prober.want(table.probes.clone());
        let routed: HashSet<_> = table.hosts.iter().map(|host| host.pattern.to_string()).collect();
        self.generations.tally().forget_hosts(|host| routed.contains(host));
        if !changes.is_empty() && self.stop == Stop::NotAsked {
            let hosts = table.hosts.len();
            notify(&[NotifyState::Status(&format!("serving {hosts} hosts"))]);
        }
        changes
    }

    fn refuse_when_stopping(&self) -> Result<(), Refused> {
        if self.stop == Stop::NotAsked {
            return Ok(());
        }
        Err(Refused::because("baton is stopping".to_owned()))
    }

    async fn handed_over(&mut self) {
        announce(&self.generations);
        if let Some(Pending::Reload { live, reply }) = self.pending.take() {
            let handoff = self.generations.journal().last();
            let reloaded = Reloaded { handoff, ..self.take(*live).await };
            answer(reply, Ok(reloaded));
        }
    }

    /// Workers of a new program that do not come up: the program before it comes back.
    fn handoff_failed(&mut self, entry: Entry, error: String) -> Option<Becoming> {
        let pending = self.pending.take();
        match pending {
            Some(Pending::Upgrade) => return self.come_back(entry, error),
            Some(Pending::TakingOver) => self.take_over_failed(entry, &error),
            Some(Pending::Reload { reply, .. }) => {
                entry.failed(&error);
                answer(reply, Err(Refused::because(error)));
            }
            Some(Pending::TakeOver { .. }) | None => entry.failed(&error),
        }
        None
    }
}

async fn retry_due(retry: Option<&Retry>) {
    match retry {
        Some(retry) => sleep_until(retry.at).await,
        None => std::future::pending().await,
    }
}

fn until_due(due: SystemTime) -> Duration {
    // An error means that it is past.
    due.duration_since(SystemTime::now()).unwrap_or(DUE_PAUSE)
}

/// Tells systemd; does nothing under anything else.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::warn!("systemd: {e}");
    }
}

/// Says where it listens.
pub fn announce(generations: &Generations) {
    for (address, kind) in generations.fleet().borrow().listeners.addresses() {
        tracing::info!("listening on {address} ({})", kind.as_str());
    }
}
