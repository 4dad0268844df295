//! Limits the number of concurrent requests to iMIS. Further requests wait for a short time. If the queue is too long,
//! they are rejected at once.
//!
//! A request takes a permit before its last bytes are sent, because iMIS begins to work on a complete request. It
//! returns the permit when the response head arrives, or after `LONG`. So slow clients, reports and long polls hold no
//! permits.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config::UpstreamLimits;

/// A request that takes longer than this is a report or a long poll, and no longer counts against the limit.
pub(crate) const LONG: Duration = Duration::from_secs(5);
/// After a request has been rejected, the queue stays short for this many queue time-outs.
const REMEMBERED: u32 = 10;

/// The permits of one site, shared by all workers.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit {
    free: Semaphore,
    limits: UpstreamLimits,
    queue: Mutex<Queue>,
}

/// The number of waiting requests, and how many got a permit recently.
#[derive(Debug)]
struct Queue {
    waiting: usize,
    /// How many waiting requests got a permit in the period of one queue time-out that began at `since`, and in the
    /// period before.
    served: usize,
    served_before: usize,
    since: Instant,
    /// When a request was last rejected.
    last_rejection: Option<Instant>,
}

/// No permit is available in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy;

impl ConcurrencyLimit {
    pub(crate) fn new(limits: UpstreamLimits) -> Self {
        let queue =
            Queue { waiting: 0, served: 0, served_before: 0, since: Instant::now(), last_rejection: None };
        Self { free: Semaphore::new(limits.concurrent_requests), limits, queue: Mutex::new(queue) }
    }

    /// Takes a permit. The caller must give it back.
    async fn take(&self) -> Result<(), Busy> {
        match self.free.try_acquire() {
            Ok(permit) => permit.forget(),
            Err(_) => Box::pin(self.wait()).await?,
        }
        Ok(())
    }

    async fn wait(&self) -> Result<(), Busy> {
        let waiting = self.with_queue(|queue| {
            let has_room = queue.waiting < queue.max_waiting(self.limits, Instant::now());
            queue.waiting += usize::from(has_room);
            has_room.then(|| Waiting(self)).ok_or(Busy)
        })?;
        let permit = tokio::time::timeout(self.limits.queue_timeout, self.free.acquire()).await;
        let Ok(Ok(permit)) = permit else {
            self.with_queue(|queue| queue.last_rejection = Some(Instant::now()));
            return Err(Busy);
        };
        permit.forget();
        self.with_queue(|queue| queue.served += 1);
        drop(waiting);
        Ok(())
    }

    fn with_queue<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        change(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Queue {
    /// How many requests may wait: after a rejection, as many as recently got a permit within one queue time-out.
    fn max_waiting(&mut self, limits: UpstreamLimits, now: Instant) -> usize {
        if now - self.since >= limits.queue_timeout {
            let is_recent = now - self.since < limits.queue_timeout * 2;
            self.served_before = if is_recent { self.served } else { 0 };
            (self.served, self.since) = (0, now);
        }
        match self.last_rejection {
            Some(at) if now - at < limits.queue_timeout * REMEMBERED => {
                self.served.max(self.served_before).max(limits.concurrent_requests / 4).max(1)
            }
            Some(_) | None => usize::MAX,
        }
    }
}

/// Counts a waiting request.
struct Waiting<'a>(&'a ConcurrencyLimit);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.with_queue(|queue| queue.waiting -= 1);
    }
}

/// The permits that the requests of one worker hold.
#[derive(Debug)]
pub(crate) struct HeldPermits {
    pub(super) limit: Arc<ConcurrencyLimit>,
    /// When each permit was taken. None: the entry is unused, or the permit has been released.
    since: RefCell<Vec<Option<Instant>>>,
    /// Unused entries of `since`.
    free: RefCell<Vec<usize>>,
}

/// A permit. It is returned when this is dropped, or after `LONG`.
#[derive(Debug)]
pub(super) struct Permit {
    held: Rc<HeldPermits>,
    index: usize,
}

impl HeldPermits {
    pub(super) fn new(limit: Arc<ConcurrencyLimit>) -> Rc<Self> {
        Rc::new(Self { limit, since: RefCell::default(), free: RefCell::default() })
    }

