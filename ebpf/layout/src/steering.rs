//! Where connections go: one 64-bit word for all listen addresses, so that one store moves them all.

/// Generations that the maps have room for at one time.
pub const MAX_SLOTS: u8 = 8;
/// Worker threads of one generation.
pub const MAX_THREADS: u16 = 256;

/// The place of a generation in the maps; free again when its sockets are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u8);

impl Slot {
    /// None from [`MAX_SLOTS`] on.
    pub const fn new(number: u8) -> Option<Slot> {
        if number < MAX_SLOTS { Some(Slot(number)) } else { None }
    }

    pub fn all() -> impl Iterator<Item = Slot> {
        (0..MAX_SLOTS).map(Slot)
    }

    pub const fn number(self) -> u8 {
        self.0
    }
}

/// A generation that takes connections: where it is in the maps, and how many worker threads it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    slot: Slot,
    threads: u16,
}

impl Target {
    /// None beyond [`MAX_THREADS`].
    pub const fn new(slot: Slot, threads: u16) -> Option<Target> {
        if threads <= MAX_THREADS { Some(Target { slot, threads }) } else { None }
    }

    pub const fn slot(self) -> Slot {
        self.slot
    }

    pub const fn threads(self) -> u16 {
        self.threads
    }

    /// The thread for a connection, by its number: they take turns. By a hash of its addresses, as the
    /// kernel does it, all of a few connections may come to one thread, and over HTTP/2 a few carry much.
    pub const fn thread(self, number: u32) -> u16 {
        match number.checked_rem(self.threads as u32) {
            Some(thread) => thread as u16,
            None => 0,
        }
    }
}

/// A part of new connections, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u16);

impl Share {
    pub const NONE: Share = Share(0);
    pub const WHOLE: Share = Share(10_000);

    /// None beyond the whole.
    pub const fn new(hundredths_of_a_percent: u16) -> Option<Share> {
        if hundredths_of_a_percent <= Share::WHOLE.0 {
            Some(Share(hundredths_of_a_percent))
        } else {
            None
        }
    }

    pub const fn hundredths_of_a_percent(self) -> u16 {
        self.0
    }

    /// Whether one of this share is meant, for a random number.
    const fn takes(self, random: u32) -> bool {
        random % (Share::WHOLE.0 as u32) < self.0 as u32
    }
}

/// A generation on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canary {
    pub target: Target,
    pub share: Share,
}

/// Which generation takes connections, and the share of one on trial.
///
/// | bits     |                                              |
/// | -------- | -------------------------------------------- |
/// | 0 to 7   | slot of the active generation                |
/// | 8 to 15  | slot of the canary                           |
/// | 16 to 31 | share of the canary; 0 means that none is    |
/// | 32 to 47 | threads of the active generation             |
/// | 48 to 63 | threads of the canary                        |
///
/// The maps begin as all zeros: whatever slot 0 has takes connections, until the first store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steering {
    active: Target,
    /// Without a share it is none. An Option would be half undefined in the kernel, where the
    /// verifier refuses to see it copied.
    canary: Canary,
}

impl Steering {
    /// Everything to one generation.
    pub const fn all_to(active: Target) -> Steering {
        let nobody = Target { slot: Slot(0), threads: 0 };
        Steering { active, canary: Canary { target: nobody, share: Share::NONE } }
    }

    /// A share to another one; none of it is [`Steering::all_to`].
    pub const fn with_canary(active: Target, canary: Canary) -> Steering {
        if canary.share.0 == 0 { Steering::all_to(active) } else { Steering { active, canary } }
    }

    pub const fn active(self) -> Target {
        self.active
    }

    pub const fn canary(self) -> Option<Canary> {
        if self.canary.share.0 == 0 { None } else { Some(self.canary) }
    }

    pub const fn to_bits(self) -> u64 {
        let Steering { active, canary: Canary { target: canary, share } } = self;
        active.slot.0 as u64
            | (canary.slot.0 as u64) << 8
            | (share.0 as u64) << 16
            | (active.threads as u64) << 32
            | (canary.threads as u64) << 48
    }

