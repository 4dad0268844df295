//! What operators see of the running gateway: metrics, log, audit file and traces.

pub(crate) mod metrics;
pub(crate) mod audit;
pub(crate) mod trace_export;
pub mod log;
