//! Metrics with one instance per worker. Each worker writes to memory of its own, and a scrape adds the instances up.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::{MetricType, TypedMetric};

/// The instances of one metric by worker. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct PerWorker<M>(Arc<Mutex<BTreeMap<usize, M>>>);

impl<M: Clone + Default> PerWorker<M> {
    /// The instance of a worker; every call returns the same one.
    pub(crate) fn of(&self, worker: usize) -> M {
        let mut instances = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        instances.entry(worker).or_default().clone()
    }
}

/// A metric whose instances can be added up.
pub(crate) trait Sum: TypedMetric + Sized {
    /// Writes the sum of all instances.
    fn encode_sum<'a>(instances: impl Iterator<Item = &'a Self>, encoder: MetricEncoder<'_>) -> fmt::Result
    where
        Self: 'a;
}

impl<M: Sum> TypedMetric for PerWorker<M> {
    const TYPE: MetricType = M::TYPE;
}

impl<M: Sum> EncodeMetric for PerWorker<M> {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        M::encode_sum(self.0.lock().unwrap_or_else(PoisonError::into_inner).values(), encoder)
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}

impl Sum for Counter {
    fn encode_sum<'a>(instances: impl Iterator<Item = &'a Self>, mut to: MetricEncoder<'_>) -> fmt::Result {
        let sum: u64 = instances.map(Self::get).sum();
        to.encode_counter::<NoLabelSet, _, u64>(&sum, None)
    }
}

impl Sum for Gauge {
    fn encode_sum<'a>(instances: impl Iterator<Item = &'a Self>, mut to: MetricEncoder<'_>) -> fmt::Result {
        let sum: i64 = instances.map(Self::get).sum();
        to.encode_gauge(&sum)
    }
}

/// Upper bounds of the buckets, in milliseconds.
const BOUNDS: [u64; 14] = [1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000];

/// A histogram of durations without a lock, unlike that of `prometheus_client`. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct DurationHistogram(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    /// The last one counts what is beyond every bound.
    counts: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

impl DurationHistogram {
    pub(crate) fn observe(&self, duration: Duration) {
        let milliseconds = duration.as_millis() as u64;
        let bucket = BOUNDS.partition_point(|bound| *bound < milliseconds);
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.microseconds.fetch_add(duration.as_micros() as u64, Ordering::Relaxed);
    }
}

impl TypedMetric for DurationHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl Sum for DurationHistogram {
    fn encode_sum<'a>(instances: impl Iterator<Item = &'a Self>, mut to: MetricEncoder<'_>) -> fmt::Result {
        let bounds = BOUNDS.iter().map(|bound| *bound as f64 / 1000.0).chain([f64::INFINITY]);
        let mut buckets: Vec<(f64, u64)> = bounds.map(|bound| (bound, 0)).collect();
        let mut microseconds = 0;
        for Self(instance) in instances {
            for ((_, sum), count) in buckets.iter_mut().zip(&instance.counts) {
                *sum += count.load(Ordering::Relaxed);
            }
            microseconds += instance.microseconds.load(Ordering::Relaxed);
        }
        let count = buckets.iter().map(|(_, count)| count).sum();
        to.encode_histogram::<NoLabelSet>(microseconds as f64 / 1e6, count, &buckets, None)
    }
}
