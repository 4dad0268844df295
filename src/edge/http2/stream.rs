//! One request on an HTTP/2 stream, and its response.

use std::borrow::Cow;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use tokio::time::Instant;

use crate::codec::Length;
use crate::codec::head::{self, MAX_FIELDS};
use crate::codec::message::HeadError;
use crate::codec::transfer::Sender;
use crate::edge::http2::flood_guard::FloodGuard;
use crate::edge::http2::request_body::RequestBody;
use crate::edge::http2::request_head;
use crate::edge::http2::response_head;
use crate::proxy::connection::{Connection as UpstreamConnection, Stream};
use crate::proxy::error::{UploadError, UpstreamError};
use crate::proxy::exchange::{Upload, WaitingOn};
use crate::proxy::headers::{self, HeadChanges};
use crate::request::access_log::Access;
use crate::request::client_stream::{Abort, ClientStream, ReceivedHead, Refusal, RelayError};
use crate::request::error_page::Failure;

/// What an error page costs the connection (`flood_guard`).
const ERROR_PAGE_COST: u32 = 20;
/// How long a client whose upload has stalled has to read the error page.
const STALLED_UPLOAD_PAGE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long h2 has to write the rest of an incomplete response before the stream is reset. A reset discards unwritten
/// data.
const FLUSH_BEFORE_RESET: Duration = Duration::from_millis(50);

/// One request and its response.
pub(super) struct Http2Stream {
    /// None after the request head has been read.
    head: Option<Box<Parts>>,
    body: RequestBody,
    reply: SendResponse<Bytes>,
    flood_guard: Rc<FloodGuard>,
    /// How long the client has to read a page.
    page_timeout: Duration,
    is_head: bool,
    /// The client waits for `100 Continue` (RFC 9110 section 10.1.1).
    expects_continue: bool,
    /// The response head, until it is sent with the body.
    response: Option<Response<()>>,
    /// The response body, once its head has been sent.
    sending: Option<SendStream<Bytes>>,
    /// Data from the upstream that has not been sent.
    piece: Bytes,
    /// The end of the response has been sent.
    ended: bool,
    /// The response is incomplete: the stream is reset after the received part of it has been sent.
    reset_later: Option<Reason>,
}

impl Http2Stream {
    pub(super) fn new(
        head: Parts,
        body: RequestBody,
        reply: SendResponse<Bytes>,
        flood_guard: Rc<FloodGuard>,
        page_timeout: Duration,
    ) -> Self {
        Self {
            is_head: head.method == http::Method::HEAD,
            head: Some(Box::new(head)),
            body,
            reply,
            flood_guard,
            page_timeout,
            expects_continue: false,
            response: None,
            sending: None,
            piece: Bytes::new(),
            ended: false,
            reset_later: None,
        }
    }

    /// Ends the stream after the response. The rest of an upload is read and discarded for a short time, because
    /// clients may discard a response if a reset follows at once (RFC 9113 section 8.1).
    pub(super) async fn finish(&mut self) {
        match self.reset_later.take() {
            Some(code) => {
                tokio::time::sleep(FLUSH_BEFORE_RESET).await;
                self.reset(code);
            }
            None => self.body.discard().await,
        }
    }

    fn reset(&mut self, code: Reason) {
        match &mut self.sending {
            Some(sending) => sending.send_reset(code),
            None => self.reply.send_reset(code),
        }
    }

    fn send_continue(&mut self) {
        if std::mem::take(&mut self.expects_continue) {
            // Fails only if the stream has been reset, which is detected later.
            let _ = self.reply.send_informational(response_head::new(StatusCode::CONTINUE));
        }
    }
}

impl Upload for Http2Stream {
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        to: (&mut Sender, &mut Stream),
        may_end: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<Result<(), UploadError>> {
        self.send_continue();
        self.body.poll_upload(cx, to, may_end)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sending {
            Some(sending) => sending.poll_reset(cx).map(|_| ()),
            None => self.reply.poll_reset(cx).map(|_| ()),
        }
    }

