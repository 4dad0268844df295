//! All metrics that the gateway counts itself, and their text form.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::base::clock;
use crate::observe::metrics::families::{Counters, Labels, PREFIX, Snapshot, labels, register, register_in};
use crate::observe::metrics::process::ProcessCollector;
use crate::observe::metrics::traffic::Traffic;

/// Labels of `imis_gateway_build_info`.
const BUILD: &[(&str, &str)] = &[
    ("version", env!("CARGO_PKG_VERSION")),
    ("revision", env!("IMIS_GATEWAY_REVISION")),
    ("rustc", env!("IMIS_GATEWAY_RUSTC")),
];

/// Every metric that is counted while the gateway runs. Clones share them.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    pub(crate) traffic: Traffic,
    failures: Counters<2>,
    recognitions: Counters<3>,
    cache: Counters<2>,
    cache_entries: Family<Labels<1>, Gauge>,
    sign_outs: Counters<1>,
    decisions: Counters<3>,
    tokens: Counters<2>,
    zendesk_refusals: Counters<2>,
    acme_orders: Counters<2>,
    reloads: Counters<2>,
    last_reload_successful: Gauge,
    last_successful_reload: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut root = Registry::default();
        root.register_collector(Box::new(ProcessCollector { start_time: clock::unix_now() }));
        let registry = root.sub_registry_with_prefix(PREFIX);
        registry.register("build", "Version, commit and compiler of the running program", Info::new(BUILD));
        let metrics = Self {
            registry: Arc::default(),
            traffic: Traffic::register(registry),
            failures: register(
                registry,
                "failures",
                "Requests that were answered with an error page of the gateway, by reason",
            ),
            recognitions: register(
                registry,
                "recognitions",
                "Results of asking iMIS who a visitor is, by method: person, nobody or broken",
            ),
            cache: register(
                registry,
                "identity_cache",
                "Lookups in the identity cache: hit, or miss if iMIS had to be asked",
            ),
            cache_entries: register(
                registry,
                "identity_cache_entries",
                "Approximate number of entries in the identity cache",
            ),
            sign_outs: register(
                registry,
                "sign_outs_seen",
                "Sign-outs of iMIS that removed a session from the identity cache",
            ),
            decisions: register(
                registry,
                "decisions",
                "Sign-in decisions: signed-in, messaging, refused (with the reason) or broken",
            ),
            tokens: register(registry, "tokens", "Tokens for Zendesk, by the secret that signed them"),
            zendesk_refusals: register(
                registry,
                "zendesk_refusals",
                "Sign-ins that Zendesk refused, by the kind of its error message",
            ),
            acme_orders: register(
                registry,
                "acme_orders",
                "Certificate orders by result: good or failed; only for sites with acme",
            ),
            reloads: register(registry, "reloads", "Reloads by trigger and result"),
            last_reload_successful: register(
                registry,
                "last_reload_successful",
                "1 if the last reload succeeded, both of the configuration and of the files it names; otherwise 0",
            ),
            last_successful_reload: register_in(
                registry,
                "last_successful_reload_timestamp",
                "Time of the last successful reload, or of the start",
                Unit::Seconds,
            ),
        };
        Self { registry: Arc::new(root), ..metrics }
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
                drop(self.failures.get_or_create(&labels([("site", site), ("failure", failure)])));
            }
        }
        for app in apps {
            for decision in ["signed-in", "broken"] {
                drop(self.decisions.get_or_create(&decision_labels(app, decision, "")));
            }
            for kind in refusals {
                drop(self.zendesk_refusals.get_or_create(&labels([("app", app), ("kind", kind)])));
            }
        }
    }

    /// Creates the series of a site with ACME at zero.
    pub(crate) fn create_acme_series(&self, site: &str) {
        for result in ["good", "failed"] {
            drop(self.acme_orders.get_or_create(&labels([("site", site), ("result", result)])));
        }
    }

    pub(crate) fn failure(&self, site: &str, failure: &'static str) {
        self.failures.get_or_create(&labels([("site", site), ("failure", failure)])).inc();
    }

    pub(crate) fn decision(&self, app: &str, decision: &'static str, reason: &str) {
        self.decisions.get_or_create(&decision_labels(app, decision, reason)).inc();
    }

    pub(crate) fn token(&self, app: &str, secret: &'static str) {
        self.tokens.get_or_create(&labels([("app", app), ("secret", secret)])).inc();
    }

    pub(crate) fn zendesk_refusal(&self, app: &str, kind: &'static str) {
        self.zendesk_refusals.get_or_create(&labels([("app", app), ("kind", kind)])).inc();
    }

    pub(crate) fn acme_order(&self, site: &str, is_good: bool) {
        self.acme_orders.get_or_create(&labels([("site", site), ("result", result_name(is_good))])).inc();
    }

    /// A reload has ended. `trigger`: None if it is not counted: at the start, or when changed files are good again.
    /// `all_good`: no earlier failure remains.
    pub(crate) fn reloaded(&self, trigger: Option<&'static str>, is_good: bool, all_good: bool) {
        if let Some(trigger) = trigger {
            self.reloads.get_or_create(&labels([("by", trigger), ("result", result_name(is_good))])).inc();
        }
        self.last_reload_successful.set(all_good.into());
        if is_good {
            self.last_successful_reload.set(clock::unix_now_signed());
        }
    }

    /// The metrics about recognising the visitors of a site.
    pub(crate) fn recognition(&self, site: &str) -> RecognitionMetrics {
        RecognitionMetrics { site: site.to_owned(), metrics: self.clone() }
    }

    /// Everything in the text format of OpenMetrics 1.0.
    pub(crate) fn encode(&self, snapshot: &Snapshot) -> Result<String, fmt::Error> {
        let mut out = String::new();
        snapshot.encode(&mut out)?;
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

fn decision_labels(app: &str, decision: &str, reason: &str) -> Labels<3> {
    labels([("app", app), ("decision", decision), ("reason", reason)])
}

fn result_name(is_good: bool) -> &'static str {
    if is_good { "good" } else { "failed" }
}

/// The metrics about recognising the visitors of one site.
#[derive(Clone)]
pub(crate) struct RecognitionMetrics {
    site: String,
    metrics: Metrics,
}

impl RecognitionMetrics {
    /// iMIS was asked. `result`: person, nobody or broken.
    pub(crate) fn recognition(&self, method: &'static str, result: &'static str) {
        let labels = labels([("site", self.site.as_str()), ("method", method), ("result", result)]);
        self.metrics.recognitions.get_or_create(&labels).inc();
    }

    /// The identity cache was asked, and has this many entries.
    pub(crate) fn cache(&self, hit: bool, entries: u64) {
        let site = self.site.as_str();
        let result = if hit { "hit" } else { "miss" };
        self.metrics.cache.get_or_create(&labels([("site", site), ("result", result)])).inc();
        let entries = i64::try_from(entries).unwrap_or(i64::MAX);
        self.metrics.cache_entries.get_or_create(&labels([("site", site)])).set(entries);
    }

    /// A sign-out of iMIS removed a session from the cache.
    pub(crate) fn sign_out(&self) {
        self.metrics.sign_outs.get_or_create(&labels([("site", self.site.as_str())])).inc();
    }
}
