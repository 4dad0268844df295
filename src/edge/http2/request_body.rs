//! The body of an HTTP/2 request.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::RecvStream;

use crate::codec::transfer::Sender;
use crate::edge::http2::coalescing_io::Arrivals;
use crate::edge::http2::flood_guard::FloodGuard;
use crate::proxy::connection::Stream;
use crate::proxy::error::UploadError;
use crate::proxy::exchange::WaitingOn;
use crate::request::error_page::Failure;

/// How much of an upload is discarded after its response, and for how long.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// The body of a request.
pub(super) struct RequestBody {
    /// None: the body has ended.
    body: Option<RecvStream>,
    /// Received data that has not been sent to the upstream.
    frame: Bytes,
    /// The last byte of a body of known length, held back until the client has ended the stream. Before that the
    /// request is incomplete (RFC 9113 section 8.1.1), and iMIS must not process it.
    last_byte: Bytes,
    /// The number of bytes that are still to be received, if the request has a Content-Length.
    left: Option<u64>,
    received: u64,
    /// Bytes of the response that were passed to h2.
    pub(super) handed_over: u64,
    stream: u32,
    flood_guard: Rc<FloodGuard>,
    arrivals: Arrivals,
    waits: bool,
}

impl RequestBody {
    pub(super) fn new(body: RecvStream, flood_guard: Rc<FloodGuard>, arrivals: Arrivals) -> Self {
        let stream = body.stream_id().as_u32();
        let body = (!body.is_end_stream()).then_some(body);
        flood_guard.begin(stream);
        Self {
            body,
            frame: Bytes::new(),
            last_byte: Bytes::new(),
            left: None,
            received: 0,
            handed_over: 0,
            stream,
            flood_guard,
            arrivals,
            waits: false,
        }
    }

    /// Sets the Content-Length of the request.
    pub(super) fn expect(&mut self, bytes: u64) {
        self.left = Some(bytes);
    }

    /// Sets whether the gateway waits for the client.
    pub(super) fn set_waits(&mut self, waits: bool) {
        if waits != self.waits {
            self.waits = waits;
            self.flood_guard.set_waiting(waits);
        }
    }

    /// Whether the end of the body has been received.
    fn is_complete(&self) -> bool {
        self.body.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    /// Whether the stream is still open although the request has a Content-Length of 0.
    pub(super) fn is_unconfirmed(&self) -> bool {
        self.left == Some(0) && self.received == 0 && self.body.is_some()
    }

    /// Reads and discards the rest of the body, up to a limit.
    pub(super) async fn discard(&mut self) {
        let Some(body) = &mut self.body else { return };
        let discard = async {
            let mut discarded = 0;
            while let Some(Ok(frame)) = body.data().await
                && discarded < MAX_DISCARDED_BYTES
            {
                discarded += frame.len();
                // Extends the window. Fails only if the stream has been reset.
                let _ = body.flow_control().release_capacity(frame.len());
            }
        };
        let _ = tokio::time::timeout(DISCARD_TIMEOUT, discard).await;
    }

    pub(super) fn has_body(&self) -> bool {
        self.body.is_some()
    }

    /// Reads a body of at most `max` bytes, which must be complete within `timeout`.
    pub(super) async fn read_form(&mut self, max: usize, timeout: Duration) -> Result<Bytes, Failure> {
        let mut form = Vec::new();
        self.set_waits(true);
        let collected = tokio::time::timeout(timeout, async {
            while let Some(body) = &mut self.body {
                match body.data().await {
                    Some(Ok(frame)) => {
                        form.extend_from_slice(&frame);
                        // Extends the window. Fails only if the stream has been reset.
                        let _ = body.flow_control().release_capacity(frame.len());
                        if form.len() > max {
                            return Err(Failure::FormTooLarge);
                        }
                    }
                    Some(Err(error)) => {
                        return Err(Failure::UploadBroken(UploadError::Stream(error)));
                    }
                    None => self.body = None,
                }
            }
            Ok(())
        });
        let collected = collected.await.unwrap_or(Err(Failure::RequestTimeout));
        self.set_waits(false);
        collected.map(|()| form.into())
    }

    /// Implements `Upload::poll_upload`.
    pub(super) fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        (sender, stream): (&mut Sender, &mut Stream),
        mut may_end: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            if self.is_complete() {
                ready!(may_end(cx));
            }
            let last = self.body.is_none();
            while !self.frame.is_empty() || !sender.is_over(last) {
                let sent = ready!(sender.poll_send(cx, stream, &self.frame, last));
                let sent = sent.map_err(UploadError::Upstream)?;
                self.frame.advance(sent);
                if let Some(body) = &mut self.body {
                    // Extends the window. Fails only if the stream has been reset.
                    let _ = body.flow_control().release_capacity(sent);
                }
            }
            let Some(body) = &mut self.body else {
                return sender.poll_flush(cx, stream).map_err(UploadError::Upstream);
            };
            match Pin::new(body).poll_data(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.received += frame.len() as u64;
                    self.left = self.left.map(|left| left.saturating_sub(frame.len() as u64));
                    self.frame = frame;
                    if self.left == Some(0) && !self.frame.is_empty() && !self.is_complete() {
                        self.last_byte = self.frame.split_off(self.frame.len() - 1);
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(UploadError::Stream(error))),
                // Trailers are not forwarded (RFC 9110 section 6.5.1 lets an intermediary drop them).
                Poll::Ready(None) => {
                    self.body = None;
                    self.frame = std::mem::take(&mut self.last_byte);
                }
                Poll::Pending => {
                    ready!(sender.poll_flush(cx, stream)).map_err(UploadError::Upstream)?;
                    return Poll::Pending;
                }
            }
        }
    }

    pub(super) fn wants_data(&self) -> bool {
        self.frame.is_empty() && self.body.is_some()
    }

    pub(super) fn moved(&self, waiting_on: WaitingOn) -> u64 {
        if waiting_on == WaitingOn::ClientRead { self.handed_over } else { self.received }
    }

    /// The number of bytes that have arrived on the connection. Streams share it, so one may wait for others. A
    /// response makes no progress while the client keeps its window closed, whatever arrives on other streams.
    pub(super) fn arrived(&self, waiting_on: WaitingOn) -> Option<u64> {
        if waiting_on != WaitingOn::ClientRead {
            Some(self.flood_guard.data_received.get())
        } else if self.flood_guard.is_window_closed(self.stream, self.handed_over) {
            Some(0)
        } else {
            self.arrivals.arrived()
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.set_waits(false);
        self.flood_guard.end(self.stream);
    }
}
