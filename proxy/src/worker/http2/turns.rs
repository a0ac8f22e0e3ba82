//! Which stream of a connection gives its data to h2 next: the more urgent first, as long as the
//! client takes less than there is.
//!
//! h2 sends what it has in turn. So little is given to it at once: a round, and the next one when
//! the last has left this process. Within a round whoever comes is served; those that find it used
//! up wait, and the next round begins with the best of them. A stream that its own window holds up
//! waits for h2 and not here: it holds up nobody.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::options::priority::Priority;

/// Bytes of a round; the last part of it may be more.
const ROUND: usize = 64 * 1024;
/// Who waited for so long goes before others, in one round of [`FAIR`]: the less urgent is slow, and
/// not cut off for taking nothing.
const PATIENCE: Duration = Duration::from_secs(5);
const FAIR: u32 = 4;
/// Less urgent than anything.
const NOBODY: u8 = 8;

/// The turns of a connection's streams.
#[derive(Debug, Clone)]
pub struct Turns(Rc<State>);

#[derive(Debug)]
struct State {
    /// Bytes that may be given in this round.
    left: Cell<usize>,
    /// The most urgent that was served in it.
    served: Cell<u8>,
    round: Cell<u32>,
    choice: Cell<Choice>,
    /// Whose turn it is, whoever else waits.
    granted: Cell<u32>,
    arrivals: Cell<u64>,
    /// When the last round began for which somebody waited.
    moved: Cell<Option<Instant>>,
    waiting: RefCell<Vec<Waiting>>,
}

/// Whether streams may differ in their urgency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    None,
    New,
    Known,
}

#[derive(Debug)]
struct Waiting {
    stream: u32,
    rank: Rank,
    since: Instant,
    waker: Waker,
}

/// The smallest is next: by urgency; then those that are of use only as a whole, one by one; then
/// those that share, in the order in which they came to wait.
type Rank = (u8, bool, u64);

/// A stream's part in it.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    stream: u32,
    priority: Priority,
}

impl Turns {
    pub(super) fn new() -> Self {
        Turns(Rc::new(State {
            left: Cell::new(ROUND),
            served: Cell::new(NOBODY),
            round: Cell::new(0),
            choice: Cell::new(Choice::None),
            granted: Cell::new(0),
            arrivals: Cell::new(0),
            moved: Cell::new(None),
            waiting: RefCell::default(),
        }))
    }

    pub fn of(&self, stream: u32, priority: Priority) -> Turn {
        if priority.urgency != Priority::EQUAL.urgency && self.0.choice.get() == Choice::None {
            self.0.choice.set(Choice::New);
        }
        Turn { turns: self.clone(), stream, priority }
    }

    /// Once: the first stream has come that is not as urgent as most are.
    pub fn begins_to_choose(&self) -> bool {
        let is_new = self.0.choice.get() == Choice::New;
        if is_new {
            self.0.choice.set(Choice::Known);
        }
        is_new
    }

    /// Begins a round, when all that was given has left. Whether somebody waits for it.
    pub fn begin(&self) -> bool {
        let state = &*self.0;
        state.left.set(ROUND);
        state.served.set(NOBODY);
        state.round.set(state.round.get().wrapping_add(1));
        let is_awaited = !state.waiting.borrow().is_empty();
        if is_awaited {
            state.moved.set(Some(Instant::now()));
        }
        is_awaited
    }

    /// Who is to be asked next: no more than this round has room for.
    ///
    /// One that has gone in the meantime says nothing, and the next one is asked.
    pub fn next(&self) -> Option<Waker> {
        let state = &*self.0;
        let mut waiting = state.waiting.borrow_mut();
        if waiting.is_empty() || state.left.get() == 0 {
            return None;
        }
        let best = (0..waiting.len()).min_by_key(|index| waiting[*index].rank)?;
        let oldest = || (0..waiting.len()).min_by_key(|index| waiting[*index].since);
        let is_fair = state.round.get().is_multiple_of(FAIR) && state.left.get() == ROUND;
        let index = oldest()
            .filter(|index| is_fair && waiting[*index].since.elapsed() >= PATIENCE)
            .unwrap_or(best);
        let next = waiting.swap_remove(index);
        state.granted.set(next.stream);
        Some(next.waker)
    }
}

impl Turn {
    /// Whether the stream may give data now. If not, it is woken when it may.
    pub fn is_mine(&self, waker: &Waker) -> bool {
        let state = &*self.turns.0;
        if state.granted.get() == self.stream {
            state.granted.set(0);
            return true;
        }
        let is_mine = match state.left.get() {
            // What is more urgent than all that is on its way does not wait for that.
            0 => self.priority.urgency < state.served.get(),
            _ => !self.has_better(),
        };
        if !is_mine {
            self.wait(waker);
        }
        is_mine
    }

    /// The stream has given so much.
    pub fn took(&self, bytes: usize) {
        let state = &*self.turns.0;
        state.left.set(state.left.get().saturating_sub(bytes));
        state.served.set(state.served.get().min(self.priority.urgency));
    }

    /// When others were last served, while this one waits.
    pub fn others_moved(&self) -> Option<Instant> {
        let waits = self.turns.0.waiting.borrow().iter().any(|other| other.stream == self.stream);
        self.turns.0.moved.get().filter(|_| waits)
    }

    fn has_better(&self) -> bool {
        let waiting = self.turns.0.waiting.borrow();
        let own = self.rank(self.turns.0.arrivals.get());
        waiting.iter().any(|other| other.stream != self.stream && other.rank < own)
    }

