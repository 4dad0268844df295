//! Spans, and which requests get one.

use std::time::SystemTime;

use crate::base::trace_context::TraceParent;
#[cfg(feature = "otel")]
use crate::base::{clock, request_id::RequestId};

/// The span of a request that is exported.
#[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "only the exporter reads it"))]
pub(crate) struct StartedSpan {
    /// The span's own IDs, sampled: the `traceparent` for iMIS.
    pub(crate) traceparent: TraceParent,
    /// The span of the sender of the request, if it sent a `traceparent`.
    pub(crate) parent_span_id: Option<u64>,
    pub(crate) start: SystemTime,
}

/// What is known when a request has ended.
#[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "only the exporter reads it"))]
pub(crate) struct EndedSpan<'a> {
    pub(crate) method: &'a str,
    pub(crate) scheme: &'static str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    /// `1.1` or `2`.
    pub(crate) protocol_version: &'a str,
    pub(crate) client: &'a str,
    pub(crate) request_id: &'a str,
    pub(crate) status: u16,
    pub(crate) outcome: &'static str,
    /// Why the gateway answered with an error page.
    pub(crate) failure: Option<&'static str>,
    pub(crate) body_bytes: u64,
}

/// Trace export cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up trace export: {0}")]
pub(crate) struct ExportError(pub(crate) String);

/// Starts a span if the request is sampled. The sender decides with the flag of its `traceparent`, if a trusted proxy
/// passed it on. For every other request chance decides, so that a client cannot choose to be sampled.
#[cfg(feature = "otel")]
pub(crate) fn start(
    traceparent: Option<&[u8]>,
    is_trusted: bool,
    request_id: RequestId,
    sample_percent: u64,
) -> Option<Box<StartedSpan>> {
    let own = TraceParent::generate(request_id);
    let parent = traceparent.and_then(TraceParent::parse);
    let is_sampled = match parent {
        Some(parent) if is_trusted => parent.is_sampled,
        // Trace IDs are evenly distributed.
        Some(_) | None => (own.trace_id & u128::from(u64::MAX)) * 100 < u128::from(sample_percent) << 64,
    };
    is_sampled.then(|| {
        let trace_id = parent.map_or(own.trace_id, |parent| parent.trace_id);
        Box::new(StartedSpan {
            traceparent: TraceParent { trace_id, is_sampled, ..own },
            parent_span_id: parent.map(|parent| parent.span_id),
            start: clock::now(),
        })
    })
}

#[cfg(feature = "otel")]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trusted_sender_decides_and_everybody_else_is_sampled_by_chance() {
        let wanted = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".as_slice();
        let unwanted = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00".as_slice();
        let is_sampled = |traceparent, is_trusted, percent| {
            start(traceparent, is_trusted, RequestId::new(1, 1), percent).is_some()
        };
        assert!(is_sampled(Some(wanted), true, 0) && !is_sampled(Some(unwanted), true, 100));
        assert!(!is_sampled(Some(wanted), false, 0) && is_sampled(Some(unwanted), false, 100));
        assert!(!is_sampled(None, true, 0) && is_sampled(None, false, 100));

        let span = start(Some(wanted), true, RequestId::new(1, 1), 0).unwrap();
        assert_eq!(span.traceparent.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(span.parent_span_id, Some(0x00f0_67aa_0ba9_02b7));
        assert!(span.traceparent.is_sampled && span.traceparent.span_id != 0x00f0_67aa_0ba9_02b7);
    }

    #[test]
    fn the_sample_has_the_configured_size() {
        let sampled = |percent| {
            (0..10_000)
                .filter(|count| start(None, false, RequestId::new(3, *count), percent).is_some())
                .count()
        };
        assert_eq!((sampled(0), sampled(100)), (0, 10_000));
        assert!((900..1100).contains(&sampled(10)), "{}", sampled(10));
    }
}
