//! Becoming another program: upgrade, rollback, and the way back when the new program's workers do
//! not come up.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::SystemTime;

use sd_notify::NotifyState;
use tokio::sync::mpsc;

use super::{Controller, Pending, notify};
use crate::config;
use crate::controller::admin::answers::{Begun, Refused, UpgradeOrder};
use crate::controller::admin::server::{BegunReply, Order};
use crate::controller::generations::Launch;
use crate::controller::journal::Entry;
use crate::controller::metrics::Totals;
use crate::controller::steering::SteeringState;
use crate::controller::upgrade;
use crate::controller::upgrade::state::{Executables, Next, State};
use crate::controller::worker_process::Executable;

/// Another program that this process shall be.
pub(super) struct Becoming {
    executables: Executables,
    program: Arc<Executable>,
    next: Next,
}

impl Controller<'_> {
    /// An upgrade to `binary`, or to what lies where the running program was started from.
    pub(super) fn upgrade(&mut self, order: UpgradeOrder) -> Result<Becoming, Refused> {
        self.refuse_when_stopping()?;
        let UpgradeOrder { binary, launch } = order;
        if launch.canary.is_some() {
            self.refuse_canary_without_selector()?;
        }
        let path = match binary {
            Some(path) => path,
            None => own_path().map_err(|error| Refused::because(error.to_string()))?,
        };
        let open = |error| Refused::because(format!("{}: {error}", path.display()));
        let program = Arc::new(Executable::open(&path).map_err(open)?);
        let entry = self.generations.announce("upgrade")?;
        entry.step(format!("trying {}", path.display()));
        Ok(self.becoming(program, &entry, launch))
    }

    fn refuse_canary_without_selector(&self) -> Result<(), Refused> {
        let steering = self.generations.steering();
        if steering.shares() {
            return Ok(());
        }
        Err(Refused::because(format!(
            "a canary needs handoff mode ebpf, and this is mode {} ({}): upgrade without --canary",
            steering.mode(),
            steering.why()
        )))
    }

    pub(super) fn rollback(&mut self) -> Result<Becoming, Refused> {
        self.refuse_when_stopping()?;
        let Some(program) = self.generations.programs().previous.clone() else {
            let error = "there is no program to return to: none was upgraded since the start";
            return Err(Refused::because(error.to_owned()));
        };
        let entry = self.generations.announce("rollback")?;
        entry.step("returning to the program before".to_owned());
        Ok(self.becoming(program, &entry, Launch::default()))
    }

    fn becoming(&self, program: Arc<Executable>, entry: &Entry, launch: Launch) -> Becoming {
        let programs = self.generations.programs();
        Becoming {
            executables: Executables {
                current: program.as_raw_fd(),
                previous: Some(programs.current.as_raw_fd()),
                before: programs.previous.as_ref().map(AsRawFd::as_raw_fd),
            },
            program,
            next: Next::HandOver { journal: entry.id(), begun: entry.begun(), launch },
        }
    }

    pub(super) fn come_back(&self, entry: Entry, error: String) -> Option<Becoming> {
        let programs = self.generations.programs();
        let Some(previous) = programs.previous.clone() else {
            entry.failed(&error);
            return None;
        };
        tracing::error!("the program before this one comes back");
        Some(Becoming {
            executables: Executables {
                current: previous.as_raw_fd(),
                previous: programs.before.as_ref().map(AsRawFd::as_raw_fd),
                before: None,
            },
            program: previous,
            next: Next::GoOn { journal: entry.id(), error },
        })
    }

    /// Becomes another program. Returns, with everything as it was, when that failed.
    pub(super) async fn become_program(mut self, becoming: Becoming) -> io::Result<Self> {
        let Becoming { executables, program, next } = becoming;
        // The loop stands still until the next program's begins.
        notify(&[NotifyState::Watchdog]);
        // What was asked of a CA is answered and on disk before this program ends: the next one goes
        // on with it.
        let closed = refusing(&mut self.orders, self.gate.close()).await;
        // What is told meanwhile might be more than the state holds.
        refusing(&mut self.orders, self.metrics.pause()).await;
        let mut state = self.state(executables, next);
        let Some(frozen) = self.generations.freeze().await else {
            return Err(io::Error::other("the active worker is gone"));
        };
        frozen.describe(&mut state);
        let understood = refusing(&mut self.orders, upgrade::ask(&program, &state)).await;
        let error = match understood {
            Err(error) => error,
            Ok(understood) => {
                let _paused = refusing(&mut self.orders, self.admin.pause()).await;
                understood.exec(self.config_path)
            }
        };
        drop(closed);
        self.metrics.go_on();
        self.generations = frozen.thaw();
        let (Next::HandOver { journal, .. } | Next::GoOn { journal, .. }) = state.next;
        let entry = self.generations.journal().resume(journal, SystemTime::now());
        entry.failed(&format!("{error}: nothing has changed"));
        Ok(self)
    }

    /// All but what generations have.
    fn state(&self, executables: Executables, next: Next) -> State {
        State {
            state_version: upgrade::state::VERSION,
            started: self.started,
            config_file: config::file(self.config_path).to_owned(),
            config_text: self.live.text.clone(),
            control_socket: self.control_socket,
            executables,
            steering: SteeringState::Inherit { why: String::new() },
            last_generation: 0,
            active: None,
            draining: Vec::new(),
            handoffs: Vec::new(),
            snapshot: self.publisher.snapshot(),
            containers: self.publisher.known_containers(),
            ticket_keys: self.publisher.ticket_keys().clone(),
            reachable: self.reachable.borrow().iter().cloned().collect(),
            totals: Totals::default(),
            metrics_socket: self.metrics.descriptor(),
            next,
        }
    }

    /// What this program was started for.
    pub(super) fn go_on(&mut self, next: Next) -> Option<Becoming> {
        match next {
            Next::HandOver { journal, begun, launch } => {
                let entry = self.generations.journal().resume(journal, begun);
                entry.step(format!("this is baton {} now", env!("CARGO_PKG_VERSION")));
                match self.generations.go_on(entry, &self.live.config, launch) {
                    Ok(()) => {
                        self.pending = Some(Pending::Upgrade);
                        None
                    }
                    Err((entry, error)) => self.come_back(entry, error),
                }
            }
            Next::GoOn { journal, error } => {
                let entry = self.generations.journal().resume(journal, SystemTime::now());
                entry.failed(&format!("{error}; the program before it is back"));
                None
            }
        }
    }
}

