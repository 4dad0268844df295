//! Follows the frames of a WebSocket (RFC 6455 section 5.2), so that a close frame can be inserted between two of them.
//! Payloads are not read.

use crate::base::clock;

/// 1001, "going away" (RFC 6455 section 7.4.1).
const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();
const CLOSE: u8 = 0x88;
const MASKED: u8 = 0x80;
const OPCODE: u8 = 0x0f;
const OPCODE_CLOSE: u8 = 0x08;
/// The maximum length of a frame header: two bytes, an extended length of eight, and a mask of four.
const MAX_HEAD: usize = 14;

/// The position within the frames of one direction.
#[derive(Debug, Default, Clone)]
pub(super) struct Frames {
    head: [u8; MAX_HEAD],
    /// The number of bytes of the frame header that have been read.
    seen: usize,
    /// The number of payload bytes that follow.
    left: u64,
    /// There was a close frame. No frame may follow it.
    pub(super) is_closed: bool,
}

impl Frames {
    /// Whether the position is between two frames.
    pub(super) fn is_between(&self) -> bool {
        self.seen == 0 && self.left == 0
    }

    /// Advances over `bytes` and returns how many of them were consumed. `stop`: stops at the first end of a frame.
    pub(super) fn follow(&mut self, bytes: &[u8], stop: bool) -> usize {
        let mut at = 0;
        while at < bytes.len() && !(stop && self.is_between()) {
            if self.left > 0 {
                let rest = bytes.len() - at;
                let step = usize::try_from(self.left).map_or(rest, |left| left.min(rest));
                self.left -= step as u64;
                at += step;
                continue;
            }
            self.head[self.seen] = bytes[at];
            (self.seen, at) = (self.seen + 1, at + 1);
            if self.seen == self.head_length() {
                self.left = self.payload();
                self.is_closed |= self.head[0] & OPCODE == OPCODE_CLOSE;
                self.seen = 0;
            }
        }
        at
    }

    fn head_length(&self) -> usize {
        if self.seen < 2 {
            return 2;
        }
        let length = match self.head[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.head[1] & MASKED == 0 { 0 } else { 4 }
    }

    fn payload(&self) -> u64 {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        match self.head[1] & !MASKED {
            126 => number(&self.head[2..4]),
            127 => number(&self.head[2..10]),
            short => short.into(),
        }
    }
}

/// Writes a close frame for a client. Servers do not mask frames.
pub(super) fn close_to_client(out: &mut Vec<u8>) {
    out.extend_from_slice(&[CLOSE, 2]);
    out.extend_from_slice(&GOING_AWAY);
}

/// Writes a close frame for a server. It must be masked (section 5.1).
pub(super) fn close_to_server(out: &mut Vec<u8>) {
    // Without random numbers there is no close frame: the connection just closes.
    let Ok(random) = clock::random_u64() else { return };
    let [a, b, c, d, ..] = random.to_be_bytes();
    out.extend_from_slice(&[CLOSE, MASKED | 2, a, b, c, d]);
    out.extend_from_slice(&[GOING_AWAY[0] ^ a, GOING_AWAY[1] ^ b]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames with each encoding of the length, with and without mask, and where they end.
    fn stream() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for masked in [0, MASKED] {
            let mask: &[u8] = if masked == 0 { &[] } else { &[1, 2, 3, 4] };
            for (head, length) in [
                (vec![0x01, masked | 5], 5),
                (vec![0x89, masked], 0),
                (vec![0x00, masked | 126, 1, 0], 256),
                (vec![0x80, masked | 127, 0, 0, 0, 0, 0, 1, 0, 0], 65_536),
            ] {
                bytes.extend([&head, mask, &vec![0x88; length][..]].concat());
                ends.push(bytes.len());
            }
        }
        (bytes, ends)
    }

    #[test]
    fn ends_of_frames_are_found_for_any_size_of_pieces() {
        let (bytes, ends) = stream();
        for size in [1, 2, 3, 7, 1000, bytes.len()] {
            let mut frames = Frames::default();
            let (mut at, mut found) = (0, vec![0]);
            for piece in bytes.chunks(size) {
                let mut rest = piece;
                while !rest.is_empty() {
                    // One byte, then as far as the frame goes.
                    let one = frames.follow(&rest[..1], false);
                    let more = frames.follow(&rest[1..], true);
                    (at, rest) = (at + one + more, &rest[one + more..]);
                    if frames.is_between() {
                        found.push(at);
                    }
                }
            }
            assert_eq!(found, ends, "{size}");
            assert!(!frames.is_closed);
        }
    }

    #[test]
    fn the_close_frames_are_complete() {
        for close in [close_to_client, close_to_server] {
            let (mut frames, mut bytes) = (Frames::default(), Vec::new());
            close(&mut bytes);
            assert_eq!(frames.follow(&bytes, false), bytes.len());
            assert!(frames.is_between() && frames.is_closed);
        }
        let mut bytes = Vec::new();
        close_to_server(&mut bytes);
        assert_eq!([bytes[6] ^ bytes[2], bytes[7] ^ bytes[3]], GOING_AWAY);
    }

    #[test]
    fn the_maximum_length_does_not_overflow() {
        let mut frames = Frames::default();
        let head = [0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255];
        assert_eq!(frames.follow(&[&head[..], &[0; 100]].concat(), false), 110);
        assert!(!frames.is_between());
    }
}
