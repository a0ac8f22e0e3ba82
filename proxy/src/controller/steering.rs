//! Which generation new connections go to: how listeners pass from one to the next.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use baton_layout::{Canary, Share, Slot, Target};
use serde::{Deserialize, Serialize};

use super::listeners::{self, BindError, Listeners};
use super::selector::{AddressNumber, Incompatible, Parts, Selector, SelectorError, Unavailable};
use super::supervisor::{After, Handle};
use crate::config::{HandoffWish, Listen};
use crate::sys;

/// How this host hands over.
#[derive(Debug)]
pub enum Steering {
    /// Each generation has sockets of its own, and the selector in the kernel sends each new
    /// connection to one of them: all addresses move at once, and what waits in the queues of an old
    /// generation migrates when it closes them.
    Ebpf(Box<Mutex<Steered>>),
    /// The next generation gets the very same sockets. Nothing is lost by it either, but both
    /// generations accept until the old one stops, so that no share of connections can be tried on
    /// the new one first, and a worker that hangs keeps what is in the queues.
    Inherit { why: String },
}

#[derive(Debug)]
pub struct Steered {
    selector: Selector,
    numbers: HashMap<SocketAddr, AddressNumber>,
    /// The workers that serve have the selector of a controller that died. It sends nobody to our
    /// sockets, and ours takes its place at the flip: see [`Steering::take_over`].
    foreign: bool,
    /// A socket of each address that our selector is not attached to yet.
    unattached: Vec<OwnedFd>,
}

