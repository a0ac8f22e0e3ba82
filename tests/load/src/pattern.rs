//! Bodies whose every byte is known from its offset, so that a gigabyte is verified without being
//! kept.

use bytes::Bytes;
use std::sync::LazyLock;

use crate::random::Random;

/// A prime, so that no power of two of bytes that are lost, doubled or swapped goes unnoticed.
const PERIOD: usize = 65_521;
/// Largest piece that [`piece`] gives.
pub const PIECE: usize = 64 * 1024;

static BLOCK: LazyLock<Bytes> = LazyLock::new(|| {
    let mut random = Random::new(0x00ba_7011);
    let period: Vec<u8> = (0..PERIOD).map(|_| random.draw() as u8).collect();
    // A piece may begin at any offset of the period.
    period.iter().copied().cycle().take(PERIOD + PIECE).collect::<Vec<u8>>().into()
});

/// The bytes at `offset`, at most [`PIECE`] and at most `limit` of them; shared, not copied.
pub fn piece(offset: u64, limit: u64) -> Bytes {
    let start = (offset % PERIOD as u64) as usize;
    let length = limit.min(PIECE as u64) as usize;
    BLOCK.slice(start..start + length)
}

/// The first `length` bytes.
pub fn bytes(length: usize) -> Vec<u8> {
    BLOCK.iter().copied().take(PERIOD).cycle().take(length).collect()
}

/// Compares a stream with the pattern as it arrives.
#[derive(Debug, Clone, Default)]
pub struct Check {
    length: u64,
    mismatch: Option<u64>,
}

impl Check {
    pub fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let want = piece(self.length, data.len() as u64);
            let (now, rest) = data.split_at(want.len());
            if self.mismatch.is_none() && now != want {
                let within = now.iter().zip(&want).take_while(|(a, b)| a == b).count();
                self.mismatch = Some(self.length + within as u64);
            }
            self.length += now.len() as u64;
            data = rest;
        }
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    /// Offset of the first byte that is not of the pattern.
    pub fn mismatch(&self) -> Option<u64> {
        self.mismatch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_make_up_the_pattern() {
        let whole = bytes(300_000);
        let mut check = Check::default();
        for piece in whole.chunks(1777) {
            check.update(piece);
        }
        assert_eq!((check.length(), check.mismatch()), (300_000, None));
        assert_eq!(piece(70_000, 10), whole[70_000..70_010]);
    }

    #[test]
    fn a_changed_or_lost_byte_is_found_at_its_offset() {
        let mut changed = bytes(200_000);
        changed[131_072] ^= 1;
        let mut check = Check::default();
        check.update(&changed);
        assert_eq!(check.mismatch(), Some(131_072));

        let mut lost = bytes(200_000);
        lost.drain(65_536..131_072);
        let mut check = Check::default();
        check.update(&lost);
        assert!(check.mismatch().is_some_and(|at| (65_536..65_540).contains(&at)));
    }
}
