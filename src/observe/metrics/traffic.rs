//! Counters of requests and connections. A worker looks its series up once, and then only adds to them.

use std::cell::OnceCell;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::observe::metrics::per_worker::{DurationHistogram, PerWorker, WorkerCounter};
use crate::observe::metrics::registry::Metrics;
use crate::observe::metrics::table::Metric;

/// Status codes are counted from 100 to 599.
const MIN_STATUS: u16 = 100;
const STATUSES: usize = 500;

/// The side that produced the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Responder {
    Imis,
    /// A page of the gateway, or a sign-in.
    Gateway,
}

/// The protocol of the client connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The whole response was sent.
    Complete,
    /// The client left before that.
    ClientGone,
    /// The upstream failed within the body of the response.
    UpstreamBroke,
}

/// Values of labels, in the order of the variants.
const RESPONDERS: [&str; 2] = ["imis", "gateway"];
const PROTOCOLS: [&str; 2] = ["h1", "h2"];
const OUTCOMES: [&str; 3] = ["complete", "client_gone", "upstream_broke"];

impl Outcome {
    /// For the log.
    pub(crate) fn name(self) -> &'static str {
        OUTCOMES[self as usize]
    }
}

/// What the metrics need to know about a request that has ended.
#[derive(Debug)]
pub(crate) struct CompletedRequest {
    pub(crate) responder: Responder,
    pub(crate) protocol: Protocol,
    pub(crate) status: u16,
    pub(crate) duration: Duration,
    /// Bytes of the body that were sent.
    pub(crate) body_bytes: u64,
    pub(crate) outcome: Outcome,
}

/// What one worker counts about the requests for one site.
#[derive(Debug)]
pub(crate) struct SiteCounters {
    /// By responder, protocol and status. A series is looked up when it is first needed.
    by_status: Box<[OnceCell<WorkerCounter>]>,
    requests: Metric<4, PerWorker<WorkerCounter>>,
    site: String,
    worker: usize,
    /// By responder.
    durations: [DurationHistogram; 2],
    body_bytes: WorkerCounter,
    outcomes: [WorkerCounter; 3],
}

impl SiteCounters {
    /// `site`: the name of a site, or empty for requests that belong to none.
    pub(crate) fn new(metrics: &Metrics, site: &str, worker: usize) -> Self {
        Self {
            by_status: std::iter::repeat_with(OnceCell::new).take(STATUSES * 4).collect(),
            requests: metrics.requests.clone(),
            site: site.to_owned(),
            worker,
            durations: RESPONDERS.map(|by| metrics.request_duration.get([site, by]).of(worker)),
            body_bytes: metrics.response_bytes.get([site]).of(worker),
            outcomes: OUTCOMES.map(|outcome| metrics.request_ends.get([site, outcome]).of(worker)),
        }
    }

    pub(crate) fn count(&self, request: &CompletedRequest) {
        self.of_status(request).inc();
        self.durations[request.responder as usize].observe(request.duration);
        self.body_bytes.inc_by(request.body_bytes);
        self.outcomes[request.outcome as usize].inc();
    }

    fn of_status(&self, request: &CompletedRequest) -> &WorkerCounter {
        let CompletedRequest { responder, protocol, status, .. } = *request;
        let status = usize::from(status.saturating_sub(MIN_STATUS)).min(STATUSES - 1);
        let index = (responder as usize * 2 + protocol as usize) * STATUSES + status;
        self.by_status[index].get_or_init(|| {
            let code = (usize::from(MIN_STATUS) + status).to_string();
            let (by, protocol) = (RESPONDERS[responder as usize], PROTOCOLS[protocol as usize]);
            self.requests.get([&self.site, by, protocol, &code]).of(self.worker)
        })
    }
}

/// What one worker counts about its connections to one site's iMIS.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamCounters {
    pub(crate) opened: WorkerCounter,
    pub(crate) reused: WorkerCounter,
    pub(crate) failed: WorkerCounter,
}

impl UpstreamCounters {
    pub(crate) fn new(metrics: &Metrics, site: &str, worker: usize) -> Self {
        let counter = |result| metrics.upstream_connections.get([site, result]).of(worker);
        Self { opened: counter("opened"), reused: counter("reused"), failed: counter("failed") }
    }
}

/// What one worker counts about client connections and requests.
#[derive(Debug, Clone)]
pub(crate) struct WorkerCounters {
    pub(crate) connections_accepted: Counter,
    pub(crate) connections_rejected: WorkerCounter,
    pub(crate) requests_in_flight: Gauge,
    pub(crate) full_handshakes: WorkerCounter,
    pub(crate) resumed_handshakes: WorkerCounter,
    pub(crate) failed_handshakes: WorkerCounter,
    pub(crate) timed_out_handshakes: WorkerCounter,
}

impl WorkerCounters {
    pub(crate) fn new(metrics: &Metrics, worker: usize) -> Self {
        let handshakes = |result| metrics.tls_handshakes.get([result]).of(worker);
        Self {
            connections_accepted: metrics.connections_accepted.get([&worker.to_string()]),
            connections_rejected: metrics.connections_rejected.get([]).of(worker),
            requests_in_flight: metrics.requests_in_flight.get([]).of(worker),
            full_handshakes: handshakes("full"),
            resumed_handshakes: handshakes("resumed"),
            failed_handshakes: handshakes("failed"),
            timed_out_handshakes: handshakes("timed_out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::table::MetricTable;

    #[test]
    fn the_counts_of_all_workers_are_added_up() {
        let metrics = Metrics::new();
        for worker in 0..3 {
            let site = SiteCounters::new(&metrics, "members.example.org", worker);
            for milliseconds in [0, 1, 2, 40, 70_000] {
                site.count(&CompletedRequest {
                    responder: Responder::Imis,
                    protocol: Protocol::Http2,
                    status: 200,
                    duration: Duration::from_millis(milliseconds),
                    body_bytes: 10,
                    outcome: Outcome::Complete,
                });
            }
            // A reload looks the series up again.
            for _ in 0..2 {
                UpstreamCounters::new(&metrics, "members.example.org", worker).reused.inc();
            }
        }
        let out = metrics.encode(&MetricTable::default()).unwrap();
        for line in [
            "imis_gateway_requests_total{site=\"members.example.org\",by=\"imis\",protocol=\"h2\",code=\"200\"} 15",
            "imis_gateway_response_bytes_total{site=\"members.example.org\"} 150",
            "imis_gateway_request_ends_total{site=\"members.example.org\",end=\"complete\"} 15",
            "imis_gateway_request_ends_total{site=\"members.example.org\",end=\"client_gone\"} 0",
            "imis_gateway_upstream_connections_total{site=\"members.example.org\",result=\"reused\"} 6",
            "imis_gateway_request_duration_seconds_bucket{le=\"0.001\",site=\"members.example.org\",by=\"imis\"} 6",
            "imis_gateway_request_duration_seconds_bucket{le=\"0.005\",site=\"members.example.org\",by=\"imis\"} 9",
            "imis_gateway_request_duration_seconds_bucket{le=\"60.0\",site=\"members.example.org\",by=\"imis\"} 12",
            "imis_gateway_request_duration_seconds_bucket{le=\"+Inf\",site=\"members.example.org\",by=\"imis\"} 15",
        ] {
            assert!(out.lines().any(|own| own == line), "{line}\n{out}");
        }
    }
}
