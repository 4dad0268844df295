//! The body of a response: made here, or streamed from the upstream frame by frame without being collected.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::access::Access;
use super::activity::UnderWay;

/// What is sent to the browser.
pub(crate) enum Body {
    Whole(Option<Bytes>),
    Upstream(Incoming),
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self::Whole(None)
    }

    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream(incoming) => match std::task::ready!(Pin::new(incoming).poll_frame(cx)) {
                // Trailers are not forwarded (RFC 9110 section 6.5.1 lets an intermediary drop them).
                Some(Ok(frame)) if frame.is_trailers() => Poll::Ready(None),
                other => Poll::Ready(other),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Upstream(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Upstream(incoming) => incoming.size_hint(),
        }
    }
}

/// A body whose delivery is followed: counted for the access log, and under way until it has been handed over.
pub(super) struct Followed {
    body: Body,
    access: Option<Access>,
    _under_way: UnderWay,
}

impl Followed {
    pub(super) fn response(
        response: Response<Body>,
        access: Option<Access>,
        under_way: UnderWay,
    ) -> Response<Self> {
        let access = access.map(|access| access.answered(response.status()));
        response.map(|body| {
            let mut followed = Self { body, access, _under_way: under_way };
            followed.notice_end();
            followed
        })
    }

    fn notice_end(&mut self) {
        if let Some(access) = &mut self.access
            && http_body::Body::is_end_stream(&self.body)
        {
            access.complete();
        }
    }
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(access) = &mut self.access {
            match &frame {
                Some(Ok(frame)) => access.count(frame.data_ref().map_or(0, Bytes::len)),
                Some(Err(_)) => access.upstream_broke(),
                None => access.complete(),
            }
        }
        if let Some(Ok(_)) = &frame {
            self.notice_end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
