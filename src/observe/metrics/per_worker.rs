//! Metrics with one instance per worker. Each worker writes to memory of its own, and a scrape adds the instances up.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::{Atomic, Counter};
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

/// A number that only one thread writes, so that it needs no atomic addition.
#[derive(Debug, Default)]
pub(crate) struct SingleWriter(AtomicU64);

impl Atomic<u64> for SingleWriter {
    fn inc(&self) -> u64 {
        self.inc_by(1)
    }

    fn inc_by(&self, more: u64) -> u64 {
        let previous = self.0.load(Ordering::Relaxed);
        self.0.store(previous + more, Ordering::Relaxed);
        previous
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter that only one worker increments.
pub(crate) type WorkerCounter = Counter<u64, SingleWriter>;

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

impl Sum for WorkerCounter {
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

/// A histogram of durations that only one worker writes. The one in `prometheus_client` takes a lock, and cannot be
/// added up.
#[derive(Debug, Clone, Default)]
pub(crate) struct DurationHistogram(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    /// The last one counts what is beyond every bound.
    counts: [SingleWriter; BOUNDS.len() + 1],
    microseconds: SingleWriter,
}

impl DurationHistogram {
    pub(crate) fn observe(&self, duration: Duration) {
        let milliseconds = duration.as_millis() as u64;
        let bucket = BOUNDS.partition_point(|bound| *bound < milliseconds);
        self.0.counts[bucket].inc();
        self.0.microseconds.inc_by(duration.as_micros() as u64);
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
                *sum += count.get();
            }
            microseconds += instance.microseconds.get();
        }
        let count = buckets.iter().map(|(_, count)| count).sum();
        to.encode_histogram::<NoLabelSet>(microseconds as f64 / 1e6, count, &buckets, None)
    }
}