    async fn take(self: Rc<Self>) -> Result<Permit, Busy> {
        self.limit.take().await?;
        let (mut all, now) = (self.since.borrow_mut(), Some(Instant::now()));
        let index = match self.free.borrow_mut().pop() {
            Some(index) => index,
            None => {
                all.push(None);
                all.len() - 1
            }
        };
        all[index] = now;
        drop(all);
        Ok(Permit { held: self, index })
    }

    /// Returns the permits that have been held for `LONG`.
    pub(crate) fn release_long(&self) {
        let now = Instant::now();
        for since in self.since.borrow_mut().iter_mut() {
            if since.is_some_and(|since| now - since >= LONG) {
                *since = None;
                self.limit.free.add_permits(1);
            }
        }
    }
}

/// The state of a request's permit.
#[derive(Default)]
pub(super) enum PermitWait {
    /// No permit was needed yet.
    NotNeeded(Rc<HeldPermits>),
    Waiting(Pin<Box<dyn Future<Output = Result<Permit, Busy>>>>),
    /// Held until the response begins.
    Held(#[expect(dead_code, reason = "held until it is dropped")] Permit),
    Rejected,
    /// The response has begun.
    #[default]
    Done,
}

impl PermitWait {
    /// Ready when the last bytes of the request may be sent. Pending forever if the permit was rejected.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self {
                Self::Held(_) | Self::Done => return Poll::Ready(()),
                Self::Rejected => return Poll::Pending,
                Self::NotNeeded(held) => *self = Self::Waiting(Box::pin(held.clone().take())),
                Self::Waiting(waiting) => match waiting.as_mut().poll(cx) {
                    Poll::Ready(Ok(permit)) => *self = Self::Held(permit),
                    Poll::Ready(Err(Busy)) => *self = Self::Rejected,
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    /// Takes a permit for a request that is complete.
    pub(super) async fn held(held: &Rc<HeldPermits>) -> Result<Self, Busy> {
        Ok(Self::Held(held.clone().take().await?))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.held.since.borrow_mut()[self.index].take().is_some() {
            self.held.limit.free.add_permits(1);
        }
        self.held.free.borrow_mut().push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;

    fn held(requests: usize) -> Rc<HeldPermits> {
        HeldPermits::new(Arc::new(ConcurrencyLimit::new(UpstreamLimits {
            concurrent_requests: requests,
            queue_timeout: Duration::from_secs(1),
        })))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_permit_until_the_queue_timeout() {
        let held = held(1);
        let permit = held.clone().take().await.unwrap();
        let begun = Instant::now();
        assert_eq!(held.clone().take().await.unwrap_err(), Busy);
        assert_eq!(begun.elapsed().as_secs(), 1);
        let (second, ()) = tokio::join!(held.clone().take(), async { drop(permit) });
        assert!(second.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_rejection_most_excess_requests_are_rejected_at_once() {
        let held = held(4);
        // Each request takes a second, so four finish per second. Twenty arrive per second.
        let ask = |number: u32| {
            let held = &held;
            async move {
                tokio::time::sleep(Duration::from_millis(50) * number).await;
                let begun = Instant::now();
                let Ok(_permit) = held.clone().take().await else { return Some(begun.elapsed().as_millis()) };
                tokio::time::sleep(Duration::from_secs(1)).await;
                None
            }
        };
        let (mut good, mut quick, mut slow) = (0, 0, 0);
        for outcome in join_all((0..400).map(ask)).await {
            match outcome {
                None => good += 1,
                Some(0..=10) => quick += 1,
                Some(_) => slow += 1,
            }
        }
        // In twenty seconds about eighty are served. Most of the others are rejected at once.
        assert!((76..=88).contains(&good), "{good}");
        assert!(quick > slow, "{quick} at once, {slow} after a while");
        assert_eq!(held.limit.with_queue(|queue| queue.waiting), 0);
        assert_eq!(held.limit.free.available_permits(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rejection_the_queue_is_not_limited() {
        let held = held(2);
        let ask = || async {
            let _permit = held.clone().take().await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok::<_, Busy>(())
        };
        assert!(join_all((0..1_000).map(|_| ask())).await.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_request_returns_its_permit_once() {
        let held = held(1);
        let report = held.clone().take().await.unwrap();
        tokio::time::advance(LONG).await;
        held.release_long();
        let page = held.clone().take().await.unwrap();
        drop(report);
        assert_eq!(held.limit.free.available_permits(), 0, "it had returned its permit already");
        drop(page);
        assert_eq!(held.limit.free.available_permits(), 1);
    }
}
