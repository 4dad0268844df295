//! A deadline that is cheap to move.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The deadline of a connection, which moves with every request. Its timer fires no later than the deadline. If it
/// fires early, because the deadline has moved on, it is set again. So most moves do not touch the timer wheel.
#[derive(Debug)]
pub(crate) struct Deadline {
    at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        let at = Instant::now() + limit;
        Self { at, timer: Box::pin(sleep_until(at)) }
    }

    /// Moves the deadline.
    pub(crate) fn set(&mut self, limit: Duration) {
        self.set_from(Instant::now(), limit);
    }

    /// Moves the deadline to `limit` after `now`.
    pub(crate) fn set_from(&mut self, now: Instant, limit: Duration) {
        self.at = now + limit;
        if self.at < self.timer.deadline() {
            self.timer.as_mut().reset(self.at);
        }
    }

    /// Ready once the deadline has passed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if Instant::now() >= self.at {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_moves_both_ways() {
        let begun = Instant::now();
        let mut deadline = Deadline::after(Duration::from_secs(10));
        deadline.set(Duration::from_secs(100));
        poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 100, "not early");
        deadline.set(Duration::from_secs(50));
        deadline.set(Duration::from_secs(5));
        poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 105, "not late");
    }
}
