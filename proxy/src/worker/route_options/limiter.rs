//! Who has asked too often: a bucket of tokens for each client, in a table of fixed size that all
//! threads share. Nobody waits in it: each bucket is two words that are replaced whole.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::protocol::options::rate_limit::RateLimit;

/// Clients that are remembered, over all routes: 1 MiB, once the first is counted. Among
/// [`WAYS`] that fall together, the one with the most tokens is forgotten for a new one.
const BUCKETS: usize = 1 << 16;
const WAYS: usize = 4;
/// Bits of an IPv6 address that tell one client from another: each has a /64 of its own.
const IPV6_BITS: u32 = 64;

/// Whose tokens are taken.
#[derive(Debug, Clone, Copy)]
pub enum Who<'a> {
    Address(IpAddr),
    /// Value of a header field.
    Field(&'a [u8]),
}

impl From<IpAddr> for Who<'_> {
    fn from(address: IpAddr) -> Self {
        Who::Address(address)
    }
}

#[derive(Debug)]
pub struct Limiter {
    /// Keyed, so that nobody can choose addresses that fall together.
    hasher: RandomState,
    start: Instant,
    buckets: OnceLock<Box<[Bucket]>>,
}

/// A bucket as GCRA (ITU-T I.371) has it: the time at which it is full again stands for its level.
#[derive(Debug, Default)]
struct Bucket {
    /// Hash of route and client; 0 is nobody.
    owner: AtomicU64,
    /// In nanoseconds since the start of the limiter.
    full_at: AtomicU64,
}

impl Default for Limiter {
    fn default() -> Self {
        Limiter { hasher: RandomState::new(), start: Instant::now(), buckets: OnceLock::new() }
    }
}

impl Limiter {
    /// Takes a token out of the client's bucket for this route.
    ///
    /// # Errors
    /// When there is none: how long until there is one.
    pub fn take(&self, route: &str, who: Who<'_>, limit: &RateLimit) -> Result<(), Duration> {
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.take_at(now, route, who, limit)
    }

    fn take_at<'a>(
        &self,
        now: u64,
        route: &str,
        who: impl Into<Who<'a>>,
        limit: &RateLimit,
    ) -> Result<(), Duration> {
        let owner = match who.into() {
            Who::Address(address) => self.hasher.hash_one((route, significant(address))),
            Who::Field(value) => self.hasher.hash_one((route, value)),
        };
        let owner = owner.max(1);
        let bucket = self.bucket(owner);
        let token = u64::from(limit.period.seconds()) * 1_000_000_000 / u64::from(limit.requests);
        let depth = token * u64::from(limit.burst);
        let taken = bucket.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            // No further away than an empty bucket, as after a change of the limit.
            let full_at = full_at.clamp(now, now.saturating_add(depth));
            let after = full_at + token;
            (after - now <= depth).then_some(after)
        });
        taken.map(drop).map_err(|full_at| {
            let after = full_at.clamp(now, now.saturating_add(depth)) + token;
            Duration::from_nanos((after - now).saturating_sub(depth))
        })
    }

    fn bucket(&self, owner: u64) -> &Bucket {
        let buckets = self
            .buckets
            .get_or_init(|| std::iter::repeat_with(Bucket::default).take(BUCKETS).collect());
        // The low bits choose the set; all of them are compared.
        let set = owner as usize % (BUCKETS / WAYS) * WAYS;
        let ways = &buckets[set..set + WAYS];
        if let Some(bucket) = ways.iter().find(|bucket| bucket.owner.load(Relaxed) == owner) {
            return bucket;
        }
        let fullest = ways.iter().min_by_key(|bucket| bucket.full_at.load(Relaxed));
        let bucket = fullest.expect("a set has ways");
        // Of two threads that meet here, one counts a request in the other's bucket.
        bucket.owner.store(owner, Relaxed);
        bucket.full_at.store(0, Relaxed);
        bucket
    }
}

