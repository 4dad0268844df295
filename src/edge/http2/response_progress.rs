//! How much of answers lies before which byte of the wire. What has arrived is told in bytes of the wire, of which
//! frames and TLS are a part; between two milestones it is taken to be spread evenly.

use std::collections::VecDeque;

use rustls::{ServerConnection, SupportedCipherSuite};

/// The largest payload of a TLS record, in bytes (RFC 8446 section 5.1).
const RECORD: usize = 16 * 1024;
/// More milestones are not kept: of those between the first and the last every other one goes.
const MOST: usize = 16;

/// What TLS puts around a record: its header, an authentication tag, and what the version and the cipher need (RFC 8446
/// section 5.2; RFC 5288 section 3; RFC 7905 section 2).
pub(crate) fn around_a_record(tls: &ServerConnection) -> u64 {
    const HEADER_AND_TAG: u64 = 5 + 16;
    HEADER_AND_TAG
        + match tls.negotiated_cipher_suite() {
            Some(SupportedCipherSuite::Tls12(suite)) => {
                suite.aead_alg.key_block_shape().explicit_nonce_len as u64
            }
            // The kind of what is within.
            Some(SupportedCipherSuite::Tls13(_)) | None => 1,
        }
}

/// Where something ends.
#[derive(Debug, Clone, Copy)]
struct Milestone {
    /// In bytes of the wire,
    wire: u64,
    /// and of answers.
    answers: u64,
}

#[derive(Debug)]
pub(crate) struct ResponseProgress {
    all: VecDeque<Milestone>,
    /// The end of all that TLS has taken.
    end: Milestone,
    /// What TLS puts around a record.
    around: u64,
}

impl ResponseProgress {
    /// From here on, as seen on the wire.
    pub(crate) fn new(wire: u64, around: u64) -> Self {
        Self { all: VecDeque::new(), end: Milestone { wire, answers: 0 }, around }
    }

    /// TLS has accepted `count` bytes; `answers` is the total number of response bytes so far.
    pub(crate) fn taken(&mut self, count: usize, answers: u64) {
        if self.all.is_empty() {
            self.all.push_back(self.end);
        }
        let wire = self.end.wire + count as u64 + self.around * count.div_ceil(RECORD) as u64;
        self.end = Milestone { wire, answers };
        self.all.push_back(self.end);
        if self.all.len() > MOST {
            let (mut index, last) = (0, self.all.len() - 1);
            self.all.retain(|_| {
                let is_kept = index % 2 == 0 || index == last;
                index += 1;
                is_kept
            });
        }
    }

    /// All of it is on the wire, which ends here: that is not reckoned but known.
    pub(crate) fn record_sent(&mut self, wire: u64) {
        self.end.wire = wire;
        for milestone in &mut self.all {
            milestone.wire = milestone.wire.min(wire);
        }
        if let Some(last) = self.all.back_mut() {
            last.wire = wire;
        }
    }

    /// How much of answers has arrived when so much of the wire has been acknowledged.
    pub(crate) fn arrived(&mut self, acknowledged: u64) -> u64 {
        while self.all.get(1).is_some_and(|next| next.wire <= acknowledged) {
            self.all.pop_front();
        }
        let Some(first) = self.all.front() else { return self.end.answers };
        let next = self.all.get(1).unwrap_or(first);
        let (length, answers) = (next.wire - first.wire, next.answers - first.answers);
        let part = acknowledged.saturating_sub(first.wire).min(length);
        // Of what TLS takes at once and its system takes ahead, no product comes near the end of the numbers.
        first.answers + (answers * part).checked_div(length).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_is_told_without_what_is_around_it() {
        let mut milestones = ResponseProgress::new(3_000, 22);
        assert_eq!(milestones.arrived(3_000), 0);
        // A hundred frames of 1,000 bytes, all in TLS and none of it on the wire.
        milestones.taken(100_900, 100_000);
        assert_eq!((milestones.arrived(0), milestones.arrived(3_000)), (0, 0));
        let end = 3_000 + 100_900 + 7 * 22;
        assert_eq!((milestones.arrived(end), milestones.arrived(end + 1)), (100_000, 100_000));
        // Then frames of one byte.
        for number in 1..=1_000 {
            milestones.taken(10, 100_000 + number);
        }
        assert!(milestones.all.len() <= MOST);
        for number in [1, 10, 500, 999, 1_000] {
            let arrived = milestones.arrived(end + number * 32);
            assert!((100_000 + number).abs_diff(arrived) <= 1, "{number}: {arrived}");
        }
    }

    #[test]
    fn what_arrives_never_grows_less_while_it_goes_out() {
        let (mut milestones, mut before, mut acknowledged) = (ResponseProgress::new(0, 22), 0, 0);
        for round in 1..10_000_u64 {
            milestones.taken(60_000, round * 59_000);
            acknowledged = (acknowledged + round % 7 * 20_000).min(milestones.end.wire);
            let arrived = milestones.arrived(acknowledged);
            assert!(arrived >= before && arrived <= acknowledged, "{round}: {arrived}");
            before = arrived;
        }
    }

    #[test]
    fn what_is_known_counts_more_than_what_is_reckoned() {
        for out in [90_000, 101_000, 110_000] {
            let mut milestones = ResponseProgress::new(0, 22);
            milestones.taken(50_000, 50_000);
            milestones.taken(50_000, 100_000);
            milestones.record_sent(out);
            assert_eq!((milestones.arrived(out - 1) < 100_000, milestones.arrived(out)), (true, 100_000));
            milestones.taken(100, 100_100);
            assert_eq!(milestones.arrived(out + 122), 100_100);
        }
    }
}
