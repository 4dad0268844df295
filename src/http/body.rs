//! Bodies over HTTP/2: a page of ours, or the upstream's response streamed frame by frame, with the upload that may still
//! be going the other way.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::access::Access;
use super::activity::UnderWay;
use crate::http1::transfer::{ReceiveError, Sender};
use crate::proxy::connection::Stream;
use crate::proxy::exchange::{Exchange, Sending, Upload, UploadError};
use crate::worker::Worker;

/// The body of a request, from a stream of HTTP/2.
pub(super) struct FromStream {
    /// None: there is no more.
    body: Option<Incoming>,
    frame: Bytes,
    received: u64,
}

impl FromStream {
    pub(super) fn new(body: Incoming) -> Self {
        let body = (!http_body::Body::is_end_stream(&body)).then_some(body);
        Self { body, frame: Bytes::new(), received: 0 }
    }
}

impl Upload for FromStream {
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        sender: &mut Sender,
        stream: &mut Stream,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            let last = self.body.is_none();
            while !self.frame.is_empty() || !sender.is_over(last) {
                let sent = ready!(sender.poll_send(cx, stream, &self.frame, last));
                self.frame.advance(sent.map_err(UploadError::Upstream)?);
            }
            let Some(body) = &mut self.body else {
                return sender.poll_flush(cx, stream).map_err(UploadError::Upstream);
            };
            match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers are not forwarded (RFC 9110 section 6.5.1 lets an intermediary drop them).
                    self.frame = frame.into_data().unwrap_or_default();
                    self.received += self.frame.len() as u64;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(UploadError::Stream(error))),
                Poll::Ready(None) => self.body = None,
                Poll::Pending => {
                    ready!(sender.poll_flush(cx, stream)).map_err(UploadError::Upstream)?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// hyper drops the request when its stream is reset.
    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn received(&self) -> u64 {
        self.received
    }
}

/// The body of a response, as the upstream sends it.
pub(super) struct Streamed {
    /// Until it is over.
    exchange: Option<Exchange>,
    upload: FromStream,
    /// The upstream keeps its connection.
    keep: bool,
    worker: Rc<Worker>,
    site: usize,
}

/// Why a body breaks off.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyBroke {
    #[error("the upstream")]
    Upstream(#[source] ReceiveError),
    #[error("the upstream fell silent within the body")]
    Silent,
    #[error("the request's body broke off")]
    Upload,
}

impl Streamed {
    pub(super) fn new(
        mut exchange: Exchange,
        upload: FromStream,
        keep: bool,
        worker: Rc<Worker>,
        site: usize,
    ) -> Self {
        exchange.connection.deadline.set(worker.upstreams[site].patience.upstream);
        let mut streamed = Self { exchange: Some(exchange), upload, keep, worker, site };
        streamed.notice_end();
        streamed
    }

    /// Gives the connection back once everything has been taken from it.
    fn notice_end(&mut self) {
        if let Some(exchange) = self.exchange.take_if(|exchange| {
            exchange.connection.receiver.is_taken() && exchange.sending != Sending::UnderWay
        }) && exchange.is_reusable(self.keep)
            && !exchange.exclusive
        {
            self.worker.upstreams[self.site].put_back(exchange.connection);
        }
    }

    fn is_over(&self) -> bool {
        self.exchange.as_ref().is_none_or(|exchange| exchange.connection.receiver.is_taken())
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyBroke>>> {
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
        if exchange.sending == Sending::UnderWay
            && let Poll::Ready(Err(_)) = exchange.poll_send(cx, &mut self.upload)
        {
            return Poll::Ready(Some(Err(BodyBroke::Upload)));
        }
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
                self.notice_end();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(BodyBroke::Upstream(error)))),
            Poll::Pending => {
                if exchange.progressed(&self.upload) {
                    exchange.connection.deadline.set(self.worker.upstreams[self.site].patience.upstream);
                }
                exchange.connection.deadline.poll(cx).map(|()| Some(Err(BodyBroke::Silent)))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.exchange.as_ref().map_or(SizeHint::with_exact(0), |exchange| {
            match exchange.connection.receiver.left() {
                Some(bytes) => SizeHint::with_exact(bytes),
                None => SizeHint::default(),
            }
        })
    }
}

/// What is sent to the browser.
pub(super) enum Body {
    Whole(Bytes),
    Streamed(Box<Streamed>),
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
    _under_way: UnderWay,
}

impl Followed {
    /// `to_head`: the body is never asked for.
    pub(super) fn response(
        response: Response<Body>,
        access: Option<Access>,
        to_head: bool,
        under_way: UnderWay,
    ) -> Response<Self> {
        let status = response.status();
        response.map(|body| {
            let mut followed = Self { body, access, _under_way: under_way };
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
        if let Some(access) = &mut self.access {
            match &frame {
                Some(Ok(frame)) => access.count(frame.data_ref().map_or(0, |data| data.len() as u64)),
                Some(Err(BodyBroke::Upload)) => {}
                Some(Err(BodyBroke::Upstream(_) | BodyBroke::Silent)) => access.upstream_broke(),
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
