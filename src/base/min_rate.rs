//! How fast a client has to read or send while the gateway waits for it: an idle time-out, and a minimum rate.
//!
//! A gap alone would be started again by every byte, so one byte now and then would keep a connection for ever. Only
//! time in which the gateway waits for the client counts; time in which it waits for iMIS does not.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::deadline::Deadline;

/// What clients are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// They may move nothing for so long.
    pub(crate) gap: Duration,
    /// The minimum rate in bytes per second, averaged over `gap` of waiting; 0 = none.
    pub(crate) rate: u64,
}

impl Limits {
    /// Bytes that have to move in one gap.
    fn least(self) -> u64 {
        u64::try_from(u128::from(self.rate) * self.gap.as_millis() / 1000).unwrap_or(u64::MAX)
    }
}

/// One body on its way to or from a client.
///
/// What the kernel takes of a response says little: it buffers megabytes for a client that reads nothing. So where the
/// kernel tells what has arrived at the client, that counts. A client with a full receive buffer acknowledges in steps,
/// of up to a sixteenth of the buffer on Linux: if it takes longer than `gap` for one step, it is too slow, however
/// steadily it reads.
#[derive(Debug, Default)]
pub(crate) struct MinRateTimer {
    /// When the timer was last updated; none while the gateway does not wait for the client.
    updated: Option<Instant>,
    /// Since when the gateway does not wait for the client.
    paused: Option<Instant>,
    /// How much had moved at the last update, and when that last changed.
    moved: Option<(u64, Instant)>,
    /// How much had arrived when the kernel was last asked, and when that was.
    arrived: Option<(Option<u64>, Instant)>,
    /// When the client last made progress: when something arrived, or, where that is not known, moved.
    progress: Option<Instant>,
    /// The beginning of the time over which the rate is averaged.
    average: Option<Average>,
}

#[derive(Debug, Clone, Copy)]
struct Average {
    /// How long the client has been waited for since then.
    waited: Duration,
    moved: u64,
    arrived: Option<u64>,
    /// The rate was too low, but enough has moved that may still be on its way.
    is_extended: bool,
}

/// How often the kernel is asked what has arrived.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// How long data that has just moved may be on its way.
const TRANSIT: Duration = Duration::from_secs(4);