    fn wants_data(&self) -> bool {
        self.body.wants_data()
    }

    fn moved(&self, waiting_on: WaitingOn) -> u64 {
        self.body.moved(waiting_on)
    }

    fn arrived(&self, waiting_on: WaitingOn) -> Option<u64> {
        self.body.arrived(waiting_on)
    }

    /// Always pending: the connection is evicted as a whole.
    fn poll_evicted(&mut self, _: &mut Context<'_>, is_waited_for: bool) -> Poll<()> {
        self.body.set_waits(is_waited_for);
        Poll::Pending
    }
}

impl ClientStream for Http2Stream {
    type Fields<'a> = &'a HeaderMap;

    fn read_head<T>(&mut self, read: impl FnOnce(ReceivedHead<'_, Self::Fields<'_>>) -> T) -> T {
        let Some(mut head) = self.head.take() else {
            return read(ReceivedHead::unreadable(Failure::Internal));
        };
        let too_many = head.headers.len() > MAX_FIELDS;
        headers::join_cookie_crumbs(&mut head.headers);
        let authority = request_head::authority(&head);
        let request = if too_many {
            Err(Refusal::Page(Failure::Malformed(HeadError::TooLarge)))
        } else {
            request_head::read(&head, authority.as_ref(), self.body.has_body())
        };
        if let Ok(request) = &request {
            self.expects_continue = self.body.has_body() && request_head::expects_continue(&head);
            if let Length::Known(bytes) = request.length {
                self.body.expect(bytes);
            }
        }
        read(ReceivedHead {
            method: head.method.as_str(),
            host: Cow::Borrowed(head.uri.host().unwrap_or_default()),
            path: head.uri.path(),
            version: "HTTP/2.0",
            fields: Some(&head.headers),
            request,
        })
    }

    async fn begin_request_body(&mut self) -> Result<(), Failure> {
        // A request that the client has already reset is not started.
        if self.poll_gone(&mut Context::from_waker(Waker::noop())).is_ready() {
            return Err(Failure::ClientGone);
        }
        if self.body.is_unconfirmed() {
            self.read_form(0, self.page_timeout).await?;
        }
        Ok(())
    }

    fn has_whole_body(&self) -> bool {
        !self.body.has_body()
    }

    async fn read_form(&mut self, max: usize, timeout: Duration) -> Result<Bytes, Failure> {
        self.send_continue();
        self.body.read_form(max, timeout).await
    }

