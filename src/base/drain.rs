//! Asks connections to close: all of them when the worker drains, and idle ones when the connection limit is reached.
//!
//! A connection polls at moments when it could close, and is woken when it is asked to. Everything stays on the thread
//! of one worker, so there are no locks.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

/// How long a request may wait for its client before the connection may be evicted.
const EVICTION_DELAY: Duration = Duration::from_secs(2);

/// The state of a worker's drain, and the connections that wait for it.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    is_draining: Cell<bool>,
    /// The drain time-out is over: WebSockets are closed.
    is_closing: Cell<bool>,
    /// A connection was closed in the middle of a request.
    has_aborted: Cell<bool>,
    connections: RefCell<Vec<Option<Waiting>>>,
    free: RefCell<Vec<usize>>,
}

#[derive(Debug)]
struct Waiting {
    waker: Waker,
    /// Since when the connection waits for its client only; within a request, `EVICTION_DELAY` later.
    idle_since: Option<Instant>,
    /// It was asked to close, to make room for another connection.
    is_evicted: bool,
}

impl Drain {
    pub(crate) fn begin(&self) {
        self.is_draining.set(true);
        self.wake_all();
    }

    /// Closes what has no end of its own: WebSockets.
    pub(crate) fn close(&self) {
        self.is_closing.set(true);
        self.wake_all();
    }

    /// Whether a connection was closed in the middle of a request.
    pub(crate) fn has_aborted(&self) -> bool {
        self.has_aborted.get()
    }

    fn wake_all(&self) {
        for waiting in self.connections.borrow().iter().flatten() {
            waiting.waker.wake_by_ref();
        }
    }

    /// The number of connections that were evicted and have not closed yet.
    pub(crate) fn evicted(&self) -> usize {
        self.connections.borrow().iter().flatten().filter(|waiting| waiting.is_evicted).count()
    }

    /// Evicts the connections that have waited longest for their clients, at most `most`. Returns how many.
    pub(crate) fn evict(&self, most: usize) -> usize {
        let mut connections = self.connections.borrow_mut();
        let now = Instant::now();
        let mut idle: Vec<_> = connections
            .iter_mut()
            .flatten()
            .filter(|waiting| !waiting.is_evicted)
            .filter_map(|waiting| Some((waiting.idle_since.filter(|since| *since <= now)?, waiting)))
            .collect();
        if idle.len() > most {
            idle.select_nth_unstable_by_key(most, |(since, _)| *since);
            idle.truncate(most);
        }
        for (_, waiting) in &mut idle {
            waiting.is_evicted = true;
            waiting.waker.wake_by_ref();
        }
        idle.len()
    }
}

/// A connection that watches the drain of its worker.
#[derive(Debug)]
pub(crate) struct DrainWatch {
    drain: Rc<Drain>,
    /// Its position in `Drain::connections`.
    index: Option<usize>,
    /// Whether it has an `idle_since` there.
    is_idle: bool,
}

impl DrainWatch {
    pub(crate) fn new(drain: Rc<Drain>) -> Self {
        Self { drain, index: None, is_idle: false }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_draining.get()
    }

    /// Notes that the connection is closed in the middle of a request.
    pub(crate) fn record_abort(&self) {
        self.drain.has_aborted.set(true);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.drain.is_closing.get()
    }

    /// Whether the connection has to close at once, to make room for another.
    pub(crate) fn is_evicted(&self) -> bool {
        self.index.is_some_and(|index| {
            self.drain.connections.borrow()[index].as_ref().is_some_and(|waiting| waiting.is_evicted)
        })
    }

    /// Returns when the worker has drained for `time`, or the connection is evicted.
    pub(crate) async fn drained_for(&mut self, time: Duration) {
        poll_fn(|cx| if self.poll_idle(cx) || self.is_evicted() { Poll::Ready(()) } else { Poll::Pending })
            .await;
        if !self.is_evicted() {
            tokio::time::sleep(time).await;
        }
    }

    /// Whether the worker drains. From the first call on, the task is woken when that changes; it must stay the same
    /// task.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> bool {
        if self.index.is_none() {
            let new = Some(Waiting { waker: cx.waker().clone(), idle_since: None, is_evicted: false });
            let mut connections = self.drain.connections.borrow_mut();
            let free = self.drain.free.borrow_mut().pop();
            let index = free.unwrap_or(connections.len());
            match connections.get_mut(index) {
                Some(free) => *free = new,
                None => connections.push(new),
            }
            self.index = Some(index);
        }
        self.is_draining()
    }

    /// The same for a connection that only waits for its client: it may be evicted.
    pub(crate) fn poll_idle(&mut self, cx: &Context<'_>) -> bool {
        let is_draining = self.poll(cx);
        if !self.is_idle {
            self.set_idle_since(Some(Instant::now()));
        }
        is_draining
    }

    /// The same within a request that waits for its client and not for iMIS: it may be evicted after a moment.
    pub(crate) fn poll_idle_within_request(&mut self, cx: &Context<'_>) -> bool {
        let is_draining = self.poll(cx);
        if !self.is_idle {
            self.set_idle_since(Some(Instant::now() + EVICTION_DELAY));
        }
        is_draining
    }

    /// The connection does not wait for its client.
    pub(crate) fn set_busy(&mut self) {
        if self.is_idle {
            self.set_idle_since(None);
        }
    }

    fn set_idle_since(&mut self, since: Option<Instant>) {
        self.is_idle = since.is_some();
        if let Some(index) = self.index
            && let Some(waiting) = &mut self.drain.connections.borrow_mut()[index]
        {
            waiting.idle_since = since;
        }
    }
}

impl Drop for DrainWatch {
    fn drop(&mut self) {
        if let Some(index) = self.index {
            self.drain.connections.borrow_mut()[index] = None;
            self.drain.free.borrow_mut().push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_connections_that_are_idle_longest_are_evicted_and_busy_ones_are_not() {
        let drain = Rc::new(Drain::default());
        let cx = Context::from_waker(Waker::noop());
        let mut all: Vec<DrainWatch> = (0..5).map(|_| DrainWatch::new(drain.clone())).collect();
        for watching in &mut all {
            watching.poll_idle(&cx);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        all[0].set_busy();
        assert_eq!((drain.evict(2), drain.evicted()), (2, 2));
        let evicted = |all: &[DrainWatch]| all.iter().map(DrainWatch::is_evicted).collect::<Vec<_>>();
        assert_eq!(evicted(&all), [false, true, true, false, false]);
        assert_eq!(drain.evict(10), 2, "those that are left and wait");
        assert_eq!(evicted(&all), [false, true, true, true, true]);
        drop(all.pop());
        let mut next = DrainWatch::new(drain.clone());
        next.poll_idle(&cx);
        assert!(!next.is_evicted(), "the place is another's now");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_waits_within_a_request_is_evicted_after_a_delay() {
        let drain = Rc::new(Drain::default());
        let cx = Context::from_waker(Waker::noop());
        let mut slow = DrainWatch::new(drain.clone());
        slow.poll_idle_within_request(&cx);
        tokio::time::advance(EVICTION_DELAY - Duration::from_millis(1)).await;
        assert_eq!(drain.evict(1), 0);
        slow.set_busy();
        slow.poll_idle_within_request(&cx);
        tokio::time::advance(Duration::from_millis(2)).await;
        assert_eq!(drain.evict(1), 0, "it has moved");
        tokio::time::advance(EVICTION_DELAY).await;
        assert_eq!(drain.evict(1), 1);
    }
}
