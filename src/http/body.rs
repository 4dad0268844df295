//! The body of a response: made here, or streamed from the upstream frame by frame without being collected.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::access::Access;

/// What is sent to the browser.
pub(crate) struct Body {
    source: Source,
    access: Option<Access>,
    /// Held until the body is done with.
    under_way: Option<TaskTrackerToken>,
}

enum Source {
    Whole(Option<Bytes>),
    Upstream(Incoming),
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self { source: Source::Whole(None), access: None, under_way: None }
    }

    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self { source: Source::Whole(Some(bytes)), access: None, under_way: None }
    }

    pub(crate) fn upstream(incoming: Incoming) -> Self {
        Self { source: Source::Upstream(incoming), access: None, under_way: None }
    }

    /// Counts as a request under way until it is done with.
    pub(super) fn under_way(mut self, token: TaskTrackerToken) -> Self {
        self.under_way = Some(token);
        self
    }

    /// Has `access` count this body and write its line when the body is done with.
    pub(super) fn followed_by(mut self, mut access: Access) -> Self {
        if http_body::Body::is_end_stream(&self) {
            access.complete();
        }
        self.access = Some(access);
        self
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = match &mut self.source {
            Source::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Upstream(incoming) => match std::task::ready!(Pin::new(incoming).poll_frame(cx)) {
                // Trailers are not forwarded (RFC 9110 section 6.5.1 lets an intermediary drop them).
                Some(Ok(frame)) if frame.is_trailers() => Poll::Ready(None),
                other => Poll::Ready(other),
            },
        };
        let ended = http_body::Body::is_end_stream(&*self);
        if let (Poll::Ready(frame), Some(access)) = (&polled, &mut self.access) {
            match frame {
                Some(Ok(frame)) => {
                    access.count(frame.data_ref().map_or(0, Bytes::len));
                    if ended {
                        access.complete();
                    }
                }
                Some(Err(_)) => access.upstream_broke(),
                None => access.complete(),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(bytes) => bytes.is_none(),
            Source::Upstream(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Source::Upstream(incoming) => incoming.size_hint(),
        }
    }
}
