//! The body of a response that goes out over HTTP/2 as it comes from the upstream.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use super::upload::FromStream;
use crate::http1::transfer::ReceiveError;
use crate::proxy::exchange::{Exchange, Patience, Sending};
use crate::worker::Worker;

/// The body of a response, as the upstream sends it.
///
/// hyper asks for more of it only while the browser takes it. What has to go on meanwhile, the upload that is still under
/// way and the deadlines, goes on in a task beside it (`attend`).
pub(in crate::http) struct Streamed(Rc<RefCell<Passing>>);

struct Passing {
    /// Until it is over, or given up.
    exchange: Option<Exchange>,
    /// Why it was given up.
    broke: Option<BodyBroke>,
    upload: FromStream,
    /// The upstream keeps its connection.
    keep: bool,
    /// The browser has taken all that there was.
    waits_for_upstream: bool,
    /// When something last passed, in either direction.
    last_moved: Instant,
    reader: Option<Waker>,
    attendant: Option<Waker>,
    worker: Rc<Worker>,
    site: usize,
}

/// Why a body breaks off.
#[derive(Debug, thiserror::Error)]
pub(in crate::http) enum BodyBroke {
    #[error("the upstream")]
    Upstream(#[source] ReceiveError),
    #[error("the upstream fell silent within the body")]
    UpstreamSilent,
    #[error("the browser takes no more of the body")]
    BrowserSilent,
    #[error("the request's body broke off")]
    Upload,
}

impl Streamed {
    pub(in crate::http) fn new(
        exchange: Exchange,
        upload: FromStream,
        keep: bool,
        worker: Rc<Worker>,
        site: usize,
    ) -> Self {
        let mut passing = Passing {
            exchange: Some(exchange),
            broke: None,
            upload,
            keep,
            waits_for_upstream: false,
            last_moved: Instant::now(),
            reader: None,
            attendant: None,
            worker,
            site,
        };
        passing.notice_end();
        let attended = passing.exchange.is_some();
        let streamed = Self(Rc::new(RefCell::new(passing)));
        if attended {
            tokio::task::spawn_local(attend(Rc::downgrade(&streamed.0)));
        }
        streamed
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.borrow().is_over()
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyBroke>>> {
        self.0.borrow_mut().poll_frame(cx)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let passing = self.0.borrow();
        let left = match (&passing.exchange, passing.is_over()) {
            (Some(exchange), _) => exchange.connection.receiver.left(),
            (None, over) => over.then_some(0),
        };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if let Some(attendant) = self.0.borrow_mut().attendant.take() {
            attendant.wake();
        }
    }
}

/// Moves an upload on and keeps the deadlines, for as long as somebody holds the body and it is not over.
async fn attend(passing: Weak<RefCell<Passing>>) {
    poll_fn(|cx| match passing.upgrade() {
        Some(passing) => passing.borrow_mut().poll_attend(cx),
        None => Poll::Ready(()),
    })
    .await;
}

impl Passing {
    fn patience(&self) -> Patience {
        self.worker.upstreams[self.site].patience
    }

    fn is_over(&self) -> bool {
        self.broke.is_none()
            && self.exchange.as_ref().is_none_or(|exchange| exchange.connection.receiver.is_taken())
    }

    /// Gives the connection back once everything has been taken from it.
    fn notice_end(&mut self) {
        let Some(exchange) = self.exchange.take_if(|exchange| {
            exchange.connection.receiver.is_taken() && exchange.sending != Sending::UnderWay
        }) else {
            return;
        };
        // Over HTTP/2 no connection is a browser's alone.
        drop(self.worker.upstreams[self.site].settle(exchange, self.keep));
        if let Some(attendant) = self.attendant.take() {
            attendant.wake();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyBroke>>> {
        if let Some(broke) = self.broke.take() {
            return Poll::Ready(Some(Err(broke)));
        }
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
        let connection = &mut *exchange.connection;
        match connection.receiver.poll_body(cx, &mut connection.stream) {
            Poll::Ready(Ok(())) if connection.receiver.is_taken() => {
                self.notice_end();
                // An upload that nobody waits for any more is given up with its connection.
                self.exchange = None;
                Poll::Ready(None)
            }
            Poll::Ready(Ok(())) => {
                let bytes = connection.receiver.take();
                self.waits_for_upstream = false;
                self.last_moved = Instant::now();
                self.notice_end();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(BodyBroke::Upstream(error)))),
            Poll::Pending => {
                self.waits_for_upstream = true;
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_attend(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let patience = self.patience();
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(()) };
        if exchange.sending == Sending::UnderWay {
            if let Poll::Ready(Err(_)) = exchange.poll_send(cx, &mut self.upload) {
                return self.give_up(BodyBroke::Upload);
            }
            if exchange.progressed(&self.upload) {
                self.last_moved = Instant::now();
            }
        }
        self.attendant = Some(cx.waker().clone());
        loop {
            let waits_for_browser = !self.waits_for_upstream || exchange.waits_for_browser(&self.upload);
            let gap = if waits_for_browser { patience.browser } else { patience.upstream };
            let still = self.last_moved.elapsed();
            if still >= gap {
                let broke =
                    if waits_for_browser { BodyBroke::BrowserSilent } else { BodyBroke::UpstreamSilent };
                return self.give_up(broke);
            }
            // Nobody wakes this task at every piece that passes, or when it is the other side's turn: it looks in time.
            exchange.connection.deadline.set(gap.min(patience.browser).saturating_sub(still));
            if exchange.connection.deadline.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Lets go of the upstream; the browser's stream is reset when it next asks.
    fn give_up(&mut self, broke: BodyBroke) -> Poll<()> {
        self.exchange = None;
        self.broke = Some(broke);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(())
    }
}
