//! A deadline that moves with every request and costs next to nothing to move.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// One timer for the whole life of a connection. It goes off no later than the deadline; when it goes off early,
/// because the deadline has moved on meanwhile, it is set again. So a busy connection touches the timer wheel once in a
/// while, not at every request.
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

    /// The same, counted from a time that is at hand.
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
