//! The drain: how the connections of one thread learn that they shall end, and how soon.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How far a drain has come. Each phase includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not draining.
    Serve,
    /// No new connections; each answer is the last one of its connection. An idle HTTP/1.1
    /// connection stays: a request may be on the wire.
    Drain,
    /// Idle connections close.
    CloseIdle,
    /// The drain limit: requests in progress are cut.
    CloseRequests,
    /// The tunnel limit: those that can say goodbye do, the others are cut.
    CloseTunnels,
    /// Nothing is left.
    CloseAll,
}

/// The phase of one worker thread, and the tasks that wait for it to change.
#[derive(Debug)]
pub struct Drain {
    phase: Cell<Phase>,
    quiet: Cell<Duration>,
    waiting: RefCell<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Drain {
    pub fn new() -> Rc<Self> {
        Rc::new(Drain {
            phase: Cell::new(Phase::Serve),
            quiet: Cell::new(Duration::ZERO),
            waiting: RefCell::default(),
        })
    }

    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub fn is_draining(&self) -> bool {
        self.phase.get() >= Phase::Drain
    }

    /// How long nobody must have connected before a listener closes.
    pub fn quiet(&self) -> Duration {
        self.quiet.get()
    }

    /// Set before the drain begins.
    pub fn set_quiet(&self, quiet: Duration) {
        self.quiet.set(quiet);
    }

    /// Moves on; a drain never goes back.
    pub fn advance(&self, phase: Phase) {
        if phase > self.phase.get() {
            self.phase.set(phase);
            let wakers: Vec<Waker> =
                self.waiting.borrow_mut().wakers.iter_mut().filter_map(Option::take).collect();
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    pub fn watch(self: &Rc<Self>) -> DrainWatch {
        let mut waiting = self.waiting.borrow_mut();
        let slot = waiting.free.pop().unwrap_or_else(|| {
            waiting.wakers.push(None);
            waiting.wakers.len() - 1
        });
        drop(waiting);
        DrainWatch { drain: self.clone(), slot }
    }
}

/// One task's view of the drain.
#[derive(Debug)]
pub struct DrainWatch {
    drain: Rc<Drain>,
    slot: usize,
}

impl DrainWatch {
    /// Ready once the drain has come to `phase`.
    pub fn poll(&self, cx: &mut Context<'_>, phase: Phase) -> Poll<()> {
        if self.drain.phase() >= phase {
            return Poll::Ready(());
        }
        let slot = &mut self.drain.waiting.borrow_mut().wakers[self.slot];
        match slot {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *slot = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    pub fn is_at(&self, phase: Phase) -> bool {
        self.drain.phase() >= phase
    }

    pub async fn reached(&self, phase: Phase) {
        poll_fn(|cx| self.poll(cx, phase)).await;
    }
}

impl Drop for DrainWatch {
    fn drop(&mut self) {
        let mut waiting = self.drain.waiting.borrow_mut();
        waiting.wakers[self.slot] = None;
        waiting.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn watchers_wake_at_their_phase() {
        let drain = Drain::new();
        let (early, late) = (drain.watch(), drain.watch());
        drain.advance(Phase::Drain);
        early.reached(Phase::Drain).await;
        let waiting = async {
            late.reached(Phase::CloseAll).await;
            drain.phase()
        };
        let moving = async { drain.advance(Phase::CloseAll) };
        assert_eq!(tokio::join!(waiting, moving).0, Phase::CloseAll);
    }

    #[test]
    fn a_drain_never_goes_back_and_slots_are_used_again() {
        let drain = Drain::new();
        drain.advance(Phase::CloseIdle);
        drain.advance(Phase::Drain);
        assert_eq!(drain.phase(), Phase::CloseIdle);
        drop(drain.watch());
        assert_eq!(drain.watch().slot, 0);
    }
}
