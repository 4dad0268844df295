//! Counters of requests and connections. A worker looks its series up once, and then only adds to them.

use std::cell::OnceCell;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::observe::metrics::families::{Counters, Labels, labels, register, register_in};
use crate::observe::metrics::per_worker::{DurationHistogram, PerWorker, WorkerCounter};

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

type WorkerFamily<const N: usize> = Family<Labels<N>, PerWorker<WorkerCounter>>;

/// Every counter of requests and connections. The name of a site is its first host; requests for no site have an empty one.
#[derive(Debug, Clone)]
pub(crate) struct Traffic {
    requests: WorkerFamily<4>,
    durations: Family<Labels<2>, PerWorker<DurationHistogram>>,
    response_bytes: WorkerFamily<1>,
    request_ends: WorkerFamily<2>,
    requests_in_flight: PerWorker<Gauge>,
    upstream_connections: WorkerFamily<2>,
    connections_accepted: Counters<1>,
    connections_rejected: PerWorker<WorkerCounter>,
    tls_handshakes: WorkerFamily<1>,
}

impl Traffic {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        Self {
            requests: register(
                registry,
                "requests",
                "Requests by responder (imis or gateway), protocol and status code; 499 means that the client left first",
            ),
            durations: register_in(
                registry,
                "request_duration",
                "Time from the head of a request to the end of its response",
                Unit::Seconds,
            ),
            response_bytes: register_in(
                registry,
                "response",
                "Bytes of response bodies sent to clients",
                Unit::Bytes,
            ),
            request_ends: register(
                registry,
                "request_ends",
                "Requests by how they ended: complete, client_gone or upstream_broke",
            ),
            requests_in_flight: register(registry, "requests_in_flight", "Requests that have not ended yet"),
            upstream_connections: register(
                registry,
                "upstream_connections",
                "Connections to iMIS that requests were sent on: opened, reused or failed",
            ),
            connections_accepted: register(
                registry,
                "connections_accepted",
                "Client connections that were accepted, by worker",
            ),
            connections_rejected: register(
                registry,
                "connections_rejected",
                "Client connections that were rejected because a limit was reached",
            ),
            tls_handshakes: register(
                registry,
                "tls_handshakes",
                "TLS handshakes with clients: full, resumed, failed or timed_out",
            ),
        }
    }

    /// The series of a site that one worker counts in.
    pub(crate) fn of_site(&self, site: &str, worker: usize) -> SiteCounters {
        let duration = |by| {
            let labels = labels([("site", site), ("by", by)]);
            self.durations.get_or_create(&labels).of(worker)
        };
        let end = |outcome| {
            let labels = labels([("site", site), ("end", outcome)]);
            self.request_ends.get_or_create(&labels).of(worker)
        };
        SiteCounters {
            by_status: std::iter::repeat_with(OnceCell::new).take(STATUSES * 4).collect(),
            requests: self.requests.clone(),
            site: site.to_owned(),
            worker,
            durations: RESPONDERS.map(duration),
            body_bytes: self.response_bytes.get_or_create(&labels([("site", site)])).of(worker),
            outcomes: OUTCOMES.map(end),
        }
    }

    /// The series about a site's connections to iMIS that one worker counts in.
    pub(crate) fn of_upstream(&self, site: &str, worker: usize) -> UpstreamCounters {
        let counter = |result| {
            let labels = labels([("site", site), ("result", result)]);
            self.upstream_connections.get_or_create(&labels).of(worker)
        };
        UpstreamCounters { opened: counter("opened"), reused: counter("reused"), failed: counter("failed") }
    }

    /// The series that one worker counts in for all sites.
    pub(crate) fn of_worker(&self, worker: usize) -> WorkerCounters {
        let handshakes = |result| self.tls_handshakes.get_or_create(&labels([("result", result)])).of(worker);
        let accepted = labels([("worker", worker.to_string().as_str())]);
        WorkerCounters {
            connections_accepted: self.connections_accepted.get_or_create_owned(&accepted),
            connections_rejected: self.connections_rejected.of(worker),
            requests_in_flight: self.requests_in_flight.of(worker),
            full_handshakes: handshakes("full"),
            resumed_handshakes: handshakes("resumed"),
            failed_handshakes: handshakes("failed"),
            timed_out_handshakes: handshakes("timed_out"),
        }
    }
}

/// What one worker counts about the requests for one site.
#[derive(Debug)]
pub(crate) struct SiteCounters {
    /// By responder, protocol and status. A series is looked up when it is first needed.
    by_status: Box<[OnceCell<WorkerCounter>]>,
    requests: WorkerFamily<4>,
    site: String,
    worker: usize,
    /// By responder.
    durations: [DurationHistogram; 2],
    body_bytes: WorkerCounter,
    outcomes: [WorkerCounter; 3],
}

impl SiteCounters {
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
            let labels = labels([
                ("site", self.site.as_str()),
                ("by", RESPONDERS[responder as usize]),
                ("protocol", PROTOCOLS[protocol as usize]),
                ("code", &code),
            ]);
            self.requests.get_or_create(&labels).of(self.worker)
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

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text;

    #[test]
    fn the_counts_of_all_workers_are_added_up() {
        let mut registry = Registry::with_prefix("imis_gateway");
        let traffic = Traffic::register(&mut registry);
        for worker in 0..3 {
            let site = traffic.of_site("members.example.org", worker);
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
                traffic.of_upstream("members.example.org", worker).reused.inc();
            }
        }
        let mut out = String::new();
        text::encode(&mut out, &registry).unwrap();
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
