//! TLS session tickets, sealed with the keys of the snapshot: every process that has them resumes
//! what any other one began, so that a session outlives the worker that it began with.
//!
//! A ticket is the key's name, a nonce, and the session sealed with AES-256-GCM and the name as
//! additional data: RFC 5077 section 4, with one AEAD in place of its cipher and MAC.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;

use super::table::Table;
use crate::protocol::snapshot::TicketKey;

const NAME_LEN: usize = 16;

/// Seals and opens with the keys of the snapshot that is current when the handshake comes.
#[derive(Debug)]
pub struct Tickets(Arc<ArcSwap<Table>>);

impl Tickets {
    pub fn new(table: Arc<ArcSwap<Table>>) -> Self {
        Tickets(table)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.0.load().ticket_keys.sealing(SystemTime::now()).is_some()
    }

    fn lifetime(&self) -> u32 {
        self.0.load().ticket_keys.lifetime(SystemTime::now())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.load().ticket_keys.seal(SystemTime::now(), plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.0.load().ticket_keys.open(SystemTime::now(), ticket)
    }
}

/// The keys of one snapshot, made ready once.
#[derive(Debug, Default)]
pub struct TicketKeys {
    newest_first: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    name: [u8; NAME_LEN],
    /// Draws a nonce for each ticket. Random ones of 96 bits are good for 2^32 tickets of a key (NIST
    /// SP 800-38D section 8.3); two tickets a handshake and six hours a key are 99,000 handshakes/s.
    cipher: RandomizedNonceKey,
    not_after: SystemTime,
}

impl TicketKeys {
    pub fn load(newest_first: &[TicketKey]) -> Self {
        TicketKeys { newest_first: newest_first.iter().map(Key::load).collect() }
    }

    /// The session as a ticket; `None` without a key.
    fn seal(&self, now: SystemTime, session: &[u8]) -> Option<Vec<u8>> {
        let key = self.sealing(now)?;
        let mut sealed = session.to_vec();
        let nonce = key.cipher.seal_in_place_append_tag(Aad::from(key.name), &mut sealed).ok()?;
        Some([&key.name[..], nonce.as_ref(), &sealed].concat())
    }

    /// The session in a ticket; `None` for anything that no key in service has sealed. The bytes are
    /// the client's.
    fn open(&self, now: SystemTime, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let key = self.newest_first.iter().find(|key| key.name == *name && key.serves(now))?;
        let mut session = sealed.to_vec();
        let opened =
            key.cipher.open_in_place(Nonce::from(nonce), Aad::from(name), &mut session).ok()?;
        let length = opened.len();
        session.truncate(length);
        Some(session)
    }

    /// Seconds that a ticket sealed now can be opened: until its key ends.
    fn lifetime(&self, now: SystemTime) -> u32 {
        let left = self.sealing(now).and_then(|key| key.not_after.duration_since(now).ok());
        left.map_or(0, |left| u32::try_from(left.as_secs()).unwrap_or(u32::MAX))
    }

    fn sealing(&self, now: SystemTime) -> Option<&Key> {
        self.newest_first.first().filter(|key| key.serves(now))
    }
}

impl Key {
    fn load(TicketKey { name, secret, not_after }: &TicketKey) -> Self {
        let cipher =
            RandomizedNonceKey::new(&AES_256_GCM, secret).expect("32 bytes are an AES-256 key");
        Key { name: *name, cipher, not_after: *not_after }
    }

