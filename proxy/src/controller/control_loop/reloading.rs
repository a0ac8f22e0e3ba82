//! A reload: the configuration is read again, and goes live as a whole or not at all.

use super::{Controller, Live, Pending};
use crate::config;
use crate::controller::admin::answers::{Refused, Reloaded};
use crate::controller::admin::server::ReloadReply;
use crate::controller::reload;

/// How a configuration goes live.
enum Plan {
    InPlace(Box<Live>),
    Handoff(Box<Live>),
}

impl Controller<'_> {
    /// All or nothing: a configuration that cannot go live as a whole changes nothing.
    pub(super) async fn reload(&mut self, reply: Option<ReloadReply>) {
        match self.try_reload() {
            Ok(Plan::InPlace(live)) => {
                let reloaded = self.take(*live).await;
                answer(reply, Ok(reloaded));
            }
            Ok(Plan::Handoff(live)) => self.pending = Some(Pending::Reload { live, reply }),
            Err(refused) => answer(reply, Err(refused)),
        }
    }

    fn try_reload(&mut self) -> Result<Plan, Refused> {
        self.refuse_when_stopping()?;
        let read = config::read(self.config_path).and_then(|text| {
            let mut config = config::parse(&text, config::file(self.config_path))?;
            self.publisher.environment().complete(&mut config);
            Ok(Live { config, text, metrics: None })
        });
        let mut live = read.map_err(|mistakes| Refused {
            error: "configuration is invalid: nothing changed".to_owned(),
            reasons: mistakes.iter().map(ToString::to_string).collect(),
        })?;
        let old = &self.live.config;
        let new = &live.config;
        let keys = reload::needs_restart(old, new);
        if !keys.is_empty() {
            return Err(Refused::because(reload::refusal(&keys)));
        }
        let bound = self.metrics.prepare(&new.metrics).map_err(Refused::because)?;
        let keys = reload::needs_generation(old, new);
        live.metrics = bound;
        if keys.is_empty() {
            return Ok(Plan::InPlace(Box::new(live)));
        }
        tracing::info!("{} changed: a new generation of workers takes over", keys.join(", "));
        self.generations.begin("reload", &reload::bridging(old, &live.config))?;
        Ok(Plan::Handoff(Box::new(live)))
    }

    /// Makes a configuration the one that holds: what goes live in place does so now.
    pub(super) async fn take(&mut self, mut live: Live) -> Reloaded {
        let problems = self.publisher.configure(&live.config);
        self.metrics.configure(&live.config.metrics, live.metrics.take()).await;
        self.live = live;
        let changes = self.publish();
        let mut warnings: Vec<_> = problems.iter().map(ToString::to_string).collect();
        if self.holding {
            warnings.push("changes of routes wait until Docker answers".to_owned());
        }
        Reloaded { changes, warnings, snapshot: self.publisher.version(), handoff: None }
    }
}

/// Tells whoever asked, or the log where a signal did.
pub(super) fn answer(reply: Option<ReloadReply>, result: Result<Reloaded, Refused>) {
    if let Some(reply) = reply {
        // Whoever asked may have gone.
        let _ = reply.send(result);
        return;
    }
    match result {
        Ok(reloaded) => tracing::info!("reloaded: {} changes", reloaded.changes.len()),
        Err(Refused { error, reasons }) => {
            tracing::error!("reload refused: {error}");
            reasons.iter().for_each(|reason| tracing::error!("{reason}"));
        }
    }
}
