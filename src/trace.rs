//! W3C Trace Context (level 1): a request that has a `traceparent` keeps it, for iMIS and in the log; one that has none is given one where
//! that is configured.

use crate::incident::Incident;

/// `00-` trace id `-` parent id `-` flags: 55 characters.
const LENGTH: usize = 55;

/// The trace id of a `traceparent`, if it is one.
pub(crate) fn id(traceparent: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(traceparent).ok()?;
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let mut parts = text.split('-');
    let (version, id, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // A later version may have more behind; `ff` is none (section 3.2.2.1).
    let ends = if version == "00" { text.len() == LENGTH } else { version != "ff" };
    let good = hex(version, 2) && hex(id, 32) && hex(parent, 16) && hex(flags, 2) && ends;
    (good && id.bytes().any(|b| b != b'0') && parent.bytes().any(|b| b != b'0')).then_some(id)
}

/// The trace id of a request that brings none: its incident number, spread so that whoever samples by it samples evenly.
pub(crate) fn id_of(incident: Incident) -> String {
    let (worker, count) = incident.parts();
    format!("{:016x}{:016x}", spread(worker ^ 0x5bd1_e995), spread(worker.rotate_left(24) ^ count))
}

/// The `traceparent` that such a request is sent on with. Not sampled: whether it is, is for others to say.
pub(crate) fn write(incident: Incident, out: &mut Vec<u8>) {
    let (worker, count) = incident.parts();
    let parent = spread(count.wrapping_add(1) ^ worker).max(1);
    out.extend_from_slice(format!("traceparent: 00-{}-{parent:016x}-00\r\n", id_of(incident)).as_bytes());
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
    fn what_is_made_is_one_and_each_request_has_its_own() {
        let mut seen = std::collections::HashSet::new();
        for count in 0..1000 {
            let mut out = Vec::new();
            write(Incident::new(7, count), &mut out);
            let line = std::str::from_utf8(&out).unwrap().trim_end();
            let value = line.strip_prefix("traceparent: ").unwrap();
            assert_eq!(id(value.as_bytes()), Some(id_of(Incident::new(7, count)).as_str()), "{value}");
            assert!(seen.insert(value.to_owned()));
        }
    }
}
