//! What operators observe: metrics, the log, the audit record and exported traces.

pub(crate) mod metrics;
pub(crate) mod audit;
pub(crate) mod trace_export;
pub mod log;
