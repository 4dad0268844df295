//! How much iMIS is given to do at a time: what is beyond that waits a little, and what cannot be served in time is
//! answered at once.
//!
//! A request takes its place when it is about to be whole, since before that iMIS has nothing to work on, and gives it
//! back with the head of the response, or after `LONG`: a slow client holds none, and neither do reports and long
//! polls.

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

/// Those who wait, and how it went for others before them.
#[derive(Debug)]
struct Queue {
    waiting: usize,
    /// Who have got a place, in the waiting time that has begun at `since`, and in the one before.
    served: usize,
    served_before: usize,
    since: Instant,
    /// When a request was last rejected.
    last_rejection: Option<Instant>,
}

/// There is no place, and none will become free in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy;

impl ConcurrencyLimit {
    pub(crate) fn new(limits: UpstreamLimits) -> Self {
        let queue =
            Queue { waiting: 0, served: 0, served_before: 0, since: Instant::now(), last_rejection: None };
        Self { free: Semaphore::new(limits.concurrent_requests), limits, queue: Mutex::new(queue) }
    }

    /// Takes a permit, to be given back.
    async fn take(&self) -> Result<(), Busy> {
        match self.free.try_acquire() {
            Ok(place) => place.forget(),
            Err(_) => Box::pin(self.wait()).await?,
        }
        Ok(())
    }

    async fn wait(&self) -> Result<(), Busy> {
        let waiting = Waiting::begin(self)?;
        let place = tokio::time::timeout(self.limits.queue_timeout, self.free.acquire()).await;
        let Ok(Ok(place)) = place else {
            self.with_queue(|queue| queue.last_rejection = Some(Instant::now()));
            return Err(Busy);
        };
        place.forget();
        self.with_queue(|queue| queue.served += 1);
        drop(waiting);
        Ok(())
    }

    fn give_back(&self) {
        self.free.add_permits(1);
    }

    fn with_queue<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        change(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Queue {
    /// How many may wait: after a rejection, as many as were recently served within one queue time-out.
    fn most(&mut self, limits: UpstreamLimits, now: Instant) -> usize {
        if now - self.since >= limits.queue_timeout {
            let lately = now - self.since < limits.queue_timeout * 2;
            self.served_before = if lately { self.served } else { 0 };
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

impl<'a> Waiting<'a> {
    fn begin(limit: &'a ConcurrencyLimit) -> Result<Self, Busy> {
        limit.with_queue(|queue| {
            if queue.waiting >= queue.most(limit.limits, Instant::now()) {
                return Err(Busy);
            }
            queue.waiting += 1;
            Ok(Self(limit))
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.with_queue(|queue| queue.waiting -= 1);
    }
}

/// The permits that the requests of one worker hold.
#[derive(Debug)]
pub(crate) struct HeldPermits {
    pub(super) limit: Arc<ConcurrencyLimit>,
    since: RefCell<Vec<Option<Instant>>>,
    /// Unused entries of `since`.
    free: RefCell<Vec<usize>>,
}

/// A permit, until it is dropped, or held for too long.
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

    /// Gives back what has been held for too long.
    pub(crate) fn release_long(&self) {
        let now = Instant::now();
        for since in self.since.borrow_mut().iter_mut() {
            if since.is_some_and(|since| now - since >= LONG) {
                *since = None;
                self.limit.give_back();
            }
        }
    }
}

/// Where a request waits for its permit before the last of it goes to iMIS.
#[derive(Default)]
pub(super) enum PermitWait {
    /// No permit was needed yet.
    Before(Rc<HeldPermits>),
    Asking(Pin<Box<dyn Future<Output = Result<Permit, Busy>>>>),
    /// Until the answer comes.
    Within(#[expect(dead_code, reason = "held until it is dropped")] Permit),
    /// There was none.
    Rejected,
    /// iMIS has answered.
    #[default]
    Past,
}

impl PermitWait {
    /// Ready when the rest may go. Never in the state `Rejected`.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self {
                Self::Within(_) | Self::Past => return Poll::Ready(()),
                Self::Rejected => return Poll::Pending,
                Self::Before(held) => *self = Self::Asking(Box::pin(held.clone().take())),
                Self::Asking(asking) => match asking.as_mut().poll(cx) {
                    Poll::Ready(Ok(place)) => *self = Self::Within(place),
                    Poll::Ready(Err(Busy)) => *self = Self::Rejected,
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    /// The same at once, for a request that is whole.
    pub(super) async fn passed(held: &Rc<HeldPermits>) -> Result<Self, Busy> {
        Ok(Self::Within(held.clone().take().await?))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.held.since.borrow_mut()[self.index].take().is_some() {
            self.held.limit.give_back();
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
    async fn who_finds_no_place_waits_and_gets_one_or_is_last_rejection() {
        let held = held(1);
        let place = held.clone().take().await.unwrap();
        let begun = Instant::now();
        assert_eq!(held.clone().take().await.unwrap_err(), Busy);
        assert_eq!(begun.elapsed().as_secs(), 1);
        let (second, ()) = tokio::join!(held.clone().take(), async { drop(place) });
        assert!(second.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn once_somebody_has_waited_in_vain_only_so_many_wait_as_are_served() {
        let held = held(4);
        // Everybody is served after a second: four a second. Twenty come.
        let ask = |number: u32| {
            let held = &held;
            async move {
                tokio::time::sleep(Duration::from_millis(50) * number).await;
                let begun = Instant::now();
                let Ok(_place) = held.clone().take().await else { return Some(begun.elapsed().as_millis()) };
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
        // Twenty seconds: four a second, and of those that are sent away most at once.
        assert!((76..=88).contains(&good), "{good}");
        assert!(quick > slow, "{quick} at once, {slow} after a while");
        assert_eq!(held.limit.with_queue(|queue| queue.waiting), 0);
        assert_eq!(held.limit.free.available_permits(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn many_wait_as_long_as_all_of_them_are_served() {
        let held = held(2);
        let ask = || async {
            let _place = held.clone().take().await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok::<_, Busy>(())
        };
        assert!(join_all((0..1_000).map(|_| ask())).await.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_gives_its_place_back() {
        let held = held(1);
        let report = held.clone().take().await.unwrap();
        tokio::time::advance(LONG).await;
        held.release_long();
        let page = held.clone().take().await.unwrap();
        drop(report);
        assert_eq!(held.limit.free.available_permits(), 0, "it had none left to give back");
        drop(page);
        assert_eq!(held.limit.free.available_permits(), 1);
    }
}