    /// A worker whose controller is gone hears of no rotation: the end of a key is its own to keep.
    fn serves(&self, now: SystemTime) -> bool {
        now < self.not_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::snapshot::Snapshot;
    use crate::worker::host_book::HostBook;
    use std::time::Duration;

    const SESSION: &[u8] = b"what rustls knows of a session";

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn key(name: u8, secret: u8, not_after: u64) -> TicketKey {
        TicketKey { name: [name; 16], secret: [secret; 32], not_after: at(not_after) }
    }

    fn keys(newest_first: &[&TicketKey]) -> TicketKeys {
        let newest_first: Vec<_> = newest_first.iter().copied().cloned().collect();
        TicketKeys::load(&newest_first)
    }

    fn sealed_by(key: &TicketKey) -> Vec<u8> {
        keys(&[key]).seal(at(0), SESSION).expect("a key in service")
    }

    #[test]
    fn who_opens_a_ticket() {
        let (one, two, three) = (key(1, 1, 100), key(2, 2, 200), key(3, 3, 300));
        let ticket = sealed_by(&one);
        for (what, keys, now, opens) in [
            ("the key that sealed it", keys(&[&one]), 0, true),
            ("the same one with newer ones", keys(&[&three, &two, &one]), 0, true),
            ("until its end", keys(&[&two, &one]), 99, true),
            ("not at its end", keys(&[&two, &one]), 100, false),
            ("not once it was dropped", keys(&[&three, &two]), 0, false),
            ("not another one of its name", keys(&[&key(1, 9, 100)]), 0, false),
            ("not one of its secret and another name", keys(&[&key(9, 1, 100)]), 0, false),
            ("nobody without keys", keys(&[]), 0, false),
        ] {
            let want = opens.then(|| SESSION.to_vec());
            assert_eq!(keys.open(at(now), &ticket), want, "{what}");
        }
    }

    #[test]
    fn the_first_key_seals_while_it_serves() {
        let (old, new) = (key(1, 1, 100), key(2, 2, 200));
        for (what, keys, now, want) in [
            ("the newest", keys(&[&new, &old]), 0, Some((2, 200))),
            ("as long as it lasts", keys(&[&new, &old]), 199, Some((2, 1))),
            ("nothing after it", keys(&[&new, &old]), 200, None),
            ("nothing without keys", keys(&[]), 0, None),
        ] {
            let sealed = keys.seal(at(now), SESSION).map(|ticket| ticket[0]);
            assert_eq!(sealed, want.map(|(name, _)| name), "{what}");
            assert_eq!(keys.lifetime(at(now)), want.map_or(0, |(_, left)| left), "{what}");
        }
    }

    #[test]
    fn a_changed_ticket_opens_nowhere() {
        let key = key(1, 1, 100);
        let keys = keys(&[&key]);
        let ticket = sealed_by(&key);
        for position in 0..ticket.len() {
            for bit in 0..8 {
                let mut changed = ticket.clone();
                changed[position] ^= 1 << bit;
                assert_eq!(keys.open(at(0), &changed), None, "bit {bit} of byte {position}");
            }
        }
        for length in 0..ticket.len() {
            assert_eq!(keys.open(at(0), &ticket[..length]), None, "its first {length} bytes");
            assert_eq!(
                keys.open(at(0), &ticket[ticket.len() - length..]),
                None,
                "its last {length}"
            );
        }
        assert_eq!(keys.open(at(0), &[&ticket[..], b"x"].concat()), None, "a byte more");
        assert_eq!(keys.open(at(0), SESSION), None, "no ticket at all");
        assert_eq!(keys.open(at(0), &[1; 65_535]), None, "the longest there can be");
    }

    #[test]
    fn a_ticket_hides_its_session_and_never_repeats() {
        let key = key(1, 1, 100);
        let (one, two) = (sealed_by(&key), sealed_by(&key));
        assert_ne!(one, two);
        assert_ne!(one[NAME_LEN..][..NONCE_LEN], two[NAME_LEN..][..NONCE_LEN]);
        assert!(!one.windows(8).any(|window| window == &SESSION[..8]));
        let keys = keys(&[&key]);
        let empty = keys.seal(at(0), b"").expect("a key in service");
        assert_eq!(keys.open(at(0), &empty), Some(Vec::new()));
    }

    #[test]
    fn the_keys_are_those_of_the_newest_snapshot() {
        let table = Arc::new(ArcSwap::from_pointee(Table::default()));
        let tickets = Tickets::new(table.clone());
        let publish = |ticket_keys| {
            let snapshot = Snapshot { ticket_keys, ..Snapshot::default() };
            table.store(Arc::new(Table::compile(snapshot, &mut HostBook::new(1)).0));
        };
        assert!(!tickets.enabled());
        assert_eq!(tickets.encrypt(SESSION), None);

        let end = SystemTime::now() + Duration::from_secs(3600);
        let [old, new] = [1, 2].map(|n| TicketKey { not_after: end, ..key(n, n, 0) });
        publish(vec![old.clone()]);
        assert!(tickets.enabled());
        assert!((3590..=3600).contains(&tickets.lifetime()));
        let ticket = tickets.encrypt(SESSION).expect("a key in service");
        publish(vec![new.clone(), old]);
        assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(SESSION));
        publish(vec![new]);
        assert_eq!(tickets.decrypt(&ticket), None);
    }

    #[test]
    fn key_bytes_reach_no_log() {
        let shown = format!("{:?}", keys(&[&key(1, 222, 100)]));
        assert!(!shown.contains("222"), "{shown}");
    }
}
