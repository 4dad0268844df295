//! Asks connections to end: all of them when the worker drains, idle ones to make room for others (eviction).
//!
//! A connection polls where it could end, and is woken when it should. Everything stays on the worker's thread, so
//! there are no locks.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

/// How long a request may wait for its client before the connection may be evicted.
const EVICTION_DELAY: Duration = Duration::from_secs(2);

/// The drain of a worker, and the connections to wake when it begins.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    is_draining: Cell<bool>,
    /// The drain time-out has expired: connections that do not end by themselves are closed.
    is_closing: Cell<bool>,
    /// A request or handshake was interrupted.
    has_aborted: Cell<bool>,
    connections: RefCell<Slab<Connection>>,
}

#[derive(Debug)]
struct Connection {
    waker: Waker,
    /// Since when the connection only waits for its client. Within a request: `EVICTION_DELAY` later.
    idle_since: Option<Instant>,
    is_evicted: bool,
}

impl Drain {
    pub(crate) fn begin(&self) {
        self.is_draining.set(true);
        self.wake_all();
    }

    /// Closes connections that do not end by themselves.
    pub(crate) fn close(&self) {
        self.is_closing.set(true);
        self.wake_all();
    }

    /// Whether a request or handshake was interrupted.
    pub(crate) fn has_aborted(&self) -> bool {
        self.has_aborted.get()
    }

    fn wake_all(&self) {
        self.connections.borrow().iter().for_each(|(_, connection)| connection.waker.wake_by_ref());
    }

    /// The number of evicted connections that have not ended yet.
    pub(crate) fn evicted(&self) -> usize {
        self.connections.borrow().iter().filter(|(_, connection)| connection.is_evicted).count()
    }

    /// Evicts the connections that have waited longest for their clients, at most `max`. Returns how many.
    pub(crate) fn evict(&self, max: usize) -> usize {
        let mut connections = self.connections.borrow_mut();
        let now = Instant::now();
        let waiting = connections.iter_mut().filter(|(_, connection)| !connection.is_evicted);
        let mut waiting: Vec<_> = waiting
            .filter_map(|(_, connection)| {
                Some((connection.idle_since.filter(|since| *since <= now)?, connection))
            })
            .collect();
        if waiting.len() > max {
            waiting.select_nth_unstable_by_key(max, |(since, _)| *since);
            waiting.truncate(max);
        }
        for (_, connection) in &mut waiting {
            connection.is_evicted = true;
            connection.waker.wake_by_ref();
        }
        waiting.len()
    }
}

/// The registration of one connection with the drain.
#[derive(Debug)]
pub(crate) struct DrainWatch {
    drain: Rc<Drain>,
    /// Its key in `Drain::connections`, after the first poll.
    key: Option<usize>,
    /// Whether `idle_since` is set.
    is_idle: bool,
}

impl DrainWatch {
    pub(crate) fn new(drain: Rc<Drain>) -> Self {
        Self { drain, key: None, is_idle: false }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_draining.get()
    }

    /// Records that a request or handshake was interrupted.
    pub(crate) fn record_abort(&self) {
        self.drain.has_aborted.set(true);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.drain.is_closing.get()
    }

    /// Whether the connection must close to make room for others.
    pub(crate) fn is_evicted(&self) -> bool {
        self.key.is_some_and(|key| self.drain.connections.borrow()[key].is_evicted)
    }

    /// Returns when the worker has drained for this time, or the connection is evicted.
    pub(crate) async fn drained_for(&mut self, time: Duration) {
        poll_fn(|cx| if self.poll_idle(cx) || self.is_evicted() { Poll::Ready(()) } else { Poll::Pending })
            .await;
        if !self.is_evicted() {
            tokio::time::sleep(time).await;
        }
    }

    /// Whether the worker drains. The task of the first call is woken when that changes; later calls must come from
    /// the same task.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> bool {
        self.key.get_or_insert_with(|| {
            let connection = Connection { waker: cx.waker().clone(), idle_since: None, is_evicted: false };
            self.drain.connections.borrow_mut().insert(connection)
        });
        self.is_draining()
    }

    /// Whether the worker drains, for a connection that waits for its client between requests. It may be evicted.
    pub(crate) fn poll_idle(&mut self, cx: &Context<'_>) -> bool {
        self.poll_idle_after(cx, Duration::ZERO)
    }

    /// Whether the worker drains, for a connection with a request that waits for its client and not for iMIS. It may be
    /// evicted after `EVICTION_DELAY`.
    pub(crate) fn poll_idle_within_request(&mut self, cx: &Context<'_>) -> bool {
        self.poll_idle_after(cx, EVICTION_DELAY)
    }

    fn poll_idle_after(&mut self, cx: &Context<'_>, delay: Duration) -> bool {
        let is_draining = self.poll(cx);
        if !self.is_idle {
            self.set_idle_since(Some(Instant::now() + delay));
        }
        is_draining
    }

    /// Marks the connection as busy: it cannot be evicted.
    pub(crate) fn set_busy(&mut self) {
        if self.is_idle {
            self.set_idle_since(None);
        }
    }

    fn set_idle_since(&mut self, since: Option<Instant>) {
        self.is_idle = since.is_some();
        if let Some(key) = self.key {
            self.drain.connections.borrow_mut()[key].idle_since = since;
        }
    }
}

impl Drop for DrainWatch {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.drain.connections.borrow_mut().remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connections_are_evicted_and_busy_ones_are_not() {
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
        assert_eq!(drain.evict(10), 2, "the other idle ones");
        assert_eq!(evicted(&all), [false, true, true, true, true]);
        drop(all.pop());
        let mut next = DrainWatch::new(drain.clone());
        next.poll_idle(&cx);
        assert!(!next.is_evicted(), "the key belongs to another connection now");
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
        assert_eq!(drain.evict(1), 0, "it was busy in between");
        tokio::time::advance(EVICTION_DELAY).await;
        assert_eq!(drain.evict(1), 1);
    }
}
