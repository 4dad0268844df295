//! Notifications to systemd (sd_notify(3)). Without its socket they do nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{error, info};

/// Shows that a worker is alive: it counts up every second.
pub(crate) type Heartbeat = Arc<AtomicU64>;

pub(crate) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The service is reloading until the next `ready`.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("finishing requests under way")]);
}

fn notify(states: &[NotifyState<'_>]) {
    // A lost notification does no harm.
    let _ = sd_notify::notify(states);
}

/// Counts up every second while the runtime of this task is alive.
pub(crate) async fn beat(heartbeat: Heartbeat) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        heartbeat.fetch_add(1, Ordering::Relaxed);
    }
}

/// Feeds the watchdog, if the service has one, while every worker and the control runtime (the last heartbeat) are
/// alive. If one is stuck, systemd ends the process. It runs on a thread of its own, which no request can block.
pub(crate) fn feed_watchdog(heartbeats: Vec<Heartbeat>) -> std::io::Result<()> {
    let Some(within) = sd_notify::watchdog_enabled() else { return Ok(()) };
    let every = watchdog_interval(within);
    info!(watchdog_seconds = within.as_secs_f64(), "systemd watches this service");
    let mut before: Vec<u64> = vec![0; heartbeats.len()];
    let feed = move || {
        loop {
            std::thread::sleep(every);
            let now: Vec<u64> =
                heartbeats.iter().map(|heartbeat| heartbeat.load(Ordering::Relaxed)).collect();
            let still: Vec<usize> = (0..now.len()).filter(|index| now[*index] == before[*index]).collect();
            if still.is_empty() {
                notify(&[NotifyState::Watchdog]);
            } else {
                error!(threads = ?still, "threads stand still; the watchdog of systemd is not fed");
            }
            before = now;
        }
    };
    // It ends with the process.
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(feed).map(drop)
}

/// Half of the watchdog's timeout at most (sd_watchdog_enabled(3)). Workers count once a second, so that each counts
/// within two seconds.
fn watchdog_interval(within: Duration) -> Duration {
    (within / 3).max(Duration::from_secs(2)).min(within / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_at_least_twice_within_its_timeout() {
        for (timeout_ms, interval_ms) in [(1_000, 500), (4_000, 2_000), (6_000, 2_000), (30_000, 10_000)] {
            let interval = watchdog_interval(Duration::from_millis(timeout_ms));
            assert_eq!(interval, Duration::from_millis(interval_ms), "{timeout_ms} ms");
        }
    }
}
