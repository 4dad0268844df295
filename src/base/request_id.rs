//! The number that names one request: in logs, on pages, and towards iMIS.

use std::fmt;

/// Unique as long as two workers do not draw the same start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestId {
    worker: u64,
    count: u64,
}

impl RequestId {
    /// `worker`: random, the same for all requests of one worker; 40 bits are shown.
    pub(crate) fn new(worker: u64, count: u64) -> Self {
        Self { worker: worker & 0xff_ffff_ffff, count }
    }

    /// What it is made of: of the worker, and of the request.
    pub(crate) fn parts(self) -> (u64, u64) {
        (self.worker, self.count)
    }

    /// Writes it as text, without the machinery of formatting: every request needs it.
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
    fn both_ways_to_write_it_agree() {
        for count in [0, 1, 15, 16, 255, 4096, u64::MAX] {
            let incident = RequestId::new(0xab_0123_4567, count);
            let mut written = Vec::new();
            incident.write(&mut written);
            assert_eq!(String::from_utf8(written).unwrap(), incident.to_string());
        }
    }
}
