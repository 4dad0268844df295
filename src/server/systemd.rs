//! What systemd is told, when it listens (sd_notify(3)). Without its socket all of this does nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{error, info};

/// What shows that a worker goes on: it counts up every second.
pub(crate) type Heartbeat = Arc<AtomicU64>;

pub(crate) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Until `ready` is said again, the service is being reloaded.
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
    // Nobody listens, or systemd will find out by itself.
    let _ = sd_notify::notify(states);
}

/// Feeds the watchdog, if the service has one, for as long as every worker goes on. A worker that stands still lets systemd end the
/// process.
pub(crate) async fn feed_watchdog(heartbeats: Vec<Heartbeat>) {
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    // sd_watchdog_enabled(3): half of the time at most. They come once a second, so that two seconds show one of each worker.
    let every = (within / 3).max(Duration::from_secs(2)).min(within / 2);
    info!(watchdog_seconds = within.as_secs_f64(), "systemd watches this service");
    let mut before: Vec<u64> = vec![0; heartbeats.len()];
    loop {
        tokio::time::sleep(every).await;
        let now: Vec<u64> = heartbeats.iter().map(|heartbeat| heartbeat.load(Ordering::Relaxed)).collect();
        let still: Vec<usize> = (0..now.len()).filter(|index| now[*index] == before[*index]).collect();
        if still.is_empty() {
            notify(&[NotifyState::Watchdog]);
        } else {
            error!(workers = ?still, "workers stand still; the watchdog of systemd is not fed");
        }
        before = now;
    }
}
