//! Converts acknowledged TCP bytes, which include frame headers and TLS overhead, to acknowledged response bytes.
//!
//! After each write it records a pair of TCP bytes and response bytes, and interpolates linearly between two pairs.

use std::collections::VecDeque;

use rustls::{ServerConnection, SupportedCipherSuite};

/// The largest payload of a TLS record, in bytes (RFC 8446 section 5.1).
const RECORD: usize = 16 * 1024;
/// The maximum number of points. If there are more, every second one is removed.
const MAX_POINTS: usize = 16;

/// The overhead of a TLS record in bytes: its header, an authentication tag, and what the version and the cipher add
/// (RFC 8446 section 5.2; RFC 5288 section 3; RFC 7905 section 2).
pub(crate) fn record_overhead(tls: &ServerConnection) -> u64 {
    const HEADER_AND_TAG: u64 = 5 + 16;
    HEADER_AND_TAG
        + match tls.negotiated_cipher_suite() {
            Some(SupportedCipherSuite::Tls12(suite)) => {
                suite.aead_alg.key_block_shape().explicit_nonce_len as u64
            }
            // The content type.
            Some(SupportedCipherSuite::Tls13(_)) | None => 1,
        }
}

/// A number of TCP bytes, and how many response bytes they contain. Both are totals of the connection.
#[derive(Debug, Clone, Copy)]
struct Point {
    tcp: u64,
    response: u64,
}

#[derive(Debug)]
pub(crate) struct ResponseProgress {
    points: VecDeque<Point>,
    /// The end of the data that TLS has accepted.
    end: Point,
    /// The overhead of a TLS record in bytes.
    overhead: u64,
}

impl ResponseProgress {
    /// `tcp`: the number of TCP bytes sent before the first response. `overhead`: of a TLS record.
    pub(crate) fn new(tcp: u64, overhead: u64) -> Self {
        Self { points: VecDeque::new(), end: Point { tcp, response: 0 }, overhead }
    }

    /// Records that TLS has accepted `count` bytes. `response`: the total number of response bytes so far.
    pub(crate) fn accepted(&mut self, count: usize, response: u64) {
        if self.points.is_empty() {
            self.points.push_back(self.end);
        }
        let tcp = self.end.tcp + count as u64 + self.overhead * count.div_ceil(RECORD) as u64;
        self.end = Point { tcp, response };
        self.points.push_back(self.end);
        if self.points.len() > MAX_POINTS {
            let (mut index, last) = (0, self.points.len() - 1);
            self.points.retain(|_| {
                let is_kept = index % 2 == 0 || index == last;
                index += 1;
                is_kept
            });
        }
    }

    /// Corrects the estimates once everything has been sent. `tcp`: the actual number of TCP bytes.
    pub(crate) fn record_sent(&mut self, tcp: u64) {
        self.end.tcp = tcp;
        for point in &mut self.points {
            point.tcp = point.tcp.min(tcp);
        }
        if let Some(last) = self.points.back_mut() {
            last.tcp = tcp;
        }
    }

    /// The number of acknowledged response bytes. `acknowledged`: TCP bytes.
    pub(crate) fn arrived(&mut self, acknowledged: u64) -> u64 {
        while self.points.get(1).is_some_and(|next| next.tcp <= acknowledged) {
            self.points.pop_front();
        }
        let Some(first) = self.points.front() else { return self.end.response };
        let next = self.points.get(1).unwrap_or(first);
        let (length, response) = (next.tcp - first.tcp, next.response - first.response);
        let part = acknowledged.saturating_sub(first.tcp).min(length);
        // Buffers of TLS and the kernel are too small for an overflow.
        first.response + (response * part).checked_div(length).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overhead_does_not_count_as_response_bytes() {
        let mut progress = ResponseProgress::new(3_000, 22);
        assert_eq!(progress.arrived(3_000), 0);
        // A hundred frames of 1,000 bytes, accepted by TLS and not sent.
        progress.accepted(100_900, 100_000);
        assert_eq!((progress.arrived(0), progress.arrived(3_000)), (0, 0));
        let end = 3_000 + 100_900 + 7 * 22;
        assert_eq!((progress.arrived(end), progress.arrived(end + 1)), (100_000, 100_000));
        // Then frames of one byte.
        for number in 1..=1_000 {
            progress.accepted(10, 100_000 + number);
        }
        assert!(progress.points.len() <= MAX_POINTS);
        for number in [1, 10, 500, 999, 1_000] {
            let arrived = progress.arrived(end + number * 32);
            assert!((100_000 + number).abs_diff(arrived) <= 1, "{number}: {arrived}");
        }
    }

    #[test]
    fn the_estimate_never_decreases() {
        let (mut progress, mut before, mut acknowledged) = (ResponseProgress::new(0, 22), 0, 0);
        for round in 1..10_000_u64 {
            progress.accepted(60_000, round * 59_000);
            acknowledged = (acknowledged + round % 7 * 20_000).min(progress.end.tcp);
            let arrived = progress.arrived(acknowledged);
            assert!(arrived >= before && arrived <= acknowledged, "{round}: {arrived}");
            before = arrived;
        }
    }

    #[test]
    fn the_actual_number_of_bytes_corrects_the_estimate() {
        for out in [90_000, 101_000, 110_000] {
            let mut progress = ResponseProgress::new(0, 22);
            progress.accepted(50_000, 50_000);
            progress.accepted(50_000, 100_000);
            progress.record_sent(out);
            assert_eq!((progress.arrived(out - 1) < 100_000, progress.arrived(out)), (true, 100_000));
            progress.accepted(100, 100_100);
            assert_eq!(progress.arrived(out + 122), 100_100);
        }
    }
}
