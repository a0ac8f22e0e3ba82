//! What the selector counts, for each generation and CPU.

/// Words of [`Counters`] in the map.
pub const COUNTERS: usize = 3;

/// Of one generation. The kernel asks once for each connection that begins (each first SYN; with
/// SYN cookies for the final ACK too), so `selected` can be more than what was accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// New connections that were given to it.
    pub selected: u64,
    /// Connections of closed listeners that were moved to it.
    pub migrated: u64,
    /// Connections that were meant for it while it had no socket for their address. The kernel then
    /// picked any of the group.
    pub failed: u64,
}

impl Counters {
    pub const fn to_words(self) -> [u64; COUNTERS] {
        [self.selected, self.migrated, self.failed]
    }

    pub const fn from_words([selected, migrated, failed]: [u64; COUNTERS]) -> Counters {
        Counters { selected, migrated, failed }
    }
}

impl core::ops::Add for Counters {
    type Output = Counters;

    fn add(self, other: Counters) -> Counters {
        Counters {
            selected: self.selected + other.selected,
            migrated: self.migrated + other.migrated,
            failed: self.failed + other.failed,
        }
    }
}

impl core::iter::Sum for Counters {
    fn sum<I: Iterator<Item = Counters>>(counters: I) -> Counters {
        counters.fold(Counters::default(), core::ops::Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back() {
        let counters = Counters { selected: 1, migrated: 2, failed: 3 };
        assert_eq!(counters.to_words(), [1, 2, 3]);
        assert_eq!(Counters::from_words([1, 2, 3]), counters);
    }

    #[test]
    fn cpus_add_up() {
        let counters = Counters { selected: 1, migrated: 2, failed: 3 };
        let twice = Counters { selected: 2, migrated: 4, failed: 6 };
        assert_eq!([counters, counters].into_iter().sum::<Counters>(), twice);
    }
}
