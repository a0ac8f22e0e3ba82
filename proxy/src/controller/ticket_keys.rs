//! What TLS session tickets are sealed with, and when a new key comes. A pure function of time; the
//! keys live in memory, cross an upgrade in memory, and are never written to disk.
//!
//! A ticket is the state of a session, TLS 1.2's master secret included, and it crosses the wire.
//! Whoever records the traffic and later takes the keys out of a process reads every session that
//! they sealed: the sooner a key is forgotten, the less there is to read (RFC 5077 section 5.5). TLS
//! 1.3 tickets lead to no session of the past, and a resumed one has keys of its own (RFC 8446
//! section 2.2). A TLS 1.2 client that goes on resuming goes on with the master secret that it began
//! with; each ticket carries it over to the next key, and only a full handshake ends that.

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};

use crate::protocol::snapshot::TicketKey;

/// How long one key seals.
const ROTATION: Duration = Duration::from_secs(6 * 3600);
/// The one that seals, and those that only open. With three, a ticket lives 12 to 18 h: who comes in
/// the morning and again in the evening resumes, and memory stolen today opens no ticket of yesterday.
const KEPT: u32 = 3;
/// From the making of a key to its end.
const KEY_LIFE: Duration = ROTATION.saturating_mul(KEPT);

/// The keys that are in service. Serialised only into the memory that an upgrade hands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKeys {
    /// When the newest one was made.
    rotated: SystemTime,
    newest_first: Vec<TicketKey>,
}

impl TicketKeys {
    pub fn new(now: SystemTime) -> Self {
        TicketKeys { rotated: now, newest_first: vec![fresh_key(now)] }
    }

    /// The first one seals, each one opens.
    pub fn newest_first(&self) -> &[TicketKey] {
        &self.newest_first
    }

    /// When to call [`TicketKeys::rotate`] next.
    pub fn next_change(&self) -> SystemTime {
        self.rotated + ROTATION
    }

    /// Makes a new key if it is time, and forgets those whose time is over. Whether it did.
    pub fn rotate(&mut self, now: SystemTime) -> bool {
        // A clock that was set back must not stretch the life of a key.
        let due = now >= self.next_change() || now < self.rotated;
        if due {
            self.newest_first.retain(|key| now < key.not_after && key.not_after <= now + KEY_LIFE);
            self.newest_first.truncate(KEPT as usize - 1);
            self.newest_first.insert(0, fresh_key(now));
            self.rotated = now;
        }
        due
    }
}

fn fresh_key(now: SystemTime) -> TicketKey {
    TicketKey { name: random(), secret: random(), not_after: now + KEY_LIFE }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("AWS-LC ends the process where the kernel has no randomness");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn not_after(keys: &TicketKeys) -> Vec<SystemTime> {
        keys.newest_first().iter().map(|key| key.not_after).collect()
    }

    #[test]
    fn a_key_every_6_hours_and_three_in_service() {
        let mut keys = TicketKeys::new(at(0));
        for (now, rotates, ends) in [
            (0, false, &[18][..]),
            (6 * HOUR - 1, false, &[18]),
            (6 * HOUR, true, &[24, 18]),
            (6 * HOUR + 1, false, &[24, 18]),
            (12 * HOUR, true, &[30, 24, 18]),
            (18 * HOUR, true, &[36, 30, 24]),
            (24 * HOUR, true, &[42, 36, 30]),
            // Asleep for a day.
            (48 * HOUR, true, &[66]),
        ] {
            assert_eq!(keys.rotate(at(now)), rotates, "{now}");
            let ends: Vec<_> = ends.iter().map(|hours| at(hours * HOUR)).collect();
            assert_eq!(not_after(&keys), ends, "{now}");
        }
    }

    #[test]
    fn a_late_rotation_keeps_no_key_beyond_its_end() {
        let mut keys = TicketKeys::new(at(0));
        for now in [7 * HOUR, 14 * HOUR] {
            assert!(keys.rotate(at(now)));
        }
        assert_eq!(keys.next_change(), at(20 * HOUR));
        assert!(keys.rotate(at(20 * HOUR)));
        assert_eq!(not_after(&keys), [at(38 * HOUR), at(32 * HOUR), at(25 * HOUR)]);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_a_new_key_and_ends_those_of_the_future() {
        let mut keys = TicketKeys::new(at(0));
        assert!(keys.rotate(at(6 * HOUR)));
        assert!(keys.rotate(at(3 * HOUR)));
        assert_eq!(not_after(&keys), [at(21 * HOUR), at(18 * HOUR)]);
        assert_eq!(keys.next_change(), at(9 * HOUR));
    }

    #[test]
    fn a_clock_that_jumps_to_and_fro_leaves_three_keys() {
        let mut keys = TicketKeys::new(at(100));
        for back in 1..10 {
            assert!(keys.rotate(at(100 - back)));
            assert!(keys.newest_first().len() <= KEPT as usize);
        }
    }

    #[test]
    fn no_two_keys_are_alike() {
        let keys = [(); 4].map(|()| fresh_key(at(0)));
        for (i, a) in keys.iter().enumerate() {
            assert!(a.secret.iter().any(|&byte| byte != 0));
            assert_ne!(a.name[..], a.secret[..16]);
            for b in &keys[i + 1..] {
                assert_ne!(a.name, b.name);
                assert_ne!(a.secret, b.secret);
            }
        }
    }

    #[test]
    fn keys_cross_an_upgrade_and_rotate_on() {
        let mut old = TicketKeys::new(at(0));
        assert!(old.rotate(at(6 * HOUR)));
        let state = serde_json::to_string(&old).expect("it serialises");
        let mut new: TicketKeys = serde_json::from_str(&state).expect("it parses");
        assert_eq!(new, old);
        assert!(!new.rotate(at(7 * HOUR)));
        assert!(new.rotate(at(12 * HOUR)));
        assert_eq!(new.newest_first()[1..], old.newest_first()[..]);
    }

    #[test]
    fn under_every_order_of_clocks_keys_are_few_and_short_lived() {
        let steps = [0, 1, 3 * 3600, 6 * 3600, 19 * 3600, -1, -7 * 3600, -30 * 3600_i64];
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for order in 0..8_usize.pow(5) {
            let (mut now, mut keys) = (begin, TicketKeys::new(begin));
            for step in 0..5_u32 {
                let seconds = steps[order / 8_usize.pow(step) % 8];
                let by = Duration::from_secs(seconds.unsigned_abs());
                now = if seconds < 0 { now - by } else { now + by };
                let sealing = keys.newest_first()[0].name;
                let rotated = keys.rotate(now);
                let all = keys.newest_first();
                assert_eq!(rotated, all[0].name != sealing, "{order}");
                assert!(all.len() <= KEPT as usize, "{order}");
                assert!(all.iter().all(|key| key.not_after <= now + KEY_LIFE), "{order}");
                assert!(now < all[0].not_after && now < keys.next_change(), "{order}");
                assert!(keys.next_change() <= now + ROTATION, "{order}");
            }
        }
    }
}
