//! The body of a request on its way to the upstream, and the moment it has all been taken.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A request body that tells when its end has been read, or when it was given up.
pub(super) struct Upload {
    /// None: there is no body.
    body: Option<Incoming>,
    unfinished: Option<DropGuard>,
    broke: Rc<Cell<bool>>,
}

/// What has become of an `Upload`.
#[derive(Clone)]
pub(super) struct Sent {
    done: CancellationToken,
    broke: Rc<Cell<bool>>,
}

impl Upload {
    pub(super) fn of(body: Incoming) -> (Self, Sent) {
        Self::new((!body.is_end_stream()).then_some(body))
    }

    pub(super) fn empty() -> (Self, Sent) {
        Self::new(None)
    }

    fn new(body: Option<Incoming>) -> (Self, Sent) {
        let (done, broke) = (CancellationToken::new(), Rc::new(Cell::new(false)));
        let guard = done.clone().drop_guard();
        let unfinished = body.is_some().then_some(guard);
        (Self { body, unfinished, broke: broke.clone() }, Sent { done, broke })
    }
}

impl Sent {
    /// Returns when the end has been read, or the body was given up.
    pub(super) async fn wait(&self) {
        self.done.cancelled().await;
    }

    /// Whether the browser broke off or sent what is no body.
    pub(super) fn broke(&self) -> bool {
        self.broke.get()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        if let Some(Err(_)) = &frame {
            self.broke.set(true);
        }
        if !matches!(frame, Some(Ok(_))) || self.is_end_stream() {
            self.unfinished = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
