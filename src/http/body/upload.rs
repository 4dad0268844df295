//! The body of a request that comes over HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::http1::transfer::Sender;
use crate::proxy::connection::Stream;
use crate::proxy::exchange::{Upload, UploadError};

/// The body of a request, from a stream of HTTP/2.
pub(in crate::http) struct FromStream {
    /// None: there is no more.
    body: Option<Incoming>,
    frame: Bytes,
    received: u64,
}

impl FromStream {
    pub(in crate::http) fn new(body: Incoming) -> Self {
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

    fn wants_data(&self) -> bool {
        self.frame.is_empty() && self.body.is_some()
    }

    fn received(&self) -> u64 {
        self.received
    }
}
