//! Whether an HTTP/2 connection has anything to do: when it is idle, and when the gateway drains.
//!
//! A response is handed to hyper before it has left the machine, and how much of it waits in hyper's buffers or for the
//! client's HTTP/2 window cannot be asked. So a connection on which something has lately gone out is left to close by
//! itself, and only one that merely stayed open is closed for it.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::BrowserTimeouts;
use crate::deadline::Deadline;
use crate::drain::Watching;

/// A connection without any request has this long to take note that it is being closed.
const UNUSED_GRACE: Duration = Duration::from_secs(2);
/// When nothing has gone out for this long, all has arrived, or the client does not read.
const DELIVERED_AFTER: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is going on on one connection.
#[derive(Default)]
pub(super) struct Activity {
    under_way: Cell<usize>,
    /// When a response was last handed over, or some of one last went out.
    last_moved: Cell<Option<Instant>>,
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
        self.0.last_moved.set(Some(Instant::now()));
    }
}

impl Activity {
    /// Something has gone out. Before the first response that is no more than the manners of the protocol.
    pub(super) fn moved(&self) {
        if self.last_moved.get().is_some() {
            self.last_moved.set(Some(Instant::now()));
        }
    }

    /// Runs a connection to its end. Once the worker drains, or when there has been no request for too long, it is told to
    /// `close`, and given up (`None`) when it has nothing to finish.
    pub(super) async fn serve<C: Future>(
        &self,
        mut connection: Pin<&mut C>,
        close: impl FnOnce(Pin<&mut C>),
        mut draining: Watching,
        timeouts: BrowserTimeouts,
    ) -> Option<C::Output> {
        let begun = Instant::now();
        let mut deadline = Deadline::after(timeouts.request_head.min(timeouts.idle));
        let ended = poll_fn(|cx| {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(Some(ended));
            }
            while deadline.poll(cx).is_ready() {
                match self.left_of(timeouts, begun) {
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
            let quiet = match self.last_moved.get() {
                Some(last) => last.elapsed() > DELIVERED_AFTER,
                None => told.elapsed() > UNUSED_GRACE,
            };
            if quiet && self.under_way.get() == 0 {
                return None;
            }
        }
    }

    /// How much longer a connection may be without a request; none when that is over.
    fn left_of(&self, timeouts: BrowserTimeouts, begun: Instant) -> Option<Duration> {
        if self.under_way.get() > 0 {
            return Some(timeouts.idle);
        }
        let left = match self.last_moved.get() {
            Some(last) => timeouts.idle.saturating_sub(last.elapsed()),
            None => timeouts.request_head.saturating_sub(begun.elapsed()),
        };
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Drain;

    const TIMEOUTS: BrowserTimeouts = BrowserTimeouts {
        handshake: Duration::from_secs(10),
        request_head: Duration::from_secs(60),
        gap: Duration::from_secs(60),
        idle: Duration::from_secs(75),
        drain: Duration::from_secs(300),
    };

    /// Seconds until a connection that never ends by itself is given up, while something goes out every 5 s for `moving`
    /// seconds; and when it was told to close.
    async fn given_up(
        activity: &Activity,
        drain: &Rc<Drain>,
        timeouts: BrowserTimeouts,
        moving: u64,
    ) -> (u64, u64) {
        let begun = Instant::now();
        let told = Cell::new(0);
        let connection = std::pin::pin!(std::future::pending::<()>());
        let close = |_: Pin<&mut std::future::Pending<()>>| told.set(begun.elapsed().as_secs());
        let served = activity.serve(connection, close, Watching::new(drain.clone()), timeouts);
        let movement = async {
            while begun.elapsed().as_secs() < moving {
                tokio::time::sleep(Duration::from_secs(5)).await;
                activity.moved();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = served => assert!(ended.is_none()),
            () = movement => {}
        }
        (begun.elapsed().as_secs(), told.get())
    }

    fn answered_once() -> Rc<Activity> {
        let activity = Rc::new(Activity::default());
        drop(UnderWay::begin(&activity));
        activity
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_still_takes_what_was_answered_is_not_idle() {
        let (_, told) = given_up(&answered_once(), &Rc::default(), TIMEOUTS, 100).await;
        assert_eq!(told, 175);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_still_takes_what_was_answered_is_drained_for() {
        let drain = Rc::new(Drain::default());
        drain.begin();
        let (given_up, told) = given_up(&answered_once(), &drain, TIMEOUTS, 60).await;
        assert_eq!(told, 0);
        assert!((80..=81).contains(&given_up), "{given_up}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_for_a_first_request_and_the_time_between_requests_are_two() {
        let short = BrowserTimeouts { idle: Duration::from_secs(2), ..TIMEOUTS };
        assert_eq!(given_up(&answered_once(), &Rc::default(), short, 0).await.1, 2);
        assert_eq!(given_up(&Activity::default(), &Rc::default(), short, 0).await.1, 60, "none has come yet");
        let long = BrowserTimeouts { idle: Duration::from_secs(600), ..TIMEOUTS };
        assert_eq!(given_up(&answered_once(), &Rc::default(), long, 0).await.1, 600);
        assert_eq!(given_up(&Activity::default(), &Rc::default(), long, 0).await.1, 60);
    }
}
