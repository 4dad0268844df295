//! All metrics that the gateway counts itself, and their text form.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::text;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::base::clock;
use crate::observe::metrics::per_worker::{DurationHistogram, PerWorker, WorkerCounter};
use crate::observe::metrics::process::ProcessCollector;
use crate::observe::metrics::table::{Metric, MetricTable};

/// Labels of `imis_gateway_build_info`.
const BUILD: &[(&str, &str)] = &[
    ("version", env!("CARGO_PKG_VERSION")),
    ("revision", env!("IMIS_GATEWAY_REVISION")),
    ("rustc", env!("IMIS_GATEWAY_RUSTC")),
];

/// Every metric that is counted while the gateway runs. Clones share them. The label `site` is the first host of a
/// site; requests for no site have an empty one.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(super) requests: Metric<4, PerWorker<WorkerCounter>>,
    pub(super) request_duration: Metric<2, PerWorker<DurationHistogram>>,
    pub(super) response_bytes: Metric<1, PerWorker<WorkerCounter>>,
    pub(super) request_ends: Metric<2, PerWorker<WorkerCounter>>,
    pub(super) requests_in_flight: Metric<0, PerWorker<Gauge>>,
    pub(super) upstream_connections: Metric<2, PerWorker<WorkerCounter>>,
    pub(super) connections_accepted: Metric<1>,
    pub(super) connections_rejected: Metric<0, PerWorker<WorkerCounter>>,
    pub(super) tls_handshakes: Metric<1, PerWorker<WorkerCounter>>,
    pub(crate) failures: Metric<2>,
    pub(crate) recognitions: Metric<3>,
    pub(crate) identity_cache: Metric<2>,
    pub(crate) identity_cache_entries: Metric<1, Gauge>,
    pub(crate) sign_outs: Metric<1>,
    pub(crate) decisions: Metric<3>,
    pub(crate) tokens: Metric<2>,
    pub(crate) zendesk_refusals: Metric<2>,
    acme_orders: Metric<2>,
    reloads: Metric<2>,
    last_reload_successful: Metric<0, Gauge>,
    last_successful_reload: Metric<0, Gauge>,
    registry: Arc<Registry>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut table = MetricTable::default();
        table.0.register_collector(Box::new(ProcessCollector { start_time: clock::unix_now() }));
        table.0.register(
            "imis_gateway_build",
            "Version, commit and compiler of the running program",
            Info::new(BUILD),
        );
        Self {
            requests: table.add(
                "requests",
                ["site", "by", "protocol", "code"],
                "Requests by responder (imis or gateway), protocol and status code; 499 means that the client left first",
            ),
            request_duration: table.add(
                "request_duration_seconds",
                ["site", "by"],
                "Time from the head of a request to the end of its response",
            ),
            response_bytes: table.add(
                "response_bytes",
                ["site"],
                "Bytes of response bodies sent to clients",
            ),
            request_ends: table.add(
                "request_ends",
                ["site", "end"],
                "Requests by how they ended: complete, client_gone or upstream_broke",
            ),
            requests_in_flight: table.add("requests_in_flight", [], "Requests that have not ended yet"),
            upstream_connections: table.add(
                "upstream_connections",
                ["site", "result"],
                "Connections to iMIS that requests were sent on: opened, reused or failed",
            ),
            connections_accepted: table.add(
                "connections_accepted",
                ["worker"],
                "Client connections that were accepted, by worker",
            ),
            connections_rejected: table.add(
                "connections_rejected",
                [],
                "Client connections that were rejected because a limit was reached",
            ),
            tls_handshakes: table.add(
                "tls_handshakes",
                ["result"],
                "TLS handshakes with clients: full, resumed, failed or timed_out",
            ),
            failures: table.add(
                "failures",
                ["site", "failure"],
                "Requests that were answered with an error page of the gateway, by reason",
            ),
            recognitions: table.add(
                "recognitions",
                ["site", "method", "result"],
                "Results of asking iMIS who a visitor is, by method: person, nobody or broken",
            ),
            identity_cache: table.add(
                "identity_cache",
                ["site", "result"],
                "Lookups in the identity cache: hit, or miss if iMIS had to be asked",
            ),
            identity_cache_entries: table.gauge(
                "identity_cache_entries",
                ["site"],
                "Approximate number of entries in the identity cache",
            ),
            sign_outs: table.add(
                "sign_outs_seen",
                ["site"],
                "Sign-outs of iMIS that removed a session from the identity cache",
            ),
            decisions: table.add(
                "decisions",
                ["app", "decision", "reason"],
                "Sign-in decisions: signed-in, messaging, refused (with the reason) or broken",
            ),
            tokens: table.add(
                "tokens",
                ["app", "secret"],
                "Tokens for Zendesk, by the secret that signed them",
            ),
            zendesk_refusals: table.add(
                "zendesk_refusals",
                ["app", "kind"],
                "Sign-ins that Zendesk refused, by the kind of its error message",
            ),
            acme_orders: table.add(
                "acme_orders",
                ["site", "result"],
                "Certificate orders by result: good or failed; only for sites with acme",
            ),
            reloads: table.add("reloads", ["by", "result"], "Reloads by trigger and result"),
            last_reload_successful: table.gauge(
                "last_reload_successful",
                [],
                "1 if the last reload succeeded, both of the configuration and of the files it names; otherwise 0",
            ),
            last_successful_reload: table.gauge(
                "last_successful_reload_timestamp_seconds",
                [],
                "Time of the last successful reload, or of the start",
            ),
            registry: Arc::new(table.0),
        }
    }

    /// Creates series at zero, so that `rate()` sees the first increment.
    pub(crate) fn create_series<'a>(
        &self,
        sites: impl Iterator<Item = &'a str>,
        failures: &[&str],
        apps: impl Iterator<Item = &'a str>,
        refusals: &[&str],
    ) {
        for site in sites {
            for failure in failures {
                self.failures.get([site, failure]);
            }
        }
        for app in apps {
            for decision in ["signed-in", "broken"] {
                self.decisions.get([app, decision, ""]);
            }
            for kind in refusals {
                self.zendesk_refusals.get([app, kind]);
            }
        }
    }

    /// Creates the series of a site with ACME at zero.
    pub(crate) fn create_acme_series(&self, site: &str) {
        for is_good in [true, false] {
            self.acme_orders.get([site, result_name(is_good)]);
        }
    }

    pub(crate) fn acme_order(&self, site: &str, is_good: bool) {
        self.acme_orders.inc([site, result_name(is_good)]);
    }

    /// A reload has ended. `trigger`: None if it is not counted: at the start, or when changed files are good again.
    /// `all_good`: no earlier failure remains.
    pub(crate) fn reloaded(&self, trigger: Option<&'static str>, is_good: bool, all_good: bool) {
        if let Some(trigger) = trigger {
            self.reloads.inc([trigger, result_name(is_good)]);
        }
        self.last_reload_successful.set([], all_good);
        if is_good {
            self.last_successful_reload.set([], clock::unix_now_signed());
        }
    }

    /// Everything in the text format of OpenMetrics 1.0. `gauges`: those that are read from the running gateway at each
    /// scrape.
    pub(crate) fn encode(&self, gauges: &MetricTable) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode_registry(&mut out, &gauges.0)?;
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

fn result_name(is_good: bool) -> &'static str {
    if is_good { "good" } else { "failed" }
}