impl MinRateTimer {
    /// The gateway waits for the client, and `moved` bytes have moved in all. Returns the time until the next update,
    /// or `None` if the client is too slow. `arrived`: how much of it has arrived at the client, where that is known.
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
            if arrived_since >= limits.least() {
                average = Average { arrived: latest, ..new };
            } else if moved_since >= limits.least() && !average.is_extended {
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

    /// The same with a deadline: ready when the client has been too slow.
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

    /// The gateway does not wait for the client for now.
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

    /// Seconds until a client that moves `bytes` every `every` seconds is too slow; none when it is not within an hour.
    fn given_up(bytes: u64, every: u64, limits: Limits) -> Option<u64> {
        let (mut pace, begun) = (MinRateTimer::default(), Instant::now());
        (0..3600).find(|second| {
            let now = begun + Duration::from_secs(*second);
            pace.update(second / every * bytes, || None, limits, now).is_none()
        })
    }

    #[test]
    fn silence_ends_after_the_gap_and_dripping_does_not_begin_it_again() {
        assert_eq!(given_up(0, 1, LIMITS), Some(30));
        assert_eq!(given_up(1, 2, LIMITS), Some(30));
        assert_eq!(given_up(239, 1, LIMITS), Some(30));
        assert_eq!(given_up(240, 1, LIMITS), None);
        assert_eq!(given_up(10_000, 29, LIMITS), None);
        assert_eq!(given_up(1, 2, Limits { rate: 0, ..LIMITS }), None, "as slow as they like");
        assert_eq!(given_up(1, 31, Limits { rate: 0, ..LIMITS }), Some(30));
    }

    #[test]
    fn after_a_burst_silence_is_not_allowed_for_longer() {
        let (mut pace, begun) = (MinRateTimer::default(), Instant::now());
        let mut at =
            |second: u64, moved| pace.update(moved, || None, LIMITS, begun + Duration::from_secs(second));
        assert!(at(0, 0).is_some());
        assert!(at(20, 10_000_000).is_some());
        assert_eq!(at(49, 10_000_000), Some(Duration::from_secs(1)));
        assert_eq!(at(50, 10_000_000), None);
    }

    #[test]
    fn time_in_which_somebody_else_is_waited_for_does_not_count() {
        let (mut pace, mut now) = (MinRateTimer::default(), Instant::now());
        for round in 0..100 {
            // One byte a round, and an answer that takes a minute.
            assert!(pace.update(round, || None, LIMITS, now).is_some(), "{round}");
            now += Duration::from_millis(100);
            assert!(pace.update(round, || None, LIMITS, now).is_some(), "{round}");
            pace.pause(now);
            now += Duration::from_secs(60);
        }
    }

    /// Seconds until a reader is given up that the system took `leap` bytes for every `every` seconds, while so many
    /// arrive.
    fn given_up_reading(leap: u64, every: u64, arrived: impl Fn(u64) -> u64) -> Option<u64> {
        let (mut pace, begun) = (MinRateTimer::default(), Instant::now());
        (0..3600).find(|second| {
            let now = begun + Duration::from_secs(*second);
            pace.update(second / every * leap, || Some(arrived(*second)), LIMITS, now).is_none()
        })
    }

    #[test]
    fn what_arrives_counts_where_the_system_takes_it_in_leaps() {
        // Two megabytes at a time, of which 2 KB a second arrive.
        assert_eq!(given_up_reading(2_000_000, 1_000, |second| second * 2_000), None);
        assert_eq!(given_up_reading(2_000_000, 1_000, |second| second * 240), None);
        // Dripping, and silence after a while, or after the system took much.
        assert_eq!(given_up_reading(2_000_000, 1_000, |second| second * 200), Some(30));
        assert_eq!(given_up_reading(2_000_000, 1_000, |_| 65_536), Some(30));
        assert_eq!(given_up_reading(2_000_000, 1_000, |second| second.min(100) * 2_000), Some(130));
        assert_eq!(
            given_up_reading(100_000, 20, |second| second.min(5) * 2_000),
            Some(35),
            "not read any more"
        );
    }

    #[test]
    fn slow_and_steady_readers_are_not_cut_off_whenever_it_is_looked() {
        // Acknowledged segment by segment, while the system took a lot once, some time after the beginning.
        for (rate, offset) in [(400, 1), (1_000, 7), (10_000, 13), (50_000, 29)]
            .into_iter()
            .flat_map(|(rate, step)| (1..300).map(move |number| (rate, number * step * 10 % 60_000)))
        {
            let (mut pace, begun) = (MinRateTimer::default(), Instant::now());
            let mut at = 0;
            while at < 600_000 {
                let moved = if at < offset { 0 } else { 4_000_000 };
                let arrived = at * rate / 1_000 / 2_920 * 2_920;
                let left = pace.update(moved, || Some(arrived), LIMITS, begun + Duration::from_millis(at));
                let left =
                    left.unwrap_or_else(|| panic!("{rate} bytes/s, {offset} ms: given up after {at} ms"));
                let next = at + u64::try_from(left.as_millis()).unwrap().max(1);
                at = if at < offset { next.min(offset) } else { next };
            }
        }
    }

    #[test]
    fn opening_windows_without_reading_helps_for_a_few_seconds() {
        assert_eq!(given_up_reading(1_000, 1, |_| 0), Some(34));
        assert_eq!(given_up_reading(1_000, 1, |second| second.min(45) * 1_000), Some(79));
    }

    /// The kernel takes a lot at once, of which the client's kernel takes a part.
    #[test]
    fn a_client_that_reads_nothing_is_too_slow_within_35_seconds() {
        for filled_after in [0, 1, 4, 5] {
            let arrived = |second: u64| 65_536 * second.min(filled_after);
            let given_up = given_up_reading(160_000, 10_000, arrived).unwrap();
            assert!((30..=35).contains(&given_up), "{filled_after}: {given_up}");
        }
    }

    #[test]
    fn moments_in_which_somebody_else_is_waited_for_do_not_begin_the_silence_anew() {
        let (mut pace, begun) = (MinRateTimer::default(), Instant::now());
        let given_up = (0..100).find(|second| {
            let now = begun + Duration::from_secs(*second);
            let over = pace.update(0, || None, LIMITS, now).is_none();
            pace.pause(now + Duration::from_millis(900));
            over
        });
        assert!(given_up.is_some_and(|second| second <= 34), "{given_up:?}");
    }
}