fn significant(client: IpAddr) -> u128 {
    match client.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() & (u128::MAX << (128 - IPV6_BITS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limit(text: &str) -> RateLimit {
        RateLimit::parse(text).expect("a rate")
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    /// How many of `tries` at `now` are let in.
    fn admitted(
        limiter: &Limiter,
        now: u64,
        client: &str,
        limit: &RateLimit,
        tries: usize,
    ) -> usize {
        (0..tries).filter(|_| limiter.take_at(now, "r", address(client), limit).is_ok()).count()
    }

    #[test]
    fn tokens_come_back_at_the_rate_up_to_the_burst() {
        let limiter = Limiter::default();
        let limit = limit("10/s burst=5");
        for (now, want) in [
            (0, 5),
            (0, 0),
            (SECOND / 10, 1),
            (SECOND / 10 * 4, 3),
            (SECOND * 100, 5),
            (SECOND * 100 + SECOND / 20, 0),
        ] {
            assert_eq!(admitted(&limiter, now, "192.0.2.1", &limit, 20), want, "{now}");
        }
    }

    #[test]
    fn clients_and_routes_have_buckets_of_their_own() {
        let limiter = Limiter::default();
        let limit = limit("1/m");
        for (route, client, want) in [
            ("a", "192.0.2.1", true),
            ("a", "192.0.2.1", false),
            ("a", "::ffff:192.0.2.1", false),
            ("a", "192.0.2.2", true),
            ("b", "192.0.2.1", true),
            ("a", "2001:db8::1", true),
            // The same /64.
            ("a", "2001:db8::ffff", false),
            ("a", "2001:db8:0:1::1", true),
        ] {
            let taken = limiter.take_at(0, route, address(client), &limit);
            assert_eq!(taken.is_ok(), want, "{route} {client}");
        }
    }

    #[test]
    fn values_of_a_field_have_buckets_of_their_own() {
        let limiter = Limiter::default();
        let limit = limit("1/m header=x-key");
        for (value, want) in [("a", true), ("a", false), ("b", true), ("A", true)] {
            let taken = limiter.take_at(0, "r", Who::Field(value.as_bytes()), &limit);
            assert_eq!(taken.is_ok(), want, "{value}");
        }
        assert!(limiter.take_at(0, "r", address("192.0.2.1"), &limit).is_ok());
    }

    #[test]
    fn it_says_when_to_come_again() {
        let limiter = Limiter::default();
        let slow = limit("2/m burst=1");
        assert_eq!(limiter.take_at(0, "r", address("192.0.2.1"), &slow), Ok(()));
        let again = limiter.take_at(10 * SECOND, "r", address("192.0.2.1"), &slow);
        assert_eq!(again, Err(Duration::from_secs(20)));
        // The limit has changed: nobody waits longer than it says.
        let quick = limit("1/s burst=1");
        let again = limiter.take_at(10 * SECOND, "r", address("192.0.2.1"), &quick);
        assert_eq!(again, Err(Duration::from_secs(1)));
    }

    #[test]
    fn more_clients_than_buckets_are_served_within_the_same_memory() {
        let limiter = Limiter::default();
        let limit = limit("1/h");
        for client in 0..200_000u32 {
            let client = IpAddr::V4(client.into());
            assert_eq!(limiter.take_at(0, "r", client, &limit), Ok(()));
        }
        assert_eq!(limiter.buckets.get().map(|buckets| buckets.len()), Some(BUCKETS));
    }

    #[test]
    fn threads_share_one_count() {
        let limiter = Limiter::default();
        let limit = limit("1/h burst=1000");
        // So that its bucket is there before they meet.
        assert_eq!(admitted(&limiter, 0, "192.0.2.1", &limit, 1), 1);
        let count = std::thread::scope(|scope| {
            let run = || admitted(&limiter, 0, "192.0.2.1", &limit, 2000);
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it ends")).sum::<usize>()
        });
        assert_eq!(count, 999);
    }
}
