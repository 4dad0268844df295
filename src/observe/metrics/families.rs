//! Metric families: a name, a help text, and one series for each set of labels.

use std::fmt;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry, Unit};

/// The prefix of every metric but those about the process.
pub(crate) const PREFIX: &str = "imis_gateway";

/// Names and values of labels.
pub(crate) type Labels<const N: usize> = [(&'static str, String); N];

/// Counters with N labels.
pub(crate) type Counters<const N: usize> = Family<Labels<N>, Counter>;

pub(crate) fn labels<const N: usize>(labels: [(&'static str, &str); N]) -> Labels<N> {
    labels.map(|(name, value)| (name, value.to_owned()))
}

/// Creates a metric and registers it.
pub(crate) fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// Creates a metric and registers it; the unit ends its name.
pub(crate) fn register_in<M: Metric + Clone + Default>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    unit: Unit,
) -> M {
    let metric = M::default();
    registry.register_with_unit(name, help, unit, metric.clone());
    metric
}

/// Gauges that are read from the running gateway at a scrape.
pub(crate) struct Snapshot(Registry);

impl Snapshot {
    pub(crate) fn new() -> Self {
        Self(Registry::with_prefix(PREFIX))
    }

    /// Adds a gauge.
    pub(crate) fn gauge<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<N>, i64)>,
    ) {
        fill(&register(&mut self.0, name, help), series);
    }

    /// Adds a gauge in seconds; its name ends in `_seconds`.
    pub(crate) fn seconds<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<N>, i64)>,
    ) {
        fill(&register_in(&mut self.0, name, help, Unit::Seconds), series);
    }

    /// Writes the gauges in the text format.
    pub(crate) fn encode(&self, out: &mut String) -> fmt::Result {
        text::encode_registry(out, &self.0)
    }
}

fn fill<const N: usize>(
    family: &Family<Labels<N>, Gauge>,
    series: impl IntoIterator<Item = (Labels<N>, i64)>,
) {
    for (labels, value) in series {
        family.get_or_create(&labels).set(value);
    }
}
