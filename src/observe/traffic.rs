//! What is counted of every request and connection, at next to no cost: each worker writes numbers of its own, which nobody else writes, and
//! they are added up when somebody asks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Upper bounds of how long requests took, in milliseconds.
const BOUNDS: [u64; 14] = [1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000];
const LEAST_STATUS: u16 = 100;
/// 100 to 599.
const STATUSES: usize = 500;

/// A number that one thread alone writes.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, more: u64) {
        // Not fetch_add: there is no other writer, and a plain store costs nothing.
        self.0.store(self.0.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Imis,
    /// A page of ours, or a sign-in.
    Gateway,
}

/// In which protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The response was handed over whole.
    Complete,
    /// The client left before that.
    ClientGone,
    /// The upstream failed in the middle of the body.
    UpstreamBroke,
}

impl End {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client_gone",
            Self::UpstreamBroke => "upstream_broke",
        }
    }
}

/// What came of the wish for a connection to iMIS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connecting {
    Opened,
    Reused,
    Failed,
}

/// A request that is over.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) by: By,
    pub(crate) protocol: Protocol,
    pub(crate) status: u16,
    pub(crate) took: Duration,
    pub(crate) bytes: u64,
    pub(crate) end: End,
}

/// What one worker counts of one site.
#[derive(Debug)]
pub(crate) struct OfSite {
    statuses: Vec<Count>,
    /// By who answered, then by bound; the last is beyond all.
    took: [[Count; BOUNDS.len() + 1]; 2],
    microseconds: [Count; 2],
    bytes: Count,
    ends: [Count; 3],
    connecting: [Count; 3],
}

impl OfSite {
    fn new() -> Self {
        Self {
            statuses: (0..STATUSES * 4).map(|_| Count::default()).collect(),
            took: Default::default(),
            microseconds: Default::default(),
            bytes: Count::default(),
            ends: Default::default(),
            connecting: Default::default(),
        }
    }

    pub(crate) fn request(&self, done: &Done) {
        let status = usize::from(done.status.saturating_sub(LEAST_STATUS)).min(STATUSES - 1);
        self.statuses[(done.by as usize * 2 + done.protocol as usize) * STATUSES + status].add(1);
        let milliseconds = done.took.as_millis() as u64;
        let bucket = BOUNDS.partition_point(|bound| *bound < milliseconds);
        self.took[done.by as usize][bucket].add(1);
        self.microseconds[done.by as usize].add(done.took.as_micros() as u64);
        self.bytes.add(done.bytes);
        self.ends[done.end as usize].add(1);
    }

    pub(crate) fn connecting(&self, connecting: Connecting) {
        self.connecting[connecting as usize].add(1);
    }
}

/// What one worker counts of connections of browsers.
#[derive(Debug, Default)]
pub(crate) struct OfWorker {
    accepted: Count,
    begun: Count,
    done: Count,
    handshakes: [Count; 4],
    turned_away: Count,
}

/// What came of a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    Full,
    Resumed,
    Failed,
    TimedOut,
}

impl OfWorker {
    pub(crate) fn accepted(&self) {
        self.accepted.add(1);
    }

    /// A request begins; later it is done.
    pub(crate) fn begins(&self) {
        self.begun.add(1);
    }

    pub(crate) fn is_done(&self) {
        self.done.add(1);
    }

    pub(crate) fn handshake(&self, handshake: Handshake) {
        self.handshakes[handshake as usize].add(1);
    }

    pub(crate) fn turned_away(&self) {
        self.turned_away.add(1);
    }
}

/// All that is counted, by site and worker; clones count together.
#[derive(Clone, Default)]
pub(crate) struct Traffic(Arc<Mutex<All>>);

#[derive(Default)]
struct All {
    /// The name of a site is that of its first host; what belongs to none has an empty one.
    sites: BTreeMap<String, BTreeMap<usize, Arc<OfSite>>>,
    workers: BTreeMap<usize, Arc<OfWorker>>,
}

impl Traffic {
    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a worker counts of a site; the same as before if it has counted already.
    pub(crate) fn of_site(&self, site: &str, worker: usize) -> Arc<OfSite> {
        let mut all = self.all();
        let of_site = all.sites.entry(site.to_owned()).or_default();
        of_site.entry(worker).or_insert_with(|| Arc::new(OfSite::new())).clone()
    }

    pub(crate) fn of_worker(&self, worker: usize) -> Arc<OfWorker> {
        self.all().workers.entry(worker).or_default().clone()
    }
}

