//! Trace export to an OpenTelemetry collector: one span per sampled request, exported when the request ends.
//!
//! Without the feature `otel` nothing is exported, and `log.otlp` is refused.

#[cfg(not(feature = "otel"))]
mod disabled;
#[cfg(feature = "otel")]
mod otlp;
mod span;

#[cfg(not(feature = "otel"))]
pub(crate) use disabled::TraceExporter;
#[cfg(feature = "otel")]
pub(crate) use otlp::TraceExporter;
pub(crate) use span::{EndedSpan, StartedSpan};