/// How it crosses exec.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SteeringState {
    Ebpf(Parts<RawFd>),
    /// As after [`Steering::take_over`], before the first flip.
    TakingOver(Parts<RawFd>),
    Inherit {
        why: String,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    #[error("handoff = \"ebpf\": {0}; with \"auto\" baton goes without")]
    Wished(#[source] Unavailable),
    #[error("{0}")]
    Listeners(#[from] BindError),
    #[error("{0}")]
    Selector(#[from] SelectorError),
    #[error("more than {MAX} worker threads", MAX = baton_layout::MAX_THREADS)]
    Threads,
}

/// What the selector has counted of a generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    pub selected: u64,
    pub migrated: u64,
}

impl Steering {
    /// What is wished, or what this kernel and these privileges allow.
    ///
    /// # Errors
    /// When the selector is wished for and cannot be had.
    pub fn choose(wish: HandoffWish) -> Result<Self, SteeringError> {
        match (wish, Selector::load()) {
            (HandoffWish::Inherit, _) => {
                Ok(Steering::Inherit { why: "the configuration asks for it".to_owned() })
            }
            (_, Ok(selector)) => Ok(Steering::of(selector)),
            (HandoffWish::Auto, Err(error)) => Ok(Steering::Inherit { why: error.to_string() }),
            (HandoffWish::Ebpf, Err(error)) => Err(SteeringError::Wished(error)),
        }
    }

    fn of(selector: Selector) -> Self {
        Steering::Ebpf(Box::new(Mutex::new(Steered {
            selector,
            numbers: HashMap::new(),
            foreign: false,
            unattached: Vec::new(),
        })))
    }

    /// Where workers of a controller that died serve. Their sockets are in the maps of its selector,
    /// and a socket fits one map: so new generations get sockets in maps of ours, which the old
    /// selector does not know, and at the flip our selector is attached in its place, address by
    /// address. Once all sockets of the old generation are closed, nothing is left of it.
    #[must_use]
    pub fn take_over(mut self, steered: bool) -> Self {
        match &mut self {
            Steering::Ebpf(ours) if steered => {
                ours.get_mut().unwrap_or_else(PoisonError::into_inner).foreign = true;
                self
            }
            // A program attached now would find none of their sockets, until the flip.
            Steering::Ebpf(_) => Steering::Inherit {
                why: "the workers of the controller before, which died, have no selector"
                    .to_owned(),
            },
            // Whatever selects them, the next generation gets the very same sockets.
            Steering::Inherit { .. } => self,
        }
    }

    pub fn state(&self) -> SteeringState {
        match self {
            Steering::Ebpf(steered) => {
                let steered = lock(steered);
                let parts = steered.selector.parts().map(|part| part.as_raw_fd());
                match steered.foreign {
                    false => SteeringState::Ebpf(parts),
                    true => SteeringState::TakingOver(parts),
                }
            }
            Steering::Inherit { why } => SteeringState::Inherit { why: why.clone() },
        }
    }

    /// Takes over what crossed exec.
    ///
    /// # Errors
    /// When the selector is of another layout.
    pub fn resume(state: SteeringState) -> Result<Self, Incompatible> {
        match state {
            SteeringState::Ebpf(parts) => {
                Selector::from_parts(parts.map(sys::own_inherited)).map(Steering::of)
            }
            SteeringState::TakingOver(parts) => {
                let steering = Steering::resume(SteeringState::Ebpf(parts))?;
                Ok(steering.take_over(true))
            }
            SteeringState::Inherit { why } => Ok(Steering::Inherit { why }),
        }
    }

    pub fn mode(&self) -> &'static str {
        match self {
            Steering::Ebpf(_) => "ebpf",
            Steering::Inherit { .. } => "inherit",
        }
    }

    pub fn why(&self) -> &str {
        match self {
            Steering::Ebpf(_) => "the kernel has taken the selector",
            Steering::Inherit { why } => why,
        }
    }

    /// The sockets of generation `id` that comes after one with `ours`. Until [`Steering::flip`]
    /// nobody is sent to them where that can be helped.
    ///
    /// # Errors
    /// [`SteeringError`]; the sockets are closed again then.
    pub fn listeners(
        &self,
        id: u64,
        listen: &Listen,
        threads: usize,
        ours: &Listeners,
    ) -> Result<Listeners, SteeringError> {
        match self {
            Steering::Ebpf(steered) => {
                let listeners = listeners::bind_beside(listen, threads, ours)?;
                lock(steered).register(slot(id), threads, ours, &listeners)?;
                Ok(listeners)
            }
            Steering::Inherit { .. } => Ok(listeners::inherit(listen, threads, ours)?),
        }
    }

    /// From now on every new connection goes to this generation: in ebpf mode one 64-bit write for
    /// all addresses. In inherit mode it is the drain of the old one that makes it so.
    pub fn flip(&self, to: &Handle) {
        if let (Steering::Ebpf(steered), Some(target)) = (self, target(to)) {
            lock(steered).steer(baton_layout::Steering::all_to(target));
        }
    }

    /// From now on a share of new connections goes to a canary, as [`Steering::flip`] does with all
    /// of them; only where [`Steering::shares`].
    pub fn share(&self, active: &Handle, canary: &Handle, share: Share) {
        if let (Steering::Ebpf(steered), Some(active), Some(target)) =
            (self, target(active), target(canary))
        {
            let canary = Canary { target, share };
            lock(steered).steer(baton_layout::Steering::with_canary(active, canary));
        }
    }

    /// Whether a generation can get a share of new connections: same sockets cannot tell, and the
    /// selector of another controller does not know ours.
    pub fn shares(&self) -> bool {
        matches!(self, Steering::Ebpf(steered) if !lock(steered).foreign)
    }

    pub fn is_ebpf(&self) -> bool {
        matches!(self, Steering::Ebpf(_))
    }

    /// What a generation that is handed over has after it.
    pub fn after(&self) -> After {
        match self {
            Steering::Ebpf(_) => After::OtherSockets,
            Steering::Inherit { .. } => After::SameSockets,
        }
    }

    /// What the selector has counted; none without one.
    pub fn counted(&self, id: u64) -> Option<Counted> {
        match self {
            Steering::Ebpf(steered) => {
                let counters = lock(steered).selector.counters(slot(id)).ok()?;
                Some(Counted { selected: counters.selected, migrated: counters.migrated })
            }
            Steering::Inherit { .. } => None,
        }
    }
}

/// A panic while it was held would have been in a system call's wrapper: the maps are as good as
/// before.
fn lock(steered: &Mutex<Steered>) -> MutexGuard<'_, Steered> {
    steered.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Generations take the slots in turn. That a slot is free again by then is what the bound on
/// generations alive is for; one that is not is refused, and nothing is lost.
fn slot(id: u64) -> Slot {
    let number = u8::try_from(id % u64::from(baton_layout::MAX_SLOTS)).unwrap_or_default();
    Slot::new(number).expect("a remainder is smaller than the divisor")
}

fn target(worker: &Handle) -> Option<Target> {
    Target::new(slot(worker.generation()), u16::try_from(worker.threads()).ok()?)
}

impl Steered {
    fn register(
        &mut self,
        slot: Slot,
        threads: usize,
        ours: &Listeners,
        listeners: &Listeners,
    ) -> Result<(), SteeringError> {
        let first = ours.is_empty();
        let threads = u16::try_from(threads).map_err(|_| SteeringError::Threads)?;
        let target = Target::new(slot, threads).ok_or(SteeringError::Threads)?;
        self.forget_all_but(&[ours.addresses(), listeners.addresses()].concat());
        self.selector.reset_counters(slot)?;
        for (entry, socket) in listeners.slots() {
            let number = self.selector.number(socket)?;
            self.numbers.insert(entry.address, number);
            self.selector.register(slot, number, entry.thread, socket)?;
        }
        if first {
            self.selector.steer(baton_layout::Steering::all_to(target));
        }
        let known = ours.addresses();
        self.unattached.clear();
        for (entry, socket) in listeners.slots().filter(|(entry, _)| entry.thread == 0) {
            // Sockets that join a group get its program.
            if known.iter().all(|(address, _)| *address != entry.address) {
                self.selector.attach(socket)?;
            } else if self.foreign {
                let socket = socket.try_clone_to_owned();
                self.unattached.push(socket.map_err(SelectorError::descriptor)?);
            }
        }
        Ok(())
    }

    fn steer(&mut self, word: baton_layout::Steering) {
        self.selector.steer(word);
        for socket in self.unattached.drain(..) {
            // It listens and the program is loaded: there is nothing left for the kernel to refuse.
            if let Err(error) = self.selector.attach(socket.as_fd()) {
                tracing::error!("{error}");
            }
        }
        self.foreign = false;
    }

    /// Addresses of a generation that is long gone.
    fn forget_all_but(&mut self, kept: &[(SocketAddr, crate::protocol::settings::ListenerKind)]) {
        let selector = &mut self.selector;
        self.numbers.retain(|address, number| {
            let keep = kept.iter().any(|(other, _)| other == address);
            if !keep && let Err(error) = selector.forget(*number) {
                tracing::warn!("{error}");
            }
            keep
        });
    }
}
