//! What the system says of this process (proc(5), getrusage(2)), looked up when somebody asks.

use std::fmt;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// See the module.
#[derive(Debug)]
pub(crate) struct Process {
    /// Seconds since 1970.
    pub(crate) started: u64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64;
        let cpu = getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
            let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
            seconds(usage.user_time()) + seconds(usage.system_time())
        });
        let cpu = ConstCounter::new(cpu);
        let metric = encoder.encode_descriptor(
            "process_cpu",
            "CPU time used, user and system",
            Some(&Unit::Seconds),
            cpu.metric_type(),
        )?;
        cpu.encode(metric)?;
        for (name, help, unit, value) in [
            (
                "process_resident_memory",
                "Memory in use",
                Some(Unit::Bytes),
                value("VmRSS:").unwrap_or(0) * 1024,
            ),
            ("process_start_timestamp", "When the process began", Some(Unit::Seconds), self.started),
            ("process_open_files", "File descriptors in use", None, files),
            (
                "process_most_files",
                "File descriptors that may be in use",
                None,
                getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
            ),
            ("process_threads", "Threads", None, value("Threads:").unwrap_or(0)),
        ] {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, unit.as_ref(), gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
