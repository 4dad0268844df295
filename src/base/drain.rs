//! When connections are asked to end: all of them when the worker drains, single ones when there is no place for others.
//!
//! A connection asks at moments when it could stop, and is woken once when the time comes. Nothing is locked: all of this
//! stays on the worker's thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

/// How long a client may be waited for within a request before its connection may have to make room.
const WITHIN: Duration = Duration::from_secs(2);

/// Whether the worker drains, and whom to wake when it begins to.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    on: Cell<bool>,
    /// The grace is over, too: what has no end of its own is given one.
    closing: Cell<bool>,
    /// Something was ended in the middle.
    cut: Cell<bool>,
    places: RefCell<Vec<Option<Place>>>,
    free: RefCell<Vec<usize>>,
}

#[derive(Debug)]
struct Place {
    waker: Waker,
    /// Since when the connection has had nothing to do but wait for its client; within a request, `WITHIN` later.
    waits_since: Option<Instant>,
    /// It is to make room.
    evicted: bool,
}

impl Drain {
    pub(crate) fn begin(&self) {
        self.on.set(true);
        self.wake_all();
    }

    /// What could go on for ever is closed now.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        self.wake_all();
    }

    /// Whether something was ended in the middle.
    pub(crate) fn has_cut(&self) -> bool {
        self.cut.get()
    }

    fn wake_all(&self) {
        for place in self.places.borrow().iter().flatten() {
            place.waker.wake_by_ref();
        }
    }

    /// How many connections are about to end for others.
    pub(crate) fn leaving(&self) -> usize {
        self.places.borrow().iter().flatten().filter(|place| place.evicted).count()
    }

    /// Evicts the connections that have waited longest for their clients, at most `most`. Returns how many.
    pub(crate) fn evict(&self, most: usize) -> usize {
        let mut places = self.places.borrow_mut();
        let now = Instant::now();
        let mut waiting: Vec<_> = places
            .iter_mut()
            .flatten()
            .filter(|place| !place.evicted)
            .filter_map(|place| Some((place.waits_since.filter(|since| *since <= now)?, place)))
            .collect();
        if waiting.len() > most {
            waiting.select_nth_unstable_by_key(most, |(since, _)| *since);
            waiting.truncate(most);
        }
        for (_, place) in &mut waiting {
            place.evicted = true;
            place.waker.wake_by_ref();
        }
        waiting.len()
    }
}

/// One connection's view of it.
#[derive(Debug)]
pub(crate) struct DrainWatch {
    drain: Rc<Drain>,
    place: Option<usize>,
    /// As its place has it.
    waits: bool,
}

impl DrainWatch {
    pub(crate) fn new(drain: Rc<Drain>) -> Self {
        Self { drain, place: None, waits: false }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.on.get()
    }

    /// It is ended in the middle.
    pub(crate) fn cut_off(&self) {
        self.drain.cut.set(true);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.drain.closing.get()
    }

    /// Whether the connection is to make room for another, at once.
    pub(crate) fn is_evicted(&self) -> bool {
        self.place.is_some_and(|place| {
            self.drain.places.borrow()[place].as_ref().is_some_and(|place| place.evicted)
        })
    }

    /// Returns once the worker has drained for so long, or the connection is to make room.
    pub(crate) async fn begun_for(&mut self, time: Duration) {
        poll_fn(
            |cx| if self.poll_waiting(cx) || self.is_evicted() { Poll::Ready(()) } else { Poll::Pending },
        )
        .await;
        if !self.is_evicted() {
            tokio::time::sleep(time).await;
        }
    }

    /// Whether the worker drains. From the first call on the task is woken when that changes; it must stay the same task.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> bool {
        if self.place.is_none() {
            let new = Some(Place { waker: cx.waker().clone(), waits_since: None, evicted: false });
            let mut places = self.drain.places.borrow_mut();
            let place = self.drain.free.borrow_mut().pop();
            let place = place.unwrap_or(places.len());
            match places.get_mut(place) {
                Some(free) => *free = new,
                None => places.push(new),
            }
            self.place = Some(place);
        }
        self.is_draining()
    }

    /// The same, when there is nothing to do but wait for the client: the connection may have to make room.
    pub(crate) fn poll_waiting(&mut self, cx: &Context<'_>) -> bool {
        let on = self.poll(cx);
        if !self.waits {
            self.set_waits(Some(Instant::now()));
        }
        on
    }

    /// The same within a request, when its client is waited for and iMIS is not: for a moment that is in order.
    pub(crate) fn poll_waiting_within(&mut self, cx: &Context<'_>) -> bool {
        let on = self.poll(cx);
        if !self.waits {
            self.set_waits(Some(Instant::now() + WITHIN));
        }
        on
    }

    /// There is something to do.
    pub(crate) fn works(&mut self) {
        if self.waits {
            self.set_waits(None);
        }
    }

    fn set_waits(&mut self, since: Option<Instant>) {
        self.waits = since.is_some();
        if let Some(place) = self.place
            && let Some(place) = &mut self.drain.places.borrow_mut()[place]
        {
            place.waits_since = since;
        }
    }
}

impl Drop for DrainWatch {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.drain.places.borrow_mut()[place] = None;
            self.drain.free.borrow_mut().push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_has_waited_longest_makes_room_and_nobody_who_works() {
        let drain = Rc::new(Drain::default());
        let cx = Context::from_waker(Waker::noop());
        let mut all: Vec<DrainWatch> = (0..5).map(|_| DrainWatch::new(drain.clone())).collect();
        for watching in &mut all {
            watching.poll_waiting(&cx);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        all[0].works();
        assert_eq!((drain.evict(2), drain.leaving()), (2, 2));
        let evicted = |all: &[DrainWatch]| all.iter().map(DrainWatch::is_evicted).collect::<Vec<_>>();
        assert_eq!(evicted(&all), [false, true, true, false, false]);
        assert_eq!(drain.evict(10), 2, "those that are left and wait");
        assert_eq!(evicted(&all), [false, true, true, true, true]);
        drop(all.pop());
        let mut next = DrainWatch::new(drain.clone());
        next.poll_waiting(&cx);
        assert!(!next.is_evicted(), "the place is another's now");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_within_a_request_makes_room_after_a_moment() {
        let drain = Rc::new(Drain::default());
        let cx = Context::from_waker(Waker::noop());
        let mut slow = DrainWatch::new(drain.clone());
        slow.poll_waiting_within(&cx);
        tokio::time::advance(WITHIN - Duration::from_millis(1)).await;
        assert_eq!(drain.evict(1), 0);
        slow.works();
        slow.poll_waiting_within(&cx);
        tokio::time::advance(Duration::from_millis(2)).await;
        assert_eq!(drain.evict(1), 0, "it has moved");
        tokio::time::advance(WITHIN).await;
        assert_eq!(drain.evict(1), 1);
    }
}