    fn rank(&self, arrival: u64) -> Rank {
        let Priority { urgency, incremental } = self.priority;
        (urgency, incremental, if incremental { arrival } else { self.stream.into() })
    }

    fn wait(&self, waker: &Waker) {
        let state = &*self.turns.0;
        let mut waiting = state.waiting.borrow_mut();
        if let Some(own) = waiting.iter_mut().find(|own| own.stream == self.stream) {
            return own.waker.clone_from(waker);
        }
        let arrival = state.arrivals.get();
        state.arrivals.set(arrival + 1);
        let (stream, rank) = (self.stream, self.rank(arrival));
        waiting.push(Waiting { stream, rank, since: Instant::now(), waker: waker.clone() });
    }
}

impl Drop for Turn {
    /// Nobody waits behind a stream that has gone.
    fn drop(&mut self) {
        self.turns.0.waiting.borrow_mut().retain(|other| other.stream != self.stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream with something to send: how much, and what its window lets through in a turn.
    struct Sender {
        turn: Turn,
        data: usize,
        window: usize,
    }

    const PART: usize = 16 * 1024;

    fn sender(
        turns: &Turns,
        (stream, urgency, incremental, window): (u32, u8, bool, usize),
    ) -> Sender {
        let turn = turns.of(stream, Priority { urgency, incremental });
        Sender { turn, data: 8 * PART, window }
    }

    impl Sender {
        /// As a stream that is polled: gives until it has to wait. Whom it gave is added to `order`.
        fn poll(&mut self, order: &mut Vec<u32>) {
            while self.data > 0 && self.turn.is_mine(Waker::noop()) {
                if self.window == 0 {
                    return; // Waits for h2.
                }
                let part = PART.min(self.window);
                self.turn.took(part);
                self.data -= part;
                self.window -= part;
                order.push(self.turn.stream);
            }
        }
    }

    /// The order of parts over some rounds, all polled in the order given first.
    fn run(turns: &Turns, senders: &mut [Sender], rounds: usize) -> Vec<u32> {
        let mut order = Vec::new();
        senders.iter_mut().for_each(|sender| sender.poll(&mut order));
        for _ in 0..rounds {
            turns.begin();
            while turns.next().is_some() {
                let granted = turns.0.granted.get();
                let next = senders.iter_mut().find(|sender| sender.turn.stream == granted);
                next.expect("one of them").poll(&mut order);
            }
        }
        order
    }

    #[test]
    fn who_comes_first() {
        const OPEN: usize = usize::MAX;
        for (about, streams, want) in [
            ("one by one", [(1, 3, false, OPEN), (3, 3, false, OPEN)], [1, 1, 1, 1, 1, 1, 1, 1]),
            (
                "those that share",
                [(1, 3, true, OPEN), (3, 3, true, OPEN)],
                [1, 1, 1, 1, 1, 3, 1, 3],
            ),
            ("the more urgent", [(1, 5, true, OPEN), (3, 2, true, OPEN)], [1, 1, 1, 1, 3, 3, 3, 3]),
            (
                "whole before shares",
                [(1, 3, true, OPEN), (3, 3, false, OPEN)],
                [1, 1, 1, 1, 3, 3, 3, 3],
            ),
            (
                "held up by its window",
                [(1, 5, true, OPEN), (3, 2, true, 0)],
                [1, 1, 1, 1, 1, 1, 1, 1],
            ),
            ("a small window", [(1, 5, true, OPEN), (3, 2, true, PART)], [1, 1, 1, 1, 3, 1, 1, 1]),
        ] {
            let turns = Turns::new();
            let mut senders = streams.map(|stream| sender(&turns, stream));
            let order = run(&turns, &mut senders, 2);
            assert_eq!(order.get(..8), Some(&want[..]), "{about}: {order:?}");
        }
    }

    #[test]
    fn every_stream_comes_to_its_end() {
        let turns = Turns::new();
        let streams = [(1, 7, false), (3, 0, true), (5, 3, true), (7, 3, false), (9, 3, true)];
        let mut senders = streams
            .map(|(stream, urgency, shares)| sender(&turns, (stream, urgency, shares, usize::MAX)));
        run(&turns, &mut senders, 10);
        assert!(senders.iter().all(|sender| sender.data == 0));
    }

    #[test]
    fn a_stream_that_has_gone_holds_up_nobody() {
        let turns = Turns::new();
        let mut first = sender(&turns, (1, 3, true, usize::MAX));
        let mut order = Vec::new();
        first.poll(&mut order);
        let urgent = turns.of(3, Priority { urgency: 3, incremental: false });
        assert!(!urgent.is_mine(Waker::noop()));
        drop(urgent);
        assert!(turns.begin(), "the first one waits");
        assert!(turns.next().is_some());
        first.poll(&mut order);
        assert_eq!(order, [1; 8]);
    }

    #[test]
    fn the_less_urgent_is_slow_and_never_cut_off() {
        let turns = Turns::new();
        let mut senders =
            [sender(&turns, (1, 0, false, usize::MAX)), sender(&turns, (3, 7, false, usize::MAX))];
        senders[0].data = usize::MAX / 2;
        let order = run(&turns, &mut senders, 20);
        assert!(!order.contains(&3), "{order:?}");
        turns.0.waiting.borrow_mut().iter_mut().for_each(|waiting| waiting.since -= PATIENCE);
        let order = run(&turns, &mut senders, 20);
        assert!(order.contains(&3), "{order:?}");
        let urgent = order.iter().filter(|stream| **stream == 1).count();
        assert!(urgent > order.len() / 2, "{order:?}");
    }
}