    async fn send_page(&mut self, page: Response<Bytes>, failure: Option<&Failure>, access: &mut Access) {
        let stalled = matches!(failure, Some(Failure::UploadStalled));
        if failure.is_some() {
            self.flood_guard.charge(ERROR_PAGE_COST);
            self.flood_guard.closing.set(self.flood_guard.closing.get() || stalled);
        }
        let timeout = if stalled { STALLED_UPLOAD_PAGE_TIMEOUT } else { self.page_timeout };
        let status = page.status();
        let (mut head, bytes) = page.into_parts();
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        let bytes = if self.is_head { Bytes::new() } else { bytes };
        access.answered(status);
        let Ok(mut body) = self.reply.send_response(Response::from_parts(head, ()), bytes.is_empty()) else {
            return;
        };
        let length = bytes.len() as u64;
        self.body.set_waits(true);
        let (end, mut rest) = (Instant::now() + timeout, bytes);
        while !rest.is_empty() {
            match tokio::time::timeout_at(end, poll_fn(|cx| poll_room(cx, &mut body, rest.len()))).await {
                Ok(Some(room)) => {
                    let piece = rest.split_to(room);
                    if body.send_data(piece, rest.is_empty()).is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                // The client has kept its window closed.
                Err(_) => {
                    body.send_reset(Reason::CANCEL);
                    return self.flood_guard.closing.set(true);
                }
            }
        }
        access.count(length);
        access.complete();
    }

    fn write_interim(
        &mut self,
        response: &head::Response<'_, '_>,
        bytes: &[u8],
    ) -> Result<(), UpstreamError> {
        // Fails only if the stream has been reset, which is detected later.
        let _ = self.reply.send_informational(response_head::convert(response, bytes)?);
        Ok(())
    }

    async fn flush_interim(&mut self) -> Result<(), RelayError> {
        Ok(())
    }

    fn write_head(
        &mut self,
        response: &head::Response<'_, '_>,
        bytes: &[u8],
        changes: &HeadChanges<'_>,
        _: bool,
    ) -> Result<(), UpstreamError> {
        let mut converted = response_head::convert(response, bytes)?;
        response_head::apply(changes, converted.headers_mut())?;
        self.response = Some(converted);
        Ok(())
    }

    fn discard_head(&mut self) {
        self.response = None;
    }

    fn begin_response_body(&mut self, upstream: &UpstreamConnection) -> Result<(), RelayError> {
        self.ended = upstream.receiver.is_taken();
        let response = self.response.take().ok_or(RelayError::ClientGone)?;
        let sending = self.reply.send_response(response, self.ended).map_err(|_| RelayError::ClientGone)?;
        self.sending = Some(sending);
        Ok(())
    }

    fn poll_relay(
        &mut self,
        cx: &mut Context<'_>,
        upstream: &mut UpstreamConnection,
    ) -> Poll<Result<(), RelayError>> {
        let Some(body) = &mut self.sending else { return Poll::Ready(Err(RelayError::ClientGone)) };
        while !self.ended {
            let receiver = &mut upstream.receiver;
            if self.piece.is_empty() {
                match receiver.poll_body(cx, &mut upstream.stream) {
                    Poll::Ready(Ok(())) => self.piece = receiver.take(),
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(RelayError::Upstream(UpstreamError::BodyBroke(error))));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            let over = receiver.is_taken();
            let room = if self.piece.is_empty() && over {
                0
            } else {
                match poll_room(cx, body, self.piece.len()) {
                    Poll::Ready(Some(room)) => room,
                    Poll::Ready(None) => return Poll::Ready(Err(RelayError::ClientGone)),
                    Poll::Pending => return Poll::Pending,
                }
            };
            let piece = self.piece.split_to(room);
            self.body.handed_over += piece.len() as u64;
            self.ended = over && self.piece.is_empty();
            if body.send_data(piece, self.ended).is_err() {
                return Poll::Ready(Err(RelayError::ClientGone));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_blocked(&self, _: &UpstreamConnection) -> bool {
        !self.piece.is_empty()
    }

    fn unsent(&self) -> u64 {
        self.piece.len() as u64
    }

    async fn end_response(&mut self) -> Result<(), RelayError> {
        self.flood_guard.relayed();
        Ok(())
    }

    fn abort(&mut self, reason: Abort) {
        let code = match reason {
            Abort::MalformedRequest => Reason::PROTOCOL_ERROR,
            Abort::UpstreamFailed => Reason::INTERNAL_ERROR,
            Abort::ClientStalled => Reason::CANCEL,
            Abort::ClientGone => return,
        };
        if reason == Abort::UpstreamFailed && self.sending.is_some() {
            // The received part of the response is sent first.
            self.reset_later = Some(code);
        } else {
            self.reset(code);
        }
        if reason == Abort::ClientStalled {
            self.flood_guard.closing.set(true);
        }
    }
}

/// How many of `wanted` bytes fit into the client's windows and the send buffer. None: the stream has been reset.
fn poll_room(cx: &mut Context<'_>, body: &mut SendStream<Bytes>, wanted: usize) -> Poll<Option<usize>> {
    body.reserve_capacity(wanted);
    loop {
        match body.capacity() {
            0 => {}
            room => return Poll::Ready(Some(room.min(wanted))),
        }
        match body.poll_capacity(cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        }
    }
}
