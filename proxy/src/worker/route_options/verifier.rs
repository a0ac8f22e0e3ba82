//! Whether a password belongs to a hash. Hashes of passwords are slow on purpose, tens to hundreds of
//! milliseconds each: they are made on a thread beside the worker thread, one at a time, and what was
//! right is remembered, because clients send the password with every request.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use argon2::{Argon2, PasswordVerifier as _};
use aws_lc_rs::hmac;
use aws_lc_rs::rand;
use sha_crypt::ShaCrypt;
use tokio::sync::Semaphore;

use crate::protocol::options::basic_auth::HashKind;

/// Requests of one worker thread that wait for a look at their password; more are told to come again.
const MAX_WAITING: usize = 64;
/// Right passwords that are remembered, by one worker thread: twice as many at most.
const MAX_KNOWN: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Right,
    Wrong,
    /// Too many wait already.
    Busy,
}

#[derive(Debug)]
pub struct Verifier {
    /// One hash at a time: the other half of the machine is for those who are in already.
    turn: Arc<Semaphore>,
    waiting: Cell<usize>,
    known: RefCell<Known>,
}

impl Default for Verifier {
    fn default() -> Self {
        Verifier {
            turn: Arc::new(Semaphore::new(1)),
            waiting: Cell::new(0),
            known: RefCell::new(Known::new()),
        }
    }
}

impl Verifier {
    pub async fn verify(&self, hash: &Arc<str>, user: &[u8], password: &[u8]) -> Verdict {
        let tag = self.known.borrow().tag(hash, user, password);
        if self.known.borrow_mut().has(&tag) {
            return Verdict::Right;
        }
        let Some(_waiting) = Waiting::enter(&self.waiting) else { return Verdict::Busy };
        let Ok(turn) = self.turn.clone().acquire_owned().await else { return Verdict::Busy };
        // A browser asks for a page and all that is in it with one new password.
        if self.known.borrow_mut().has(&tag) {
            return Verdict::Right;
        }
        let (hash, password) = (hash.clone(), password.to_vec());
        let look = tokio::task::spawn_blocking(move || {
            // Held until the hash is made, even where the request has gone by then.
            let _turn = turn;
            is_right(&hash, &password)
        });
        match look.await {
            Ok(true) => {
                self.known.borrow_mut().add(tag);
                Verdict::Right
            }
            Ok(false) | Err(_) => Verdict::Wrong,
        }
    }
}

/// Each of them compares in constant time.
fn is_right(hash: &str, password: &[u8]) -> bool {
    match HashKind::of(hash) {
        Ok(HashKind::Bcrypt) => bcrypt::verify(password, hash).unwrap_or(false),
        Ok(HashKind::Argon2) => Argon2::default().verify_password(password, hash).is_ok(),
        Ok(HashKind::ShaCrypt) => ShaCrypt::default().verify_password(password, hash).is_ok(),
        Err(_) => false,
    }
}

struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn enter(count: &'a Cell<usize>) -> Option<Self> {
        (count.get() < MAX_WAITING).then(|| {
            count.set(count.get() + 1);
            Waiting(count)
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

type Tag = [u8; 32];

/// What was right before, as HMAC-SHA256 under a key of this thread alone: whoever reads the memory of
/// it later finds no password, and nobody can make two of them meet. The hash is part of it, so that a
/// password that has changed is not known any more.
struct Known {
    key: hmac::Key,
    /// Those used since the last time that it was full, and those used before.
    young: HashSet<Tag>,
    old: HashSet<Tag>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("young", &self.young.len()).finish_non_exhaustive()
    }
}

impl Known {
    fn new() -> Self {
        let mut secret = [0; 32];
        rand::fill(&mut secret).expect("the kernel has random bytes");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        Known { key, young: HashSet::new(), old: HashSet::new() }
    }

    fn tag(&self, hash: &str, user: &[u8], password: &[u8]) -> Tag {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [hash.as_bytes(), user, password] {
            // With its length, so that no two splits of one text are the same.
            context.update(&part.len().to_le_bytes());
            context.update(part);
        }
        let mut tag = Tag::default();
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    fn has(&mut self, tag: &Tag) -> bool {
        if self.young.contains(tag) {
            return true;
        }
        let is_old = self.old.contains(tag);
        if is_old {
            self.add(*tag);
        }
        is_old
    }

    fn add(&mut self, tag: Tag) {
        if self.young.len() >= MAX_KNOWN {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(tag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_every_kind() {
        // crypt(3); the last is of the reference implementation.
        for hash in [
            "$2b$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu",
            "$2y$04$abcdefghijklmnopqrstuughE8Ev8uGFaUgY2cNEySvxngrb/Jzdm",
            "$5$saltsalt$gOjOtoMpVhru2uyjeJSEc/JaLQWOXMNmlOnj6T4AtC.",
            "$5$rounds=1234$saltsaltsaltsalt$5OVzF1PTJrkxLQhFxqzaZLR7ABAarci72wgjeqZYaz.",
            "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/",
            "$6$rounds=1500$s$84Rwgjz3EHiLzCchxHR5K.0N7chffE2g7x.a0t3fggdM6kEo0hCuD6IG4EPjJ5xFCDTBt.0bYZhwXos6lkoNY.",
            "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA",
        ] {
            assert!(is_right(hash, b"password"), "{hash}");
            assert!(!is_right(hash, b"Password"), "{hash}");
            assert!(!is_right(hash, b""), "{hash}");
        }
        for hash in ["", "secret", "$6$", "$5$rounds=5000$$", "$2y$05$"] {
            assert!(!is_right(hash, b"secret") && !is_right(hash, b""), "{hash}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_keeps_what_is_used() {
        let mut known = Known::new();
        let tag = |number: usize| known_tag(number);
        for number in 0..10 * MAX_KNOWN {
            known.add(tag(number));
            assert!(known.has(&tag(0)), "{number}");
        }
        assert!(known.young.len() <= MAX_KNOWN && known.old.len() <= MAX_KNOWN);
        assert!(!known.has(&tag(1)));
    }

    fn known_tag(number: usize) -> Tag {
        let mut tag = Tag::default();
        tag[..8].copy_from_slice(&number.to_le_bytes());
        tag
    }

    #[test]
    fn parts_cannot_be_shifted() {
        let known = Known::new();
        assert_ne!(known.tag("h", b"a", b"bc"), known.tag("h", b"ab", b"c"));
        assert_ne!(known.tag("h", b"a", b"b"), known.tag("i", b"a", b"b"));
        assert_ne!(known.tag("h", b"a", b"b"), Known::new().tag("h", b"a", b"b"));
    }

    #[tokio::test]
    async fn those_who_cannot_wait_are_told_so() {
        let verifier = Verifier::default();
        let _all: Vec<_> = (0..MAX_WAITING).map(|_| Waiting::enter(&verifier.waiting)).collect();
        let hash: Arc<str> = "$5$x$y".into();
        assert_eq!(verifier.verify(&hash, b"a", b"b").await, Verdict::Busy);
    }
}
