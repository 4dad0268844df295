//! The end of a worker's life, as its connections learn of it.
//!
//! A connection asks at moments when it could stop, and is woken once when the time comes. Nothing is locked: all of this
//! stays on the worker's thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Whether the worker drains, and whom to wake when it begins to.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    on: Cell<bool>,
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

impl Drain {
    pub(crate) fn begin(&self) {
        self.on.set(true);
        for waker in self.wakers.borrow().iter().flatten() {
            waker.wake_by_ref();
        }
    }
}

/// One connection's view of it.
#[derive(Debug)]
pub(crate) struct Watching {
    drain: Rc<Drain>,
    place: Option<usize>,
}

impl Watching {
    pub(crate) fn new(drain: Rc<Drain>) -> Self {
        Self { drain, place: None }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.drain.on.get()
    }

    /// Returns once the worker has drained for so long.
    pub(crate) async fn begun_for(&mut self, time: Duration) {
        poll_fn(|cx| if self.poll(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        tokio::time::sleep(time).await;
    }

    /// Whether the worker drains. From the first call on the task is woken when that changes; it must stay the same task.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> bool {
        if self.place.is_none() {
            let waker = Some(cx.waker().clone());
            let mut wakers = self.drain.wakers.borrow_mut();
            let place = self.drain.free.borrow_mut().pop();
            let place = place.unwrap_or(wakers.len());
            match wakers.get_mut(place) {
                Some(free) => *free = waker,
                None => wakers.push(waker),
            }
            self.place = Some(place);
        }
        self.is_on()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.drain.wakers.borrow_mut()[place] = None;
            self.drain.free.borrow_mut().push(place);
        }
    }
}