impl fmt::Debug for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Traffic")
    }
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Collector for Traffic {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.all();
        let mut counter = |name: &str,
                           help: &str,
                           unit: Option<&Unit>,
                           write: &dyn Fn(&mut MetricEncoder<'_>) -> fmt::Result| {
            write(&mut encoder.encode_descriptor(name, help, unit, MetricType::Counter)?)
        };
        counter(
            "requests",
            "Requests that were answered, by who answered, protocol and status; 499: the client left before",
            None,
            &|metric| {
                for (site, workers) in &all.sites {
                    for (place, (by, protocol)) in
                        [("imis", "h1"), ("imis", "h2"), ("gateway", "h1"), ("gateway", "h2")]
                            .into_iter()
                            .enumerate()
                    {
                        for status in 0..STATUSES {
                            let count: u64 =
                                workers.values().map(|of| of.statuses[place * STATUSES + status].get()).sum();
                            if count > 0 {
                                let code = (status + usize::from(LEAST_STATUS)).to_string();
                                let labels: Labels<'_> =
                                    vec![("site", site), ("by", by), ("protocol", protocol), ("code", &code)];
                                one(metric, &labels, count)?;
                            }
                        }
                    }
                }
                Ok(())
            },
        )?;
        counter(
            "response",
            "Bytes of bodies of answers that were handed to browsers",
            Some(&Unit::Bytes),
            &|metric| {
                all.sites.iter().try_for_each(|(site, workers)| {
                    one(metric, &vec![("site", site)], workers.values().map(|of| of.bytes.get()).sum())
                })
            },
        )?;
        counter(
            "request_ends",
            "How requests ended: handed over whole, the client left, or iMIS broke off",
            None,
            &|metric| {
                for (site, workers) in &all.sites {
                    for end in [End::Complete, End::ClientGone, End::UpstreamBroke] {
                        let count = workers.values().map(|of| of.ends[end as usize].get()).sum();
                        one(metric, &vec![("site", site), ("end", end.name())], count)?;
                    }
                }
                Ok(())
            },
        )?;
        counter(
            "upstream_connections",
            "Connections to iMIS that requests were sent on: new ones, kept ones, and those that could not be had",
            None,
            &|metric| {
                for (site, workers) in all.sites.iter().filter(|(site, _)| !site.is_empty()) {
                    for (place, result) in ["opened", "reused", "failed"].into_iter().enumerate() {
                        let count = workers.values().map(|of| of.connecting[place].get()).sum();
                        one(metric, &vec![("site", site), ("result", result)], count)?;
                    }
                }
                Ok(())
            },
        )?;
        counter(
            "connections_accepted",
            "Connections of browsers that were let in, by worker",
            None,
            &|metric| {
                all.workers.iter().try_for_each(|(worker, of)| {
                    one(metric, &vec![("worker", &worker.to_string())], of.accepted.get())
                })
            },
        )?;
        counter(
            "connections_rejected",
            "Connections for which there was no place (limits)",
            None,
            &|metric| one(metric, &Vec::new(), all.workers.values().map(|of| of.turned_away.get()).sum()),
        )?;
        counter("tls_handshakes", "TLS handshakes with browsers", None, &|metric| {
            for (place, result) in ["full", "resumed", "failed", "timed_out"].into_iter().enumerate() {
                one(
                    metric,
                    &vec![("result", result)],
                    all.workers.values().map(|of| of.handshakes[place].get()).sum(),
                )?;
            }
            Ok(())
        })?;
        let under_way: u64 =
            all.workers.values().map(|of| of.begun.get().saturating_sub(of.done.get())).sum();
        let gauge = ConstGauge::new(under_way);
        let help = "Requests that are not answered to their end yet";
        gauge.encode(encoder.encode_descriptor("requests_in_flight", help, None, gauge.metric_type())?)?;
        let mut histogram = encoder.encode_descriptor(
            "request_duration",
            "From the head of a request to the end of its answer",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (site, workers) in &all.sites {
            for (place, by) in ["imis", "gateway"].into_iter().enumerate() {
                let bucket =
                    |bound: usize| workers.values().map(|of| of.took[place][bound].get()).sum::<u64>();
                let bounds = BOUNDS.iter().map(|bound| *bound as f64 / 1000.0).chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> =
                    bounds.enumerate().map(|(at, bound)| (bound, bucket(at))).collect();
                let count = buckets.iter().map(|(_, count)| count).sum();
                let microseconds: u64 = workers.values().map(|of| of.microseconds[place].get()).sum();
                let labels: Labels<'_> = vec![("site", site), ("by", by)];
                let mut metric = histogram.encode_family(&labels)?;
                metric.encode_histogram::<NoLabelSet>(microseconds as f64 / 1e6, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

fn one(metric: &mut MetricEncoder<'_>, labels: &Labels<'_>, count: u64) -> fmt::Result {
    if labels.is_empty() {
        return metric.encode_counter::<NoLabelSet, u64, u64>(&count, None);
    }
    metric.encode_family(labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;

    #[test]
    fn workers_count_together_and_nothing_is_lost_between_them() {
        let traffic = Traffic::default();
        for worker in 0..3 {
            let of = traffic.of_site("members.example.org", worker);
            for milliseconds in [0, 1, 2, 40, 70_000] {
                of.request(&Done {
                    by: By::Imis,
                    protocol: Protocol::Http2,
                    status: 200,
                    took: Duration::from_millis(milliseconds),
                    bytes: 10,
                    end: End::Complete,
                });
            }
            // As a worker under the next configuration.
            traffic.of_site("members.example.org", worker).connecting(Connecting::Reused);
        }
        let mut registry = Registry::with_prefix("imis_gateway");
        registry.register_collector(Box::new(traffic));
        let mut out = String::new();
        text::encode(&mut out, &registry).unwrap();
        for line in [
            "imis_gateway_requests_total{site=\"members.example.org\",by=\"imis\",protocol=\"h2\",code=\"200\"} 15",
            "imis_gateway_response_bytes_total{site=\"members.example.org\"} 150",
            "imis_gateway_request_ends_total{site=\"members.example.org\",end=\"complete\"} 15",
            "imis_gateway_upstream_connections_total{site=\"members.example.org\",result=\"reused\"} 3",
            "imis_gateway_request_duration_seconds_bucket{le=\"0.001\",site=\"members.example.org\",by=\"imis\"} 6",
            "imis_gateway_request_duration_seconds_bucket{le=\"0.005\",site=\"members.example.org\",by=\"imis\"} 9",
            "imis_gateway_request_duration_seconds_bucket{le=\"60.0\",site=\"members.example.org\",by=\"imis\"} 12",
            "imis_gateway_request_duration_seconds_bucket{le=\"+Inf\",site=\"members.example.org\",by=\"imis\"} 15",
        ] {
            assert!(out.lines().any(|own| own == line), "{line}\n{out}");
        }
    }
}