    /// Total: what no [`Steering::to_bits`] made is cut to what the maps can hold.
    pub const fn from_bits(bits: u64) -> Steering {
        let share = (bits >> 16) as u16;
        let share = if share < Share::WHOLE.0 { Share(share) } else { Share::WHOLE };
        let target = target_from_bits((bits >> 8) as u8, (bits >> 48) as u16);
        Steering {
            active: target_from_bits(bits as u8, (bits >> 32) as u16),
            canary: Canary { target, share },
        }
    }

    /// The generation for a new connection. `random` is asked for when there is a choice.
    pub fn pick(self, random: impl FnOnce() -> u32) -> Target {
        if self.canary.share.0 != 0 && self.canary.share.takes(random()) {
            self.canary.target
        } else {
            self.active
        }
    }
}

const fn target_from_bits(slot: u8, threads: u16) -> Target {
    let threads = if threads < MAX_THREADS { threads } else { MAX_THREADS };
    Target { slot: Slot(slot % MAX_SLOTS), threads }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(slot: u8, threads: u16) -> Target {
        Target::new(Slot::new(slot).expect("slot"), threads).expect("threads")
    }

    fn steering(active: (u8, u16), canary: Option<(u8, u16, u16)>) -> Steering {
        let active = target(active.0, active.1);
        let Some((slot, threads, share)) = canary else { return Steering::all_to(active) };
        let share = Share::new(share).expect("share");
        Steering::with_canary(active, Canary { target: target(slot, threads), share })
    }

    #[test]
    fn every_field_has_its_bits() {
        for (steering, bits) in [
            (steering((0, 0), None), 0),
            (steering((7, 0), None), 0x0000_0000_0000_0007),
            (steering((0, 256), None), 0x0000_0100_0000_0000),
            (steering((0, 0), Some((7, 0, 1))), 0x0000_0000_0001_0700),
            (steering((0, 0), Some((0, 0, 10_000))), 0x0000_0000_2710_0000),
            (steering((0, 0), Some((0, 256, 1))), 0x0100_0000_0001_0000),
            (steering((3, 2), Some((4, 16, 500))), 0x0010_0002_01f4_0403),
        ] {
            assert_eq!(steering.to_bits(), bits, "{steering:?}");
            assert_eq!(Steering::from_bits(bits), steering, "{bits:#018x}");
        }
    }

    #[test]
    fn a_canary_without_a_share_is_none() {
        assert_eq!(steering((1, 2), Some((3, 4, 0))).to_bits(), steering((1, 2), None).to_bits());
    }

    #[test]
    fn a_word_that_nobody_wrote_stays_within_the_maps() {
        for bits in [u64::MAX, 0xffff_ffff_2711_ffff, 0x0101_0101_ffff_0908] {
            let steering = Steering::from_bits(bits);
            let Canary { target, share } = steering.canary().expect("canary");
            for target in [steering.active(), target] {
                assert!(target.slot.0 < MAX_SLOTS && target.threads <= MAX_THREADS, "{bits:#x}");
            }
            assert_eq!(share, Share::WHOLE);
        }
    }

    #[test]
    fn what_does_not_fit_cannot_be_made() {
        assert_eq!(Slot::new(8), None);
        assert_eq!(Target::new(Slot(0), 257), None);
        assert_eq!(Share::new(10_001), None);
        assert_eq!(Slot::all().map(Slot::number).last(), Some(7));
    }

    #[test]
    fn the_canary_gets_its_share() {
        for (share, random, want) in [
            (1, 0, 1),
            (1, 1, 0),
            (500, 499, 1),
            (500, 500, 0),
            (500, 10_499, 1),
            (9_999, 9_999, 0),
            (10_000, 9_999, 1),
            (10_000, u32::MAX, 1),
        ] {
            let picked = steering((0, 1), Some((1, 1, share))).pick(|| random);
            assert_eq!(picked.slot().number(), want, "{share} {random}");
        }
    }

    #[test]
    fn nothing_is_random_without_a_canary() {
        let picked = steering((5, 1), None).pick(|| panic!("asked for a random number"));
        assert_eq!(picked.slot().number(), 5);
    }

    #[test]
    fn threads_take_turns() {
        for (threads, number, want) in [
            (0, u32::MAX, 0),
            (1, u32::MAX, 0),
            (2, 6, 0),
            (2, 7, 1),
            (3, 7, 1),
            (3, 8, 2),
            (256, 255, 255),
            (256, 256, 0),
        ] {
            assert_eq!(target(0, threads).thread(number), want, "{threads} {number}");
        }
    }
}
