//! Whether an HTTP/2 connection has anything to do: when it is idle, and when the gateway drains.
//!
//! A response is handed to hyper before it has left the machine, and how much of it waits in hyper's buffers or for the
//! client's HTTP/2 window cannot be asked. So a connection that has lately answered something is left to close by itself,
//! and only one that merely stayed open is closed for it.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::config::BrowserTimeouts;
use crate::deadline::Deadline;
use crate::drain::Watching;

/// A connection without any request has this long to take note that it is being closed.
const UNUSED_GRACE: Duration = Duration::from_secs(2);
/// A response that was handed over this long ago has arrived, or the client does not read.
const DELIVERED_AFTER: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is going on on one connection.
#[derive(Default)]
pub(super) struct Activity {
    under_way: Cell<usize>,
    last_answered: Cell<Option<Instant>>,
}

/// A request that is being answered, until its body has been handed over.
pub(super) struct UnderWay(Rc<Activity>);

impl UnderWay {
    pub(super) fn begin(activity: &Rc<Activity>) -> Self {
        activity.under_way.set(activity.under_way.get() + 1);
        Self(activity.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
        self.0.last_answered.set(Some(Instant::now()));
    }
}

impl Activity {
    /// Runs a connection to its end. Once the worker drains, or when there has been no request for too long, it is told to
    /// `close`, and given up (`None`) when it has nothing to finish.
    pub(super) async fn serve<C: Future>(
        &self,
        mut connection: Pin<&mut C>,
        close: impl FnOnce(Pin<&mut C>),
        mut draining: Watching,
        timeouts: BrowserTimeouts,
    ) -> Option<C::Output> {
        let mut deadline = Deadline::after(timeouts.request_head);
        let ended = poll_fn(|cx| {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(Some(ended));
            }
            while deadline.poll(cx).is_ready() {
                match self.left_of(timeouts.idle) {
                    Some(left) => deadline.set(left),
                    None => return Poll::Ready(None),
                }
            }
            if draining.poll(cx) { Poll::Ready(None) } else { Poll::Pending }
        });
        if let Some(ended) = ended.await {
            return Some(ended);
        }
        close(connection.as_mut());
        let told = Instant::now();
        loop {
            tokio::select! {
                ended = connection.as_mut() => return Some(ended),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let quiet = match self.last_answered.get() {
                Some(last) => last.elapsed() > DELIVERED_AFTER,
                None => told.elapsed() > UNUSED_GRACE,
            };
            if quiet && self.under_way.get() == 0 {
                return None;
            }
        }
    }

    /// How much longer a connection may be idle; none when that is over.
    fn left_of(&self, idle: Duration) -> Option<Duration> {
        if self.under_way.get() > 0 {
            return Some(idle);
        }
        let left = idle.saturating_sub(self.last_answered.get()?.elapsed());
        (!left.is_zero()).then_some(left)
    }
}
