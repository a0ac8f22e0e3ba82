//! Where a WebSocket frame ends and the next one begins (RFC 6455 section 5.2): all that it takes to
//! say goodbye between two. What the frames carry is nobody's business here.

use aws_lc_rs::rand;

/// Longest header: two bytes, eight of length, four of mask.
const LONGEST_HEADER: usize = 14;
/// FIN and the close opcode (section 5.5.1).
const CLOSE: u8 = 0x88;
const MASKED: u8 = 0x80;
/// "Going away, such as a server going down" (section 7.4.1).
const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();

/// Follows the frames of one direction.
#[derive(Debug, Default)]
pub struct Frames {
    header: [u8; LONGEST_HEADER],
    /// Bytes of the header that have come.
    have: usize,
    /// Bytes of the payload that are still to come.
    left: u64,
}

impl Frames {
    /// Follows these bytes.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= skipped as u64;
            bytes = &bytes[skipped..];
            let Some((first, rest)) = bytes.split_first() else { return };
            self.header[self.have] = *first;
            self.have += 1;
            bytes = rest;
            if let Some(length) = payload_length(&self.header[..self.have]) {
                self.left = length;
                self.have = 0;
            }
        }
    }

    /// Whether a frame of another sender may come now.
    pub fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }
}

/// None while the header is not complete.
fn payload_length(header: &[u8]) -> Option<u64> {
    let [_, second, extended @ ..] = header else { return None };
    let mask = if second & MASKED == 0 { 0 } else { 4 };
    let size = match second & !MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    if extended.len() < size + mask {
        return None;
    }
    let long = extended[..size].iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
    Some(if size == 0 { u64::from(second & !MASKED) } else { long })
}

/// A close frame, 1001, as a server sends it.
pub fn close_to_client() -> Vec<u8> {
    [&[CLOSE, GOING_AWAY.len() as u8][..], &GOING_AWAY].concat()
}

/// The same as a client sends it: masked (section 5.3).
pub fn close_to_server() -> Vec<u8> {
    let mut mask = [0; 4];
    // A predictable mask hides nothing from anybody here: this payload is our own.
    let _ = rand::fill(&mut mask);
    let payload = [GOING_AWAY[0] ^ mask[0], GOING_AWAY[1] ^ mask[1]];
    [&[CLOSE, MASKED | GOING_AWAY.len() as u8][..], &mask, &payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let bit = if masked { MASKED } else { 0 };
        let mut frame = match length {
            0..126 => vec![0x82, bit | length as u8],
            126..65_536 => [&[0x82, bit | 126][..], &(length as u16).to_be_bytes()].concat(),
            _ => [&[0x82, bit | 127][..], &(length as u64).to_be_bytes()].concat(),
        };
        frame.resize(frame.len() + length + if masked { 4 } else { 0 }, 0xff);
        frame
    }

    #[test]
    fn frames_end_where_they_end() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
            for masked in [false, true] {
                let frame = frame(length, masked);
                for cut in [1, 2, 3, frame.len() / 2, frame.len() - 1] {
                    let mut frames = Frames::default();
                    let (head, tail) = frame.split_at(cut.min(frame.len()));
                    frames.pass(head);
                    assert_eq!(frames.is_between(), tail.is_empty(), "{length} {masked} {cut}");
                    frames.pass(tail);
                    assert!(frames.is_between(), "{length} {masked} {cut}");
                    // Another one, byte by byte, behind it.
                    frame.iter().for_each(|byte| frames.pass(&[*byte]));
                    assert!(frames.is_between(), "{length} {masked} {cut}");
                }
            }
        }
    }

    #[test]
    fn several_frames_at_once_and_a_part_of_the_next() {
        let mut frames = Frames::default();
        frames.pass(&[frame(5, true), frame(0, false), frame(300, true)].concat());
        assert!(frames.is_between());
        frames.pass(&[0x81]);
        assert!(!frames.is_between());
    }

    #[test]
    fn goodbyes_are_frames_of_their_own() {
        assert_eq!(close_to_client(), [0x88, 2, 0x03, 0xe9]);
        let [opcode, length, mask @ .., a, b] = &close_to_server()[..] else { panic!("short") };
        assert_eq!((*opcode, *length, mask.len()), (0x88, 0x82, 4));
        assert_eq!([a ^ mask[0], b ^ mask[1]], GOING_AWAY);
    }
}
