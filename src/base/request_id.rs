//! The ID of a request, for logs, pages and `X-Request-Id`.

use std::fmt;

/// Unique unless two workers draw the same random number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestId {
    worker: u64,
    count: u64,
}

impl RequestId {
    /// `worker`: a random number of the worker, of which 40 bits are used.
    pub(crate) fn new(worker: u64, count: u64) -> Self {
        Self { worker: worker & 0xff_ffff_ffff, count }
    }

    /// The number of the worker, and the number of the request.
    pub(crate) fn parts(self) -> (u64, u64) {
        (self.worker, self.count)
    }

    /// Writes it as text. Every request needs this, so it avoids the slower `fmt`.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        hexadecimal(self.worker, 10, out);
        out.push(b'-');
        let digits = (64 - self.count.leading_zeros()).div_ceil(4).max(1);
        hexadecimal(self.count, digits, out);
    }
}

fn hexadecimal(number: u64, digits: u32, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend((0..digits).rev().map(|place| DIGITS[(number >> (4 * place) & 0xf) as usize]));
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010x}-{:x}", self.worker, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_and_display_agree() {
        for count in [0, 1, 15, 16, 255, 4096, u64::MAX] {
            let incident = RequestId::new(0xab_0123_4567, count);
            let mut written = Vec::new();
            incident.write(&mut written);
            assert_eq!(String::from_utf8(written).unwrap(), incident.to_string());
        }
    }
}
