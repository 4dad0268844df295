//! Bodies over HTTP/2: a page of ours, or the upstream's response streamed frame by frame, with the upload that may still
//! be going the other way.

mod streamed;
mod upload;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use tracing::warn;

use super::access::Access;
use super::activity::UnderWay;
use crate::incident::Incident;
use crate::telemetry::Chain;
pub(super) use streamed::{BodyBroke, Streamed};
pub(super) use upload::FromStream;

/// What is sent to the browser.
pub(super) enum Body {
    Whole(Bytes),
    Streamed(Streamed),
}

impl Body {
    pub(super) fn empty() -> Self {
        Self::Whole(Bytes::new())
    }

    pub(super) fn whole(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Streamed(streamed) => streamed.is_over(),
        }
    }
}

/// A body whose delivery is followed: counted for the access log, and under way until it has been handed over.
pub(super) struct Followed {
    body: Body,
    access: Option<Access>,
    incident: Incident,
    _under_way: UnderWay,
}

impl Followed {
    /// `to_head`: the body is never asked for.
    pub(super) fn response(
        response: Response<Body>,
        access: Option<Access>,
        to_head: bool,
        incident: Incident,
        under_way: UnderWay,
    ) -> Response<Self> {
        let status = response.status();
        response.map(|body| {
            let mut followed = Self { body, access, incident, _under_way: under_way };
            if let Some(access) = &mut followed.access {
                access.answered(status);
                if to_head {
                    access.complete();
                }
            }
            followed.notice_end();
            followed
        })
    }

    fn notice_end(&mut self) {
        if let Some(access) = &mut self.access
            && self.body.is_over()
        {
            access.complete();
        }
    }
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = BodyBroke;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyBroke>>> {
        let frame = match &mut self.body {
            Body::Whole(bytes) if bytes.is_empty() => None,
            Body::Whole(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Body::Streamed(streamed) => ready!(streamed.poll_frame(cx)),
        };
        if let Some(Err(error @ (BodyBroke::Upstream(_) | BodyBroke::UpstreamSilent))) = &frame {
            warn!(incident = %self.incident, error = %Chain(error), "the upstream broke a response off");
        }
        if let Some(access) = &mut self.access {
            match &frame {
                Some(Ok(frame)) => access.count(frame.data_ref().map_or(0, |data| data.len() as u64)),
                Some(Err(BodyBroke::Upload | BodyBroke::BrowserSilent)) => {}
                Some(Err(BodyBroke::Upstream(_) | BodyBroke::UpstreamSilent)) => access.upstream_broke(),
                None => access.complete(),
            }
        }
        if let Some(Ok(_)) = &frame {
            self.notice_end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Streamed(streamed) => streamed.size_hint(),
        }
    }
}
