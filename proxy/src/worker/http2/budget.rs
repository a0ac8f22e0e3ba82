//! What a client may spend on frames that ask for work and carry nothing, so that a flood of them ends
//! its connection and costs nobody else.
//!
//! h2 answers pings and settings, and skips what it does not know, as fast as they come. It has limits
//! of its own on CONTINUATION, on DATA without data, on streams that are reset before they were
//! accepted, and on those that a client makes it reset; not on the rest. No user of h2 can see these
//! frames, so their headers are read here, on the way to it.

use std::time::Duration;

use tokio::time::Instant;

/// Most frames that a client has at a time; all of them again after [`PERIOD`]. Far more than clients
/// have use for, and little work for a worker.
const FRAMES: u32 = 10_000;
const PERIOD: Duration = Duration::from_secs(10);
/// What RST_STREAM costs: its stream may be at an upstream already. 1,000 at a time, as nghttp2 has it.
const RESET: u32 = 10;
/// What a stream that was accepted pays: its HEADERS, trailers, WINDOW_UPDATE and PRIORITY.
const STREAM: u32 = 4;
/// Bytes sent to the client that pay one frame. Eager clients send two WINDOW_UPDATE for each DATA
/// frame; a ping's answer, of 17 bytes, must not pay for the ping.
const BYTES: u64 = 512;

/// Of the preface (RFC 9113 section 3.4), which is no frame.
const PREFACE: usize = 24;
/// The part of a frame's header that counts: its length and type.
const HEAD: usize = 4;
/// The rest of it: flags and stream.
const TAIL: usize = 5;

const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;

/// The budget of one connection, and where in a frame its input stands.
#[derive(Debug)]
pub struct Budget {
    /// Bytes until the next frame begins.
    skip: usize,
    head: [u8; HEAD],
    /// How much of `head` has come.
    known: usize,
    left: u32,
    /// Bytes sent that have paid for nothing yet.
    sent: u64,
    /// When `left` was all of [`FRAMES`].
    since: Instant,
}

impl Budget {
    pub fn new(now: Instant) -> Self {
        Budget { skip: PREFACE, head: [0; HEAD], known: 0, left: FRAMES, sent: 0, since: now }
    }

    /// Counts the frames in what was read; `false` once there are too many. The clock is looked at
    /// when the budget runs out, and not before.
    #[must_use]
    pub fn take(&mut self, mut input: &[u8], now: impl Fn() -> Instant) -> bool {
        loop {
            if self.skip > input.len() {
                self.skip -= input.len();
                return true;
            }
            input = &input[self.skip..];
            self.skip = 0;
            let Some(head) = self.next_head(&mut input) else { return true };
            let [a, b, c, kind] = head;
            self.skip = TAIL + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
            if !self.pay(cost(kind), &now) {
                return false;
            }
        }
    }

    /// Takes the head of a frame off the input; none where a part of it is still to come.
    fn next_head(&mut self, input: &mut &[u8]) -> Option<[u8; HEAD]> {
        if self.known == 0
            && let Some((head, rest)) = input.split_first_chunk()
        {
            *input = rest;
            return Some(*head);
        }
        let (part, rest) = input.split_at((HEAD - self.known).min(input.len()));
        self.head[self.known..self.known + part.len()].copy_from_slice(part);
        self.known += part.len();
        *input = rest;
        if self.known < HEAD {
            return None;
        }
        self.known = 0;
        Some(self.head)
    }

    pub fn earn_bytes(&mut self, sent: usize) {
        self.sent += sent as u64;
    }

    pub fn earn_stream(&mut self) {
        self.sent += u64::from(STREAM) * BYTES;
    }

    fn pay(&mut self, cost: u32, now: impl Fn() -> Instant) -> bool {
        if self.left < cost {
            self.refill(now());
        }
        let Some(left) = self.left.checked_sub(cost) else { return false };
        self.left = left;
        true
    }

    fn refill(&mut self, now: Instant) {
        let earned = u32::try_from(std::mem::take(&mut self.sent) / BYTES).unwrap_or(FRAMES);
        self.left = self.left.saturating_add(earned).min(FRAMES);
        if now.duration_since(self.since) >= PERIOD {
            self.left = FRAMES;
            self.since = now;
        }
    }
}

/// In frames.
fn cost(kind: u8) -> u32 {
    match kind {
        // Bounded by flow control, or by h2.
        DATA | CONTINUATION => 0,
        RST_STREAM => RESET,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: u8 = 1;
    const PING: u8 = 6;
    const UNKNOWN: u8 = 0xbb;

    fn frame(kind: u8, length: u16) -> Vec<u8> {
        let [b, c] = length.to_be_bytes();
        let mut bytes = vec![0, b, c, kind, 0, 0, 0, 0, 1];
        bytes.resize(bytes.len() + usize::from(length), 0xff);
        bytes
    }

    /// Past the preface.
    fn begun() -> (Budget, Instant) {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert!(budget.take(&[b'P'; PREFACE], || start));
        (budget, start)
    }

    /// More than are ever refused.
    const WITHOUT_END: u32 = 3 * FRAMES;

    /// How many of these are taken, one after the other.
    fn taken(budget: &mut Budget, frame: &[u8], now: Instant) -> u32 {
        (0..WITHOUT_END).find(|_| !budget.take(frame, || now)).unwrap_or(WITHOUT_END)
    }

    #[test]
    fn each_type_has_its_price() {
        for (kind, length, expected) in [
            (PING, 8, FRAMES),
            (UNKNOWN, 0, FRAMES),
            (HEADERS, 30, FRAMES),
            (RST_STREAM, 4, FRAMES / RESET),
            (DATA, 1000, WITHOUT_END),
            (CONTINUATION, 0, WITHOUT_END),
        ] {
            let (mut budget, now) = begun();
            assert_eq!(taken(&mut budget, &frame(kind, length), now), expected, "type {kind}");
        }
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let stream = [frame(DATA, 300), frame(PING, 8), frame(HEADERS, 0)].concat();
        for size in 1..stream.len() {
            let (mut budget, now) = begun();
            assert!(stream.chunks(size).all(|part| budget.take(part, || now)));
            assert_eq!((budget.left, budget.skip, budget.known), (FRAMES - 2, 0, 0), "{size}");
        }
    }

    #[test]
    fn the_budget_comes_back_with_time() {
        for (after, expected) in [(PERIOD - Duration::from_millis(1), FRAMES), (PERIOD, 2 * FRAMES)]
        {
            let (mut budget, start) = begun();
            assert_eq!(taken(&mut budget, &frame(PING, 8), start + after), expected, "{after:?}");
        }
    }

    #[test]
    fn progress_pays_for_frames_and_a_ping_s_answer_does_not() {
        let (mut budget, now) = begun();
        let mut round = |sent, streams: u32, frames: &[u8]| {
            budget.earn_bytes(sent);
            (0..streams).for_each(|_| budget.earn_stream());
            budget.take(frames, || now)
        };
        let update = frame(8, 4);
        for _ in 0..FRAMES {
            assert!(round(1024, 0, &update.repeat(2)), "a window update for each KiB, twice");
            assert!(round(100, 1, &[frame(HEADERS, 30), update.repeat(2)].concat()), "requests");
        }
        let answered = (0..WITHOUT_END).find(|_| !round(17, 0, &frame(PING, 8)));
        assert!(answered.is_some_and(|count| count < FRAMES + FRAMES / 16), "{answered:?}");
    }
}
