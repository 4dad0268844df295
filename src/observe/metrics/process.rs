//! Metrics about this process, under the names that Prometheus client libraries share. They are read from proc(5) and
//! getrusage(2) at each scrape.

use std::fmt;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Reads the process metrics when it is collected.
#[derive(Debug)]
pub(crate) struct ProcessCollector {
    /// When the process started, in seconds since 1970.
    pub(crate) start_time: u64,
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let open_fds = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64;
        let max_fds = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        let cpu = getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
            let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
            seconds(usage.user_time()) + seconds(usage.system_time())
        });
        let cpu = ConstCounter::new(cpu);
        let help = "User and system CPU time used";
        cpu.encode(encoder.encode_descriptor(
            "process_cpu",
            help,
            Some(&Unit::Seconds),
            cpu.metric_type(),
        )?)?;
        let resident = value("VmRSS:").unwrap_or(0) * 1024;
        let threads = value("Threads:").unwrap_or(0);
        for (name, help, unit, value) in [
            ("process_resident_memory", "Resident memory", Some(Unit::Bytes), resident),
            ("process_start_time", "Start time of the process", Some(Unit::Seconds), self.start_time),
            ("process_open_fds", "Open file descriptors", None, open_fds),
            ("process_max_fds", "Maximum number of open file descriptors", None, max_fds),
            ("process_threads", "Threads of the process", None, threads),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit.as_ref(), gauge.metric_type())?)?;
        }
        Ok(())
    }
}
