//! W3C Trace Context (level 1): a request that has a `traceparent` keeps it, for iMIS and in the log; one that has none is given one where
//! that is configured.

use crate::base::request_id::RequestId;

/// `00-` trace id `-` parent id `-` flags: 55 characters.
const LENGTH: usize = 55;

/// Of a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parent {
    trace_id: u128,
    span_id: u64,
    /// Whoever began the trace wants it told.
    pub(crate) is_sampled: bool,
}

/// The trace id of a `traceparent`, if it is one.
pub(crate) fn id(traceparent: &[u8]) -> Option<&str> {
    parts(traceparent).map(|[id, _, _]| id)
}

/// What a `traceparent` says, if it is one.
pub(crate) fn parent(traceparent: &[u8]) -> Option<Parent> {
    let [trace_id, span_id, flags] = parts(traceparent)?;
    Some(Parent {
        trace_id: u128::from_str_radix(trace_id, 16).ok()?,
        span_id: u64::from_str_radix(span_id, 16).ok()?,
        is_sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
    })
}

/// Trace id, parent id, flags.
fn parts(traceparent: &[u8]) -> Option<[&str; 3]> {
    let text = std::str::from_utf8(traceparent).ok()?;
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let mut parts = text.split('-');
    let (version, id, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // A later version may have more behind; `ff` is none (section 3.2.2.1).
    let ends = if version == "00" { text.len() == LENGTH } else { version != "ff" };
    let good = hex(version, 2) && hex(id, 32) && hex(parent, 16) && hex(flags, 2) && ends;
    (good && id.bytes().any(|b| b != b'0') && parent.bytes().any(|b| b != b'0'))
        .then_some([id, parent, flags])
}

/// The gateway's own part of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) trace_id: u128,
    pub(crate) span_id: u64,
    /// Of whom the request came from.
    pub(crate) parent_id: Option<u64>,
}

impl Context {
    /// Of a request that brings none.
    pub(crate) fn of(incident: RequestId) -> Self {
        Self { trace_id: trace_of(incident), span_id: span_of(incident), parent_id: None }
    }

    /// Of one that does.
    pub(crate) fn within(parent: Parent, incident: RequestId) -> Self {
        Self { trace_id: parent.trace_id, span_id: span_of(incident), parent_id: Some(parent.span_id) }
    }

    /// Itself, if it is one of so many in a hundred.
    pub(crate) fn is_among(self, percent: u64) -> Option<Self> {
        let low = self.trace_id & u128::from(u64::MAX);
        (low * 100 < u128::from(percent) << 64).then_some(self)
    }

    /// The `traceparent` of what this leads to.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        let line = format!("traceparent: 00-{:032x}-{:016x}-01\r\n", self.trace_id, self.span_id);
        out.extend_from_slice(line.as_bytes());
    }
}

/// The trace id of a request that brings none: its incident number, spread so that whoever samples by it samples evenly.
pub(crate) fn id_of(incident: RequestId) -> String {
    format!("{:032x}", trace_of(incident))
}

fn trace_of(incident: RequestId) -> u128 {
    let (worker, count) = incident.parts();
    u128::from(spread(worker ^ 0x5bd1_e995)) << 64 | u128::from(spread(worker.rotate_left(24) ^ count))
}

fn span_of(incident: RequestId) -> u64 {
    let (worker, count) = incident.parts();
    spread(count.wrapping_add(1) ^ worker).max(1)
}

/// The `traceparent` that such a request is sent on with. Not sampled: whether it is, is for others to say.
pub(crate) fn write(incident: RequestId, out: &mut Vec<u8>) {
    let line = format!("traceparent: 00-{}-{:016x}-00\r\n", id_of(incident), span_of(incident));
    out.extend_from_slice(line.as_bytes());
}

/// SplitMix64's last step: a bijection.
fn spread(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_told_from_what_is_none() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(id(good.as_bytes()), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(id(format!("01{}-more", &good[2..]).as_bytes()), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for odd in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-011",
        ] {
            assert_eq!(id(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn a_part_of_a_trace_stays_in_it_and_chance_is_even() {
        let of = |text: &str| parent(text.as_bytes()).unwrap();
        let told = of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert!(told.is_sampled && !of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02").is_sampled);
        let mut out = Vec::new();
        let own = Context::within(told, RequestId::new(1, 1));
        own.write(&mut out);
        let line = String::from_utf8(out).unwrap();
        let again = of(line.strip_prefix("traceparent: ").unwrap().trim_end());
        assert!(again.is_sampled && again.trace_id == told.trace_id && again.span_id == own.span_id);
        assert_eq!(own.parent_id, Some(0x00f0_67aa_0ba9_02b7));
        let among = |percent| {
            (0..10_000)
                .filter(|count| Context::of(RequestId::new(3, *count)).is_among(percent).is_some())
                .count()
        };
        assert_eq!((among(0), among(100)), (0, 10_000));
        assert!((900..1100).contains(&among(10)), "{}", among(10));
    }

    #[test]
    fn what_is_made_is_one_and_each_request_has_its_own() {
        let mut seen = std::collections::HashSet::new();
        for count in 0..1000 {
            let mut out = Vec::new();
            write(RequestId::new(7, count), &mut out);
            let line = std::str::from_utf8(&out).unwrap().trim_end();
            let value = line.strip_prefix("traceparent: ").unwrap();
            assert_eq!(id(value.as_bytes()), Some(id_of(RequestId::new(7, count)).as_str()), "{value}");
            assert!(seen.insert(value.to_owned()));
        }
    }
}
