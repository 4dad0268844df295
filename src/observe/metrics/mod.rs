//! Numbers for Prometheus, on the admin listener. Names start with `imis_gateway_`; no label is anything that a visitor can choose.

mod labels;
mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::base::clock;
use crate::config::ShownSecret;
use crate::imis::recognise::{Identity, RecogniseError};
use crate::observe::traffic::Traffic;
use crate::request::error_page::Failure;
use crate::zendesk::Refusal;
use labels::{
    CacheUse, Decision, FailureOf, OfApp, OfServer, OfSite, OrderOf, Recognition, RefusalOf, Reload,
    SecretOf, TokenOf,
};
use process::ProcessCollector;

/// Labels of `imis_gateway_build_info`.
const BUILD: &[(&str, &str)] = &[
    ("version", env!("CARGO_PKG_VERSION")),
    ("revision", env!("IMIS_GATEWAY_REVISION")),
    ("rustc", env!("IMIS_GATEWAY_RUSTC")),
];

/// Every number there is; clones count together.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    recognitions: Family<Recognition, Counter>,
    cache: Family<CacheUse, Counter>,
    entries: Family<OfSite, Gauge<u64, AtomicU64>>,
    sign_outs: Family<OfSite, Counter>,
    decisions: Family<Decision, Counter>,
    refusals: Family<RefusalOf, Counter>,
    staff: Family<OfApp, Gauge<u64, AtomicU64>>,
    staff_age: Family<OfApp, Gauge<u64, AtomicU64>>,
    staff_known: Family<OfApp, Gauge<u64, AtomicU64>>,
    tokens: Family<TokenOf, Counter>,
    secret_age: Family<SecretOf, Gauge<u64, AtomicU64>>,
    failures: Family<FailureOf, Counter>,
    certificate_expiry: Family<OfSite, Gauge<i64, AtomicI64>>,
    acme_orders: Family<OrderOf, Counter>,
    acme_failing: Family<OfSite, Gauge<u64, AtomicU64>>,
    connections: Gauge<u64, AtomicU64>,
    upstream_up: Family<OfServer, Gauge<u64, AtomicU64>>,
    upstream_busy: Family<OfServer, Gauge<u64, AtomicU64>>,
    pub(crate) traffic: Traffic,
    reloads: Family<Reload, Counter>,
    last_reload_good: Gauge<u64, AtomicU64>,
    last_good_reload: Gauge<u64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut root = Registry::default();
        root.register_collector(Box::new(ProcessCollector { start_time: clock::unix_now() }));
        let registry = root.sub_registry_with_prefix("imis_gateway");
        registry.register("build", "Version, commit and compiler of the running program", Info::new(BUILD));
        let mut metrics = Self {
            registry: Arc::default(),
            recognitions: Family::default(),
            cache: Family::default(),
            entries: Family::default(),
            sign_outs: Family::default(),
            decisions: Family::default(),
            refusals: Family::default(),
            staff: Family::default(),
            staff_age: Family::default(),
            staff_known: Family::default(),
            tokens: Family::default(),
            secret_age: Family::default(),
            failures: Family::default(),
            certificate_expiry: Family::default(),
            acme_orders: Family::default(),
            acme_failing: Family::default(),
            connections: Gauge::default(),
            upstream_up: Family::default(),
            upstream_busy: Family::default(),
            traffic: Traffic::default(),
            reloads: Family::default(),
            last_reload_good: Gauge::default(),
            last_good_reload: Gauge::default(),
        };
        let Self {
            registry: _,
            recognitions,
            cache,
            entries,
            sign_outs,
            decisions,
            refusals,
            staff,
            staff_age,
            staff_known,
            tokens,
            secret_age,
            failures,
            certificate_expiry,
            acme_orders,
            acme_failing,
            connections,
            upstream_up,
            upstream_busy,
            traffic,
            reloads,
            last_reload_good,
            last_good_reload,
        } = &metrics;
        registry.register(
            "recognitions",
            "Answers of iMIS to who a visitor is, by method: person, nobody or broken",
            recognitions.clone(),
        );
        registry.register(
            "identity_cache",
            "Identities that were remembered (hit) or had to be asked for (miss)",
            cache.clone(),
        );
        registry.register(
            "identity_cache_entries",
            "Sessions whose identity is remembered, about",
            entries.clone(),
        );
        registry.register(
            "sign_outs_seen",
            "Sign-outs of iMIS that passed and were taken out of the identity cache",
            sign_outs.clone(),
        );
        registry.register(
            "decisions",
            "Sign-ins by what was decided: signed-in, refused (with the reason) or broken",
            decisions.clone(),
        );
        registry.register(
            "zendesk_refusals",
            "Tokens that Zendesk did not take, by what it said",
            refusals.clone(),
        );
        registry.register("zendesk_staff", "Agents and admins whom the staff guard knows", staff.clone());
        registry.register_with_unit(
            "zendesk_staff_age",
            "Time since Zendesk last said who they are; every five minutes when all is well",
            Unit::Seconds,
            staff_age.clone(),
        );
        registry.register(
            "zendesk_staff_known",
            "1 when there is a list of the staff, 0 as long as Zendesk has given none; of apps with zendesk.api",
            staff_known.clone(),
        );
        registry.register(
            "tokens",
            "Tokens for Zendesk, by the secret they were signed with",
            tokens.clone(),
        );
        registry.register_with_unit(
            "secret_age",
            "Time since a secret was changed: its file, or where that tells nothing, since this process has known it",
            Unit::Seconds,
            secret_age.clone(),
        );
        registry.register_collector(Box::new(traffic.clone()));
        registry.register(
            "failures",
            "Requests that were answered with a page of the gateway's own instead of iMIS's, by why",
            failures.clone(),
        );
        registry.register("connections", "Connections of browsers that are open", connections.clone());
        registry.register(
            "upstream_server_up",
            "1 when requests go to a server of iMIS; 0 when it rests, is ill, or is taken out of service",
            upstream_up.clone(),
        );
        registry.register(
            "upstream_server_requests",
            "Requests that a server of iMIS has, of sites with several",
            upstream_busy.clone(),
        );
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When the certificate of a site stops being good",
            Unit::Seconds,
            certificate_expiry.clone(),
        );
        registry.register(
            "acme_orders",
            "Certificates that a CA was asked for, by whether it gave one",
            acme_orders.clone(),
        );
        registry.register(
            "acme_failing",
            "1 when a CA gave no certificate when it was last asked, or what it gave is not used; of sites with acme",
            acme_failing.clone(),
        );
        registry.register("reloads", "Reloads, by who asked for them and how they went", reloads.clone());
        registry.register(
            "last_reload_successful",
            "1 when the configuration and the files it names are taken up; 0 when the last reload of either failed",
            last_reload_good.clone(),
        );
        registry.register_with_unit(
            "last_successful_reload_timestamp",
            "When a configuration was last taken up",
            Unit::Seconds,
            last_good_reload.clone(),
        );
        metrics.registry = Arc::new(root);
        metrics
    }

    pub(crate) fn decision(&self, app: &str, decision: &'static str, reason: &str) {
        let labels = Decision { app: app.to_owned(), decision, reason: reason.to_owned() };
        self.decisions.get_or_create(&labels).inc();
    }

    /// Numbers begin at nought, not when something happens first: a rate would not see that.
    pub(crate) fn expect<'a>(
        &self,
        sites: impl Iterator<Item = &'a str>,
        apps: impl Iterator<Item = &'a str>,
    ) {
        for site in sites {
            for failure in Failure::NAMES {
                drop(self.failures.get_or_create(&FailureOf { site: site.to_owned(), failure }));
            }
        }
        for app in apps {
            for (decision, reason) in [("signed-in", ""), ("broken", "")] {
                drop(self.decisions.get_or_create(&Decision {
                    app: app.to_owned(),
                    decision,
                    reason: reason.to_owned(),
                }));
            }
            for kind in Refusal::NAMES {
                drop(self.refusals.get_or_create(&RefusalOf { app: app.to_owned(), kind }));
            }
        }
    }

    /// A CA is asked for certificates of this site.
    pub(crate) fn expect_orders(&self, site: &str) {
        for result in ["good", "failed"] {
            drop(self.acme_orders.get_or_create(&OrderOf { site: site.to_owned(), result }));
        }
    }

    /// It has been asked.
    pub(crate) fn acme_order(&self, site: &str, good: bool) {
        let result = if good { "good" } else { "failed" };
        self.acme_orders.get_or_create(&OrderOf { site: site.to_owned(), result }).inc();
    }

    /// The sites that have a CA, and whether that fails at this moment.
    pub(crate) fn acme<'a>(&self, sites: impl Iterator<Item = (&'a str, bool)>) {
        self.acme_failing.clear();
        for (site, failing) in sites {
            self.acme_failing.get_or_create(&OfSite { site: site.into() }).set(failing.into());
        }
    }

    pub(crate) fn failure(&self, site: &str, failure: &'static str) {
        self.failures.get_or_create(&FailureOf { site: site.to_owned(), failure }).inc();
    }

    /// What is at this moment.
    pub(crate) fn now<'a>(&self, connections: usize, expiries: impl Iterator<Item = (&'a str, i64)>) {
        self.connections.set(connections as u64);
        self.certificate_expiry.clear();
        for (site, expiry) in expiries {
            self.certificate_expiry.get_or_create(&OfSite { site: site.into() }).set(expiry);
        }
    }

    /// The servers of iMIS at this moment.
    pub(crate) fn servers<'a>(&self, servers: impl Iterator<Item = (&'a str, String, bool, usize)>) {
        self.upstream_up.clear();
        self.upstream_busy.clear();
        for (site, server, up, busy) in servers {
            let of_server = OfServer { site: site.to_owned(), server };
            self.upstream_busy.get_or_create(&of_server).set(busy as u64);
            self.upstream_up.get_or_create(&of_server).set(up.into());
        }
    }

    pub(crate) fn token(&self, app: &str, secret: &'static str) {
        self.tokens.get_or_create(&TokenOf { app: app.to_owned(), secret }).inc();
    }

    /// The secrets of now, each with its age in seconds.
    pub(crate) fn secrets(&self, secrets: impl Iterator<Item = (ShownSecret, u64)>) {
        self.secret_age.clear();
        for (ShownSecret { app, secret, fingerprint, .. }, age) in secrets {
            self.secret_age.get_or_create(&SecretOf { app, secret, fingerprint }).set(age);
        }
    }

    /// A reload, or without `by` the start. `all_good`: nothing waits to be mended.
    pub(crate) fn reloaded(&self, by: Option<&'static str>, good: bool, all_good: bool) {
        if let Some(by) = by {
            let result = if good { "good" } else { "failed" };
            self.reloads.get_or_create(&Reload { by, result }).inc();
        }
        self.last_reload_good.set(all_good.into());
        if good {
            self.last_good_reload.set(clock::unix_now());
        }
    }

    pub(crate) fn refusal(&self, app: &str, kind: &'static str) {
        self.refusals.get_or_create(&RefusalOf { app: app.to_owned(), kind }).inc();
    }

    /// Of apps that there may not be any more.
    pub(crate) fn forget_staff(&self) {
        self.staff.clear();
        self.staff_age.clear();
        self.staff_known.clear();
    }

    /// What the staff guard of an app knows at this moment.
    pub(crate) fn staff(&self, app: &str, state: Option<(usize, Duration)>) {
        let of_app = OfApp { app: app.to_owned() };
        self.staff_known.get_or_create(&of_app).set(state.is_some().into());
        let Some((people, age)) = state else { return };
        self.staff.get_or_create(&of_app).set(people as u64);
        self.staff_age.get_or_create(&of_app).set(age.as_secs());
    }

    /// What a site counts about recognition.
    pub(crate) fn recognitions(&self, site: &str) -> Recognitions {
        Recognitions {
            site: site.into(),
            recognitions: self.recognitions.clone(),
            cache: self.cache.clone(),
            entries: self.entries.clone(),
            sign_outs: self.sign_outs.clone(),
        }
    }

    /// All of them, in the text format of OpenMetrics 1.0.
    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

/// What a site counts about recognition.
#[derive(Clone)]
pub(crate) struct Recognitions {
    site: Arc<str>,
    recognitions: Family<Recognition, Counter>,
    cache: Family<CacheUse, Counter>,
    entries: Family<OfSite, Gauge<u64, AtomicU64>>,
    sign_outs: Family<OfSite, Counter>,
}

impl Recognitions {
    pub(crate) fn recognition(
        &self,
        method: &'static str,
        answer: &Result<Option<Identity>, RecogniseError>,
    ) {
        let result = match answer {
            Ok(Some(_)) => "person",
            Ok(None) => "nobody",
            Err(_) => "broken",
        };
        self.recognitions.get_or_create(&Recognition { site: self.site.clone(), method, result }).inc();
    }

    pub(crate) fn cache(&self, hit: bool, entries: u64) {
        let result = if hit { "hit" } else { "miss" };
        self.cache.get_or_create(&CacheUse { site: self.site.clone(), result }).inc();
        self.entries.get_or_create(&OfSite { site: self.site.clone() }).set(entries);
    }

    pub(crate) fn sign_out(&self) {
        self.sign_outs.get_or_create(&OfSite { site: self.site.clone() }).inc();
    }
}
