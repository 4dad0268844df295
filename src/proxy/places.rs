//! How much iMIS is given to do at a time: what is beyond that waits a little, and what cannot wait is answered at once.
//!
//! Only requests that have arrived whole take a place, and they give it back with the head of the response: a slow browser
//! holds none.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::UpstreamLimits;

/// The places of one site, shared by all workers.
#[derive(Debug)]
pub(crate) struct Places {
    free: Semaphore,
    waiting: AtomicUsize,
    limits: UpstreamLimits,
}

/// There is none, and none has become free in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy;

impl Places {
    pub(crate) fn new(limits: UpstreamLimits) -> Self {
        Self { free: Semaphore::new(limits.requests), waiting: AtomicUsize::new(0), limits }
    }

    /// A place, until it is dropped.
    pub(crate) async fn take(&self) -> Result<SemaphorePermit<'_>, Busy> {
        match self.free.try_acquire() {
            Ok(place) => Ok(place),
            Err(_) => Box::pin(self.wait()).await,
        }
    }

    async fn wait(&self) -> Result<SemaphorePermit<'_>, Busy> {
        let waiting = Waiting::begin(&self.waiting);
        if waiting.before >= self.limits.requests {
            return Err(Busy);
        }
        match tokio::time::timeout(self.limits.wait, self.free.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(Busy),
        }
    }
}

/// Counts somebody who waits.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_waits_a_little_and_who_finds_a_queue_does_not() {
        let places = Places::new(UpstreamLimits { requests: 1, wait: Duration::from_secs(1) });
        let place = places.take().await.unwrap();
        let begun = Instant::now();
        let (second, third) = tokio::join!(places.take(), places.take());
        assert_eq!((second.unwrap_err(), third.unwrap_err()), (Busy, Busy));
        assert_eq!(begun.elapsed().as_secs(), 1, "one of them has waited");
        let (fourth, ()) = tokio::join!(places.take(), async { drop(place) });
        assert!(fourth.is_ok());
        assert_eq!(places.waiting.load(Ordering::Relaxed), 0);
    }
}
