//! Limits for clients that read or send slowly: an idle time-out, and a minimum rate.
//!
//! The idle time-out alone is not enough: every byte restarts it, so a few bytes could keep a connection open forever.
//! Only time in which the gateway waits for the client counts, not time in which it waits for iMIS.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::deadline::Deadline;

/// The limits for the bodies of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The idle time-out: how long a client may make no progress.
    pub(crate) gap: Duration,
    /// The minimum rate in bytes per second, averaged over `gap`. 0: no minimum.
    pub(crate) rate: u64,
}

impl Limits {
    /// The number of bytes that have to move within `gap`.
    fn min_bytes(self) -> u64 {
        u64::try_from(u128::from(self.rate) * self.gap.as_millis() / 1000).unwrap_or(u64::MAX)
    }
}

/// Checks one body to or from a client against the limits.
///
/// For a response, the bytes that the client has acknowledged count, if the kernel can tell them: it buffers megabytes
/// for a client that reads nothing. A client with a full receive buffer acknowledges in steps of up to a sixteenth of
/// the buffer on Linux. If one step takes longer than `gap`, the client is too slow, even if it reads steadily.
#[derive(Debug, Default)]
pub(crate) struct MinRateTimer {
    /// When the timer was last updated. None while it is paused.
    updated: Option<Instant>,
    /// When the timer was paused.
    paused: Option<Instant>,
    /// The number of moved bytes at the last update, and when it last changed.
    moved: Option<(u64, Instant)>,
    /// The number of acknowledged bytes that the kernel last reported, and when.
    arrived: Option<(Option<u64>, Instant)>,
    /// When the client last made progress: bytes were acknowledged or, if that is unknown, moved.
    progress: Option<Instant>,
    /// The period over which the rate is averaged.
    average: Option<Average>,
}

/// The state at the start of the averaging period.
#[derive(Debug, Clone, Copy)]
struct Average {
    /// How long the gateway has waited for the client since then.
    waited: Duration,
    moved: u64,
    arrived: Option<u64>,
    /// The rate was too low, but the period was extended because enough bytes have moved that may be in transit.
    is_extended: bool,
}

/// How often the kernel is asked for the number of acknowledged bytes.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// How long bytes that have just moved may be in transit.
const TRANSIT: Duration = Duration::from_secs(4);

impl MinRateTimer {
    /// Updates the timer while the gateway waits for the client. `moved`: the total number of moved bytes. `arrived`:
    /// returns how many of them the client has acknowledged, if that is known. Returns the time until the next update,
    /// or `None` if the client is too slow.
    pub(crate) fn update(
        &mut self,
        moved: u64,
        arrived: impl Fn() -> Option<u64>,
        limits: Limits,
        now: Instant,
    ) -> Option<Duration> {
        let paused = self.paused.take().map_or(Duration::ZERO, |since| now - since);
        let waited = self.updated.replace(now).map_or(Duration::ZERO, |updated| now - updated);
        let last_moved = match self.moved {
            Some((before, at)) if before == moved => at + paused,
            _ => now,
        };
        let is_moving = self.moved.is_none_or(|(before, _)| before != moved);
        self.moved = Some((moved, last_moved));
        let mut progress = self.progress.map_or(now, |at| at + paused);
        let asked = std::cell::Cell::new(self.arrived);
        let ask = |before: Option<u64>, progress: &mut Instant| {
            let arrived = arrived();
            if arrived > before || (arrived.is_none() && is_moving) {
                *progress = now;
            }
            asked.set(Some((arrived, now)));
            arrived
        };
        let mut latest = match self.arrived {
            None => ask(None, &mut progress),
            Some((before, at)) if now - at >= ASK_INTERVAL || before.is_none() => ask(before, &mut progress),
            Some((before, _)) => before,
        };
        let transit = TRANSIT.min(limits.gap);
        let silence = limits.gap + if now - last_moved < transit { transit } else { Duration::ZERO };
        if now - progress >= silence {
            latest = ask(latest, &mut progress);
            if progress != now {
                return None;
            }
        }
        let new = Average { waited: Duration::ZERO, moved, arrived: latest, is_extended: false };
        let mut average = match self.average {
            Some(average) => Average { waited: average.waited + waited, ..average },
            None => new,
        };
        if average.waited >= limits.gap {
            latest = ask(latest, &mut progress);
            let moved_since = moved - average.moved;
            let arrived_since =
                latest.zip(average.arrived).map_or(moved_since, |(now, before)| now.saturating_sub(before));
            if arrived_since >= limits.min_bytes() {
                average = Average { arrived: latest, ..new };
            } else if moved_since >= limits.min_bytes() && !average.is_extended {
                average = Average { waited: limits.gap - transit, is_extended: true, ..average };
            } else {
                return None;
            }
        }
        (self.average, self.progress, self.arrived) = (Some(average), Some(progress), asked.get());
        let left = silence.saturating_sub(now - progress).min(limits.gap - average.waited);
        let left = if latest.is_some() { left.min(ASK_INTERVAL) } else { left };
        (!left.is_zero()).then_some(left)
    }

