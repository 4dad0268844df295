//! W3C Trace Context (level 1): the header `traceparent`, parsed and generated.

use crate::base::request_id::RequestId;

/// `00-` trace ID `-` span ID `-` flags: 55 characters.
const LENGTH: usize = 55;

/// The value of a `traceparent` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceParent {
    pub(crate) trace_id: u128,
    pub(crate) span_id: u64,
    pub(crate) is_sampled: bool,
}

impl TraceParent {
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let hex = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let mut parts = text.split('-');
        let (version, trace_id, span_id, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // A later version may append fields; `ff` is invalid (section 3.2.2.1).
        let ends = if version == "00" { text.len() == LENGTH } else { version != "ff" };
        if !(ends && hex(version, 2) && hex(trace_id, 32) && hex(span_id, 16) && hex(flags, 2)) {
            return None;
        }
        let trace_id = u128::from_str_radix(trace_id, 16).ok().filter(|id| *id != 0)?;
        let span_id = u64::from_str_radix(span_id, 16).ok().filter(|id| *id != 0)?;
        Some(Self { trace_id, span_id, is_sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1 })
    }

    /// Derives a new value from the request ID. IDs are evenly distributed. It is not sampled.
    pub(crate) fn generate(request_id: RequestId) -> Self {
        let (worker, count) = request_id.parts();
        let high = u128::from(split_mix(worker ^ 0x5bd1_e995)) << 64;
        let low = u128::from(split_mix(worker.rotate_left(24) ^ count));
        let span_id = split_mix(count.wrapping_add(1) ^ worker).max(1);
        Self { trace_id: high | low, span_id, is_sampled: false }
    }

    /// Writes the header line.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let Self { trace_id, span_id, is_sampled } = *self;
        let line = format!("traceparent: 00-{trace_id:032x}-{span_id:016x}-{:02x}\r\n", u8::from(is_sampled));
        out.extend_from_slice(line.as_bytes());
    }
}

/// The output function of SplitMix64, a bijection.
fn split_mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE_ID: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;

    fn parse(value: &str) -> Option<TraceParent> {
        TraceParent::parse(value.as_bytes())
    }

    #[test]
    fn only_a_valid_traceparent_is_parsed() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parsed = TraceParent { trace_id: TRACE_ID, span_id: 0x00f0_67aa_0ba9_02b7, is_sampled: true };
        assert_eq!(parse(good), Some(parsed));
        assert_eq!(parse(&format!("01{}-more", &good[2..])), Some(parsed));
        assert!(!parse(&good.replace("-01", "-02")).unwrap().is_sampled);
        for invalid in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-011",
        ] {
            assert_eq!(parse(invalid), None, "{invalid}");
        }
    }

    #[test]
    fn generated_values_are_valid_and_differ() {
        let mut seen = std::collections::HashSet::new();
        for count in 0..1000 {
            let generated = TraceParent::generate(RequestId::new(7, count));
            for is_sampled in [false, true] {
                let traceparent = TraceParent { is_sampled, ..generated };
                let mut out = Vec::new();
                traceparent.write(&mut out);
                let line = std::str::from_utf8(&out).unwrap();
                let value = line.strip_prefix("traceparent: ").unwrap().strip_suffix("\r\n").unwrap();
                assert_eq!(parse(value), Some(traceparent), "{value}");
            }
            assert!(seen.insert(generated.trace_id) && seen.insert(generated.span_id.into()));
        }
    }
}