/// Waits, and refuses what is asked meanwhile.
async fn refusing<T>(orders: &mut mpsc::Receiver<Order>, waited_for: impl Future<Output = T>) -> T {
    let mut waited_for = pin!(waited_for);
    loop {
        tokio::select! {
            done = &mut waited_for => return done,
            Some(order) = orders.recv() => refuse(order),
        }
    }
}

/// Answers what is asked of a controller that is becoming another program.
fn refuse(order: Order) {
    let refused =
        || Refused::because("an upgrade is under way: try again when it is over".to_owned());
    // Whoever asked may have gone.
    match order {
        Order::Reload(reply) => drop(reply.send(Err(refused()))),
        Order::Intervene { reply, .. } => drop(reply.send(Err(refused()))),
        Order::Upgrade { reply, .. } | Order::Rollback { reply } => {
            drop(reply.send(Err(refused())));
        }
    }
}

/// Where the running program was started from, which may hold another one by now.
fn own_path() -> io::Result<PathBuf> {
    let path = fs::read_link("/proc/self/exe")?;
    // The kernel's words for a file that was replaced.
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(replaced) => Ok(PathBuf::from(replaced)),
        None => Ok(path),
    }
}

pub(super) fn tell(reply: BegunReply, begun: Result<Becoming, Refused>) -> Option<Becoming> {
    let answer = match &begun {
        Ok(Becoming { next: Next::HandOver { journal, .. }, .. }) => {
            Ok(Begun { handoff: *journal })
        }
        Ok(_) => Err(Refused::because("not an upgrade".to_owned())),
        Err(refused) => Err(refused.clone()),
    };
    // Whoever asked may have gone.
    let _ = reply.send(answer);
    begun.ok()
}
