//! Metrics for Prometheus, on the admin listener. `docs/metrics.md` lists them. No client chooses the value of a label.

mod table;
mod per_worker;
mod process;
mod registry;
mod traffic;

pub(crate) use registry::Metrics;
pub(crate) use table::MetricTable;
pub(crate) use traffic::{
    CompletedRequest, Outcome, Protocol, Responder, SiteCounters, UpstreamCounters, WorkerCounters,
};