    /// Updates the timer and sets `deadline` to the next update. Ready when the client is too slow.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        deadline: &mut Deadline,
        moved: u64,
        arrived: impl Fn() -> Option<u64>,
        limits: Limits,
    ) -> Poll<()> {
        loop {
            let now = Instant::now();
            let Some(left) = self.update(moved, &arrived, limits, now) else { return Poll::Ready(()) };
            deadline.set_from(now, left);
            ready!(deadline.poll(cx));
        }
    }

    /// Pauses the timer while the gateway does not wait for the client.
    pub(crate) fn pause(&mut self, now: Instant) {
        if let Some(updated) = self.updated.take() {
            if let Some(average) = &mut self.average {
                average.waited += now - updated;
            }
            self.paused = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { gap: Duration::from_secs(30), rate: 240 };

    /// After how many seconds a client that moves `bytes` every `every` seconds is too slow. None: not within an hour.
    fn given_up(bytes: u64, every: u64, limits: Limits) -> Option<u64> {
        let (mut timer, begun) = (MinRateTimer::default(), Instant::now());
        (0..3600).find(|second| {
            let now = begun + Duration::from_secs(*second);
            timer.update(second / every * bytes, || None, limits, now).is_none()
        })
    }

    #[test]
    fn an_idle_client_and_one_below_the_minimum_rate_are_too_slow() {
        assert_eq!(given_up(0, 1, LIMITS), Some(30));
        assert_eq!(given_up(1, 2, LIMITS), Some(30));
        assert_eq!(given_up(239, 1, LIMITS), Some(30));
        assert_eq!(given_up(240, 1, LIMITS), None);
        assert_eq!(given_up(10_000, 29, LIMITS), None);
        assert_eq!(given_up(1, 2, Limits { rate: 0, ..LIMITS }), None, "no minimum rate");
        assert_eq!(given_up(1, 31, Limits { rate: 0, ..LIMITS }), Some(30));
    }

    #[test]
    fn a_burst_does_not_extend_the_idle_timeout() {
        let (mut timer, begun) = (MinRateTimer::default(), Instant::now());
        let mut at =
            |second: u64, moved| timer.update(moved, || None, LIMITS, begun + Duration::from_secs(second));
        assert!(at(0, 0).is_some());
        assert!(at(20, 10_000_000).is_some());
        assert_eq!(at(49, 10_000_000), Some(Duration::from_secs(1)));
        assert_eq!(at(50, 10_000_000), None);
    }

    #[test]
    fn paused_time_does_not_count() {
        let (mut timer, mut now) = (MinRateTimer::default(), Instant::now());
        for round in 0..100 {
            // One byte per round, and a response that takes a minute.
            assert!(timer.update(round, || None, LIMITS, now).is_some(), "{round}");
            now += Duration::from_millis(100);
            assert!(timer.update(round, || None, LIMITS, now).is_some(), "{round}");
            timer.pause(now);
            now += Duration::from_secs(60);
        }
    }

    /// After how many seconds a reader is too slow for which the kernel accepts `step` bytes every `every` seconds.
    /// `arrived`: the acknowledged bytes after a number of seconds.
    fn given_up_reading(step: u64, every: u64, arrived: impl Fn(u64) -> u64) -> Option<u64> {
        let (mut timer, begun) = (MinRateTimer::default(), Instant::now());
        (0..3600).find(|second| {
            let now = begun + Duration::from_secs(*second);
            timer.update(second / every * step, || Some(arrived(*second)), LIMITS, now).is_none()
        })
    }

    #[test]
    fn acknowledged_bytes_count_while_the_kernel_buffers() {
        // The kernel accepts 2 MB at a time, of which 2 KB per second are acknowledged.
        assert_eq!(given_up_reading(2_000_000, 1_000, |second| second * 2_000), None);
        assert_eq!(given_up_reading(2_000_000, 1_000, |second| second * 240), None);
        // Below the minimum rate, and idle at once or after a while.
        assert_eq!(given_up_reading(2_000_000, 1_000, |second| second * 200), Some(30));
        assert_eq!(given_up_reading(2_000_000, 1_000, |_| 65_536), Some(30));
        assert_eq!(given_up_reading(2_000_000, 1_000, |second| second.min(100) * 2_000), Some(130));
        assert_eq!(
            given_up_reading(100_000, 20, |second| second.min(5) * 2_000),
            Some(35),
            "the client stopped reading"
        );
    }

    #[test]
    fn a_slow_and_steady_reader_is_not_too_slow_at_any_time_of_update() {
        // The kernel accepts everything at once after `offset`. The client acknowledges segment by segment.
        for (rate, offset) in [(400, 1), (1_000, 7), (10_000, 13), (50_000, 29)]
            .into_iter()
            .flat_map(|(rate, step)| (1..300).map(move |number| (rate, number * step * 10 % 60_000)))
        {
            let (mut timer, begun) = (MinRateTimer::default(), Instant::now());
            let mut at = 0;
            while at < 600_000 {
                let moved = if at < offset { 0 } else { 4_000_000 };
                let arrived = at * rate / 1_000 / 2_920 * 2_920;
                let left = timer.update(moved, || Some(arrived), LIMITS, begun + Duration::from_millis(at));
                let left =
                    left.unwrap_or_else(|| panic!("{rate} bytes/s, {offset} ms: given up after {at} ms"));
                let next = at + u64::try_from(left.as_millis()).unwrap().max(1);
                at = if at < offset { next.min(offset) } else { next };
            }
        }
    }

    #[test]
    fn moved_bytes_without_acknowledgement_extend_the_timeout_by_a_few_seconds() {
        assert_eq!(given_up_reading(1_000, 1, |_| 0), Some(34));
        assert_eq!(given_up_reading(1_000, 1, |second| second.min(45) * 1_000), Some(79));
    }

    /// The kernel accepts much at once. The client's kernel acknowledges what fits into its receive buffer.
    #[test]
    fn a_client_that_reads_nothing_is_too_slow_within_35_seconds() {
        for filled_after in [0, 1, 4, 5] {
            let arrived = |second: u64| 65_536 * second.min(filled_after);
            let given_up = given_up_reading(160_000, 10_000, arrived).unwrap();
            assert!((30..=35).contains(&given_up), "{filled_after}: {given_up}");
        }
    }

    #[test]
    fn short_pauses_do_not_restart_the_idle_timeout() {
        let (mut timer, begun) = (MinRateTimer::default(), Instant::now());
        let given_up = (0..100).find(|second| {
            let now = begun + Duration::from_secs(*second);
            let over = timer.update(0, || None, LIMITS, now).is_none();
            timer.pause(now + Duration::from_millis(900));
            over
        });
        assert!(given_up.is_some_and(|second| second <= 34), "{given_up:?}");
    }
}
