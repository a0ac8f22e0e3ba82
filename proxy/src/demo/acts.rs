//! What the demo does to a controller under load, one act after the other, and what each one cost.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use baton_load::{Kind, Load, Report, Running, Target};
use rustls::RootCertStore;
use tokio::time::{Instant, sleep, sleep_until};

use super::configuration::{Demo, Variant};
use super::controller::Controller;
use super::{Bar, EXTRA_HOST};
use crate::controller::canary::Plan;
use crate::controller::generations::Launch;
use crate::protocol::fault::Fault;

/// For a route that was added to answer, and for one that was removed to stop answering.
const CHANGE_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// The share that a canary gets here, and for how long.
const CANARY_SHARE: &str = "20%";
const CANARY_SECONDS: u64 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    AddRoute,
    RemoveRoute,
    Reload,
    Upgrade,
    GoodCanary,
    BadCanary,
    Kill,
    Rollback,
}

const ACTS: [Act; 8] = [
    Act::AddRoute,
    Act::RemoveRoute,
    Act::Reload,
    Act::Upgrade,
    Act::GoodCanary,
    Act::BadCanary,
    Act::Kill,
    Act::Rollback,
];

impl Act {
    fn name(self) -> &'static str {
        match self {
            Act::AddRoute => "route added",
            Act::RemoveRoute => "route removed",
            Act::Reload => "reload of limits",
            Act::Upgrade => "upgrade to itself",
            Act::GoodCanary => "upgrade with a canary",
            Act::BadCanary => "bad canary, taken back",
            Act::Kill => "worker killed with -9",
            Act::Rollback => "rollback",
        }
    }

    /// What happened when it is over, for the line that tells of it.
    fn outcome(self) -> &'static str {
        match self {
            Act::BadCanary => "taken back",
            Act::Kill => "another one serves",
            _ => "live",
        }
    }

    /// Whose failures no front door can prevent, in this act.
    fn excuse(self) -> Option<&'static str> {
        match self {
            Act::BadCanary => Some("the bad canary's own answers, until it was taken back"),
            Act::Kill => Some("in flight in the process that was killed"),
            _ => None,
        }
    }

    fn needs_selector(self) -> bool {
        matches!(self, Act::GoodCanary | Act::BadCanary)
    }
}

/// An act that was done.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) name: &'static str,
    /// From the command until a client sees the route change, until new connections go to the new
    /// generation, or until what was bad is gone.
    pub(super) took: Duration,
    /// Why failures in this act are not held against it.
    pub(super) excuse: Option<&'static str>,
    /// What clients had felt when it began: what came later, until the next act, is its own.
    failed_before: u64,
}

/// Each act's own failures: a drain that goes wrong shows later than the flip that began it.
pub(super) fn failures(acts: &[Done], report: &Report) -> Vec<u64> {
    let ends = acts.iter().skip(1).map(|next| next.failed_before).chain([report.failed()]);
    acts.iter().zip(ends).map(|(act, end)| end - act.failed_before).collect()
}

pub(super) struct Director<'a> {
    pub(super) demo: &'a Demo,
    pub(super) controller: &'a Controller,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) load: &'a Running,
    pub(super) bar: &'a Bar,
}

impl Director<'_> {
    /// The acts, spread evenly over the time.
    pub(super) async fn play(&self, time: Duration) -> anyhow::Result<Vec<Done>> {
        let began = Instant::now();
        let can_share = self.controller.handoff_mode().await?.mode == "ebpf";
        let acts: Vec<Act> =
            ACTS.into_iter().filter(|act| can_share || !act.needs_selector()).collect();
        if !can_share {
            self.bar.say("no canary: it needs handoff mode ebpf (run the demo as root)");
        }
        let pause = time / (acts.len() as u32 + 1);
        let mut due = began;
        let mut done = Vec::new();
        for act in acts {
            due += pause;
            sleep_until(due).await;
            let failed_before = self.load.snapshot().failed();
            let took = self.perform(act).await?;
            let (name, outcome) = (act.name(), act.outcome());
            self.bar.say(&format!("{name} under load, {outcome} after {} ms", took.as_millis()));
            done.push(Done { name, took, excuse: act.excuse(), failed_before });
        }
        sleep_until(began + time).await;
        Ok(done)
    }

    async fn perform(&self, act: Act) -> anyhow::Result<Duration> {
        match act {
            Act::AddRoute => self.change_route(true).await,
            Act::RemoveRoute => self.change_route(false).await,
            Act::Reload => {
                self.demo.write(Variant { extra_route: false, more_streams: true })?;
                self.controller.reload_workers().await
            }
            Act::Upgrade => self.controller.upgrade(Launch::default()).await,
            Act::GoodCanary => self.controller.upgrade(canary(None)).await,
            Act::BadCanary => self.controller.failed_upgrade(canary(Some(Fault::Errors))).await,
            Act::Kill => self.controller.kill_worker().await,
            Act::Rollback => self.controller.rollback().await,
        }
    }

    /// Writes the configuration, reloads, and waits until a client sees the difference.
    async fn change_route(&self, there: bool) -> anyhow::Result<Duration> {
        let extra = Target::tls(self.controller.https, EXTRA_HOST, self.roots.clone());
        let began = Instant::now();
        self.demo.write(Variant { extra_route: there, more_streams: false })?;
        self.controller.reload().await?;
        while answers(&extra).await != there {
            if began.elapsed() > CHANGE_LIMIT {
                let verb = if there { "does not answer" } else { "still answers" };
                bail!("{EXTRA_HOST} {verb} {} s after the reload", CHANGE_LIMIT.as_secs());
            }
            sleep(POLL).await;
        }
        Ok(began.elapsed())
    }
}

fn canary(fault: Option<Fault>) -> Launch {
    let share = CANARY_SHARE.parse().expect("a share");
    Launch { canary: Some(Plan { share, seconds: CANARY_SECONDS }), fault }
}

/// Failures that nothing excuses.
pub(super) fn unexcused(acts: &[Done], report: &Report) -> u64 {
    let felt = failures(acts, report);
    let before = acts.first().map_or(report.failed(), |first| first.failed_before);
    let unexcused = acts.iter().zip(felt).filter(|(act, _)| act.excuse.is_none());
    before + unexcused.map(|(_, failures)| failures).sum::<u64>()
}

async fn answers(target: &Target) -> bool {
    let report =
        Load::new(target.clone()).clients(Kind::Http1Fresh, 1).requests(1).start().finish().await;
    report.failed() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_belongs_to_the_act_before_it() {
        let done = |failed_before| Done {
            name: "act",
            took: Duration::ZERO,
            excuse: (failed_before == 0).then_some("because"),
            failed_before,
        };
        let mut report = Report::default();
        assert_eq!(failures(&[done(0), done(0)], &report), [0, 0]);
        let felt = report.kinds.entry(Kind::WebSocket).or_default();
        felt.failures.insert(baton_load::Cause::Reset, 5);
        assert_eq!(failures(&[done(0), done(3), done(3)], &report), [3, 0, 2]);
        assert_eq!(unexcused(&[done(0), done(3), done(3)], &report), 2);
        assert_eq!(unexcused(&[done(1)], &report), 5);
        assert_eq!(unexcused(&[], &report), 5);
    }
}
