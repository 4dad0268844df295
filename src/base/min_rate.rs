//! How fast a client has to read or send while the gateway waits for it: an idle time-out, and a minimum rate.
//!
//! A gap alone would be started again by every byte, so one byte now and then would keep a connection for ever. Only time in
//! which the gateway waits for the client counts; time in which it waits for iMIS does not.

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
#[derive(Debug, Default)]
pub(crate) struct MinRateTimer {
    /// When the timer was last updated; none while the gateway does not wait for the client.
    looked: Option<Instant>,
    /// Since when the gateway does not wait for the client.
    rested: Option<Instant>,
    waited: Duration,
    /// What had moved when `waited` began to be counted.
    mark: Option<Moved>,
    /// Enough had moved when it was last looked back to the mark, but not arrived.
    in_doubt: bool,
    moved: u64,
    /// When `moved` last changed.
    last_moved: Option<Instant>,
    /// What had arrived when that was last asked, and when that was.
    asked: Option<(Option<u64>, Instant)>,
}

/// So far.
#[derive(Debug, Clone, Copy)]
struct Moved {
    bytes: u64,
    /// Of them, what has arrived at the other end, where that is known.
    arrived: Option<u64>,
}

/// How often it is asked what has arrived, while bytes move.
const ASK_EVERY: Duration = Duration::from_secs(5);

impl MinRateTimer {
    /// The client is waited for, and so many bytes have moved, all in all: how long it may go on like this until it is looked
    /// at again. None when it has been too slow, and what has `arrived` shows nothing else.
    pub(crate) fn left(
        &mut self,
        moved: u64,
        arrived: impl Fn() -> Option<u64>,
        limits: Limits,
        now: Instant,
    ) -> Option<Duration> {
        let rested = self.rested.take().map_or(Duration::ZERO, |since| now - since);
        let last_moved = match self.last_moved {
            Some(last) if moved == self.moved => last + rested,
            _ => now,
        };
        if let Some(looked) = self.looked {
            self.waited += now - looked;
        }
        (self.moved, self.last_moved, self.looked) = (moved, Some(last_moved), Some(now));
        let mark = match self.mark {
            Some(mark) => mark,
            None => self.begin(moved, arrived(), now),
        };
        if last_moved == now && self.asked.is_none_or(|(_, at)| now - at >= ASK_EVERY) {
            self.asked = Some((arrived(), now));
        }
        if now - last_moved >= limits.gap {
            let arrives = arrived();
            if arrives <= self.asked.and_then(|(before, _)| before) {
                return None;
            }
            (self.last_moved, self.asked) = (Some(now), Some((arrives, now)));
        }
        if self.waited >= limits.gap {
            let arrives = arrived();
            let moved_since = moved - mark.bytes;
            let arrived_since = arrives.zip(mark.arrived).map(|(now, before)| now.saturating_sub(before));
            if arrived_since.unwrap_or(moved_since) >= limits.least() {
                self.begin(moved, arrives, now);
            } else if moved_since >= limits.least() && !self.in_doubt {
                // The data may be on its way: the kernel buffers a lot for a client that reads nothing.
                (self.in_doubt, self.waited) = (true, Duration::ZERO);
            } else {
                return None;
            }
        }
        let still = now - self.last_moved.unwrap_or(now);
        let left = limits.gap.saturating_sub(still).min(limits.gap - self.waited);
        (!left.is_zero()).then_some(left)
    }

    /// Begins to count anew.
    fn begin(&mut self, bytes: u64, arrived: Option<u64>, now: Instant) -> Moved {
        let mark = Moved { bytes, arrived };
        (self.waited, self.mark, self.in_doubt) = (Duration::ZERO, Some(mark), false);
        // Silence has a beginning of its own.
        self.asked.get_or_insert((arrived, now));
        mark
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
            let Some(left) = self.left(moved, &arrived, limits, now) else { return Poll::Ready(()) };
            deadline.set_from(now, left);
            ready!(deadline.poll(cx));
        }
    }

    /// The gateway does not wait for the client for now.
    pub(crate) fn rests(&mut self, now: Instant) {
        if let Some(looked) = self.looked.take() {
            self.waited += now - looked;
            self.rested = Some(now);
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
            pace.left(second / every * bytes, || None, limits, now).is_none()
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
            |second: u64, moved| pace.left(moved, || None, LIMITS, begun + Duration::from_secs(second));
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
            assert!(pace.left(round, || None, LIMITS, now).is_some(), "{round}");
            now += Duration::from_millis(100);
            assert!(pace.left(round, || None, LIMITS, now).is_some(), "{round}");
            pace.rests(now);
            now += Duration::from_secs(60);
        }
    }

    /// Seconds until a reader is given up that the system took `leap` bytes for every `every` seconds, while so many arrive.
    fn given_up_reading(leap: u64, every: u64, arrived: impl Fn(u64) -> u64) -> Option<u64> {
        let (mut pace, begun) = (MinRateTimer::default(), Instant::now());
        (0..3600).find(|second| {
            let now = begun + Duration::from_secs(*second);
            pace.left(second / every * leap, || Some(arrived(*second)), LIMITS, now).is_none()
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
        assert_eq!(given_up_reading(2_000_000, 1_000, |second| second.min(100) * 2_000), Some(150));
        assert_eq!(
            given_up_reading(100_000, 20, |second| second.min(5) * 2_000),
            Some(90),
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
                let left = pace.left(moved, || Some(arrived), LIMITS, begun + Duration::from_millis(at));
                let left =
                    left.unwrap_or_else(|| panic!("{rate} bytes/s, {offset} ms: given up after {at} ms"));
                let next = at + u64::try_from(left.as_millis()).unwrap().max(1);
                at = if at < offset { next.min(offset) } else { next };
            }
        }
    }

    #[test]
    fn windows_that_are_opened_by_whoever_reads_nothing_help_for_one_gap_more() {
        assert_eq!(given_up_reading(1_000, 1, |_| 0), Some(60));
        assert_eq!(given_up_reading(1_000, 1, |second| second.min(45) * 1_000), Some(120));
    }

    #[test]
    fn moments_in_which_somebody_else_is_waited_for_do_not_begin_the_silence_anew() {
        let (mut pace, begun) = (MinRateTimer::default(), Instant::now());
        let given_up = (0..100).find(|second| {
            let now = begun + Duration::from_secs(*second);
            let over = pace.left(0, || None, LIMITS, now).is_none();
            pace.rests(now + Duration::from_millis(900));
            over
        });
        assert!(given_up.is_some_and(|second| second <= 34), "{given_up:?}");
    }
}
