//! The table of metrics: each has a name, the names of its labels, and a help text.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{self, Registry, Unit};

type LabelSet<const N: usize> = [(&'static str, String); N];

/// A metric with one series for each combination of the values of its N labels. Clones share the series.
#[derive(Debug, Clone)]
pub(crate) struct Metric<const N: usize, M = Counter> {
    labels: [&'static str; N],
    series: Family<LabelSet<N>, M>,
}

impl<const N: usize, M: Clone + Default> Metric<N, M> {
    /// The series with these values of the labels. It is created at zero if it does not exist.
    pub(crate) fn get(&self, values: [&str; N]) -> M {
        let labels = std::array::from_fn(|index| (self.labels[index], values[index].to_owned()));
        self.series.get_or_create_owned(&labels)
    }
}

impl<const N: usize> Metric<N> {
    pub(crate) fn inc(&self, values: [&str; N]) {
        self.get(values).inc();
    }
}

impl<const N: usize> Metric<N, Gauge> {
    pub(crate) fn set(&self, values: [&str; N], value: impl TryInto<i64>) {
        self.get(values).set(value.try_into().unwrap_or(i64::MAX));
    }
}

/// Metrics that are exported together.
#[derive(Default)]
pub(crate) struct MetricTable(pub(super) Registry);

impl MetricTable {
    /// Adds a metric. Its full name starts with `imis_gateway_`; the unit is the end of `name`.
    pub(super) fn add<const N: usize, M: Default>(
        &mut self,
        name: &str,
        labels: [&'static str; N],
        help: &str,
    ) -> Metric<N, M>
    where
        Family<LabelSet<N>, M>: registry::Metric,
    {
        let series = Family::default();
        let name = format!("imis_gateway_{name}");
        if let Some(name) = name.strip_suffix("_seconds") {
            self.0.register_with_unit(name, help, Unit::Seconds, series.clone());
        } else if let Some(name) = name.strip_suffix("_bytes") {
            self.0.register_with_unit(name, help, Unit::Bytes, series.clone());
        } else {
            self.0.register(name, help, series.clone());
        }
        Metric { labels, series }
    }

    /// Adds a gauge.
    pub(crate) fn gauge<const N: usize>(
        &mut self,
        name: &str,
        labels: [&'static str; N],
        help: &str,
    ) -> Metric<N, Gauge> {
        self.add(name, labels, help)
    }
}
