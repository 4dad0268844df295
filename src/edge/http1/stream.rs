//! One request on an HTTP/1 connection, and its response.

use std::borrow::Cow;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::codec::fields::Fields;
use crate::codec::head::{self, ParsedHead, Request, header_slots};
use crate::codec::request_head::{HeaderFields, RequestHead};
use crate::codec::transfer::{PipeError, Sender, poll_pipe, poll_pipe_until};
use crate::codec::{Length, Version};
use crate::edge::client_socket::Socket;
use crate::edge::http1::connection::{After, Http1Connection};
use crate::proxy::connection::{Connection as UpstreamConnection, Stream};
use crate::proxy::error::UploadError;
use crate::proxy::error::UpstreamError;
use crate::proxy::exchange::{Exchange, RelayTimeouts, Upload, WaitingOn};
use crate::proxy::headers::{self, HeadChanges, ResponseFraming};
use crate::proxy::websocket_tunnel::{self, End, TunnelError};
use crate::request::access_log::Access;
use crate::request::client_stream::{Abort, ClientStream, ReceivedHead, Refusal, RelayError};
use crate::request::connection::Connection;
use crate::request::error_page::Failure;

/// How many bytes of later requests are read while a response is pending.
const MAX_READ_AHEAD: usize = 16 * 1024;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// One request and its response.
pub(super) struct Http1Stream<'a, S> {
    http1: &'a mut Http1Connection<S>,
    /// Length of the request head in bytes.
    head: usize,
    /// Why no valid head was received.
    refused: Option<Failure>,
    version: Version,
    keep_alive: bool,
    is_head: bool,
    length: Length,
    /// The head was malformed: the end of the request is unknown.
    malformed: bool,
    /// The client waits for `100 Continue` (RFC 9110 section 10.1.1).
    expects_continue: bool,
    /// `100 Continue` is being sent.
    continuing: bool,
    /// The response is complete and the connection closes after it. Both are sent in one packet.
    is_last: bool,
    after: After,
}

impl<'a, S: AsyncRead + AsyncWrite + Socket + Unpin> Http1Stream<'a, S> {
    /// Begins a request. `head`: the length of the received head, or why there is no valid one.
    pub(super) fn new(
        http1: &'a mut Http1Connection<S>,
        head: Result<usize, Failure>,
        connection: &Connection,
    ) -> Self {
        http1.used = true;
        let is_old = http1.age() >= connection.worker.gateway.timeouts.connection_age;
        let keep_alive = !is_old && !http1.is_last_request;
        http1.sender.take_buffer(&connection.worker.buffers);
        Self {
            http1,
            head: *head.as_ref().unwrap_or(&0),
            refused: head.err(),
            version: Version::Http11,
            keep_alive,
            is_head: false,
            length: Length::Known(0),
            malformed: false,
            expects_continue: false,
            continuing: false,
            is_last: false,
            after: After::Gone,
        }
    }

    /// What happens to the connection now.
    pub(super) fn after(&self) -> After {
        if self.malformed && self.after == After::Close { After::Linger } else { self.after }
    }

    fn framing(&self, length: Length, close: bool, tunnel: bool) -> ResponseFraming {
        ResponseFraming { version: self.version, length, close, tunnel }
    }
}

impl<S: AsyncRead + AsyncWrite + Socket + Unpin> Upload for Http1Stream<'_, S> {
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        to: (&mut Sender, &mut Stream),
        may_end: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<Result<(), UploadError>> {
        let Http1Connection { receiver, sender, io, .. } = &mut *self.http1;
        if self.expects_continue {
            self.expects_continue = false;
            if receiver.data().is_empty() && !receiver.is_over() {
                self.continuing = true;
                sender.head().extend_from_slice(CONTINUE);
            }
        }
        if self.continuing {
            // If it fails, sending the response fails as well.
            let _ = sender.poll_flush(cx, io);
        }
        poll_pipe_until(cx, (receiver, io), to, may_end).map_err(|error| match error {
            PipeError::Receive(error) => UploadError::Client(error),
            PipeError::Send(error) => UploadError::Upstream(error),
        })
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Http1Connection { receiver, io, .. } = &mut *self.http1;
        if !receiver.is_taken() || receiver.head().len() >= MAX_READ_AHEAD {
            return Poll::Pending;
        }
        match receiver.poll_more(cx, io) {
            Poll::Ready(Ok(true)) | Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(false) | Err(_)) => Poll::Ready(()),
        }
    }

    fn wants_data(&self) -> bool {
        self.http1.receiver.data().is_empty() && !self.http1.receiver.is_over()
    }

    fn moved(&self, waiting_on: WaitingOn) -> u64 {
        if waiting_on == WaitingOn::ClientRead {
            self.http1.sender.sent
        } else {
            self.http1.receiver.received
        }
    }

    fn arrived(&self, waiting_on: WaitingOn) -> Option<u64> {
        if waiting_on == WaitingOn::ClientRead { self.http1.io.arrived() } else { None }
    }

    fn poll_evicted(&mut self, cx: &mut Context<'_>, is_waited_for: bool) -> Poll<()> {
        let draining = &mut self.http1.draining;
        if !is_waited_for {
            draining.set_busy();
            return Poll::Pending;
        }
        draining.poll_idle_within_request(cx);
        if draining.is_evicted() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl<S: AsyncRead + AsyncWrite + Socket + Unpin> ClientStream for Http1Stream<'_, S> {
    type Fields<'a> = Fields<'a, 'a>;

    fn read_head<T>(&mut self, read: impl FnOnce(ReceivedHead<'_, Self::Fields<'_>>) -> T) -> T {
        let bytes = &self.http1.receiver.head()[..self.head];
        let mut slots = header_slots();
        let parsed = match self.refused.take() {
            Some(failure) => Err(failure),
            None => ParsedHead::parse(bytes, &mut slots).map_err(Failure::Malformed),
        };
        let parsed_head = match parsed {
            Ok(parsed_head) => parsed_head,
            Err(failure) => {
                self.is_head = self.http1.receiver.head().starts_with(b"HEAD ");
                (self.keep_alive, self.malformed, self.head) = (false, true, 0);
                return read(ReceivedHead::unreadable(failure));
            }
        };
        self.version = parsed_head.version;
        self.is_head = parsed_head.method == "HEAD";
        let request = Request::of(&parsed_head);
        let (host, request) = match &request {
            Ok(request) => {
                self.keep_alive &= request.keep_alive;
                self.length = request.length;
                self.expects_continue = request.expects_continue;
                let host = Cow::Borrowed(request.authority.map_or("", |authority| authority.host));
                (host, Ok(RequestHead::of(request, websocket_tunnel::is_wanted(request))))
            }
            Err(error) => {
                (self.keep_alive, self.malformed) = (false, true);
                let host = HeaderFields::first(&parsed_head.fields, "host").unwrap_or_default();
                (String::from_utf8_lossy(host), Err(Refusal::Page(Failure::Malformed(*error))))
            }
        };
        read(ReceivedHead {
            method: parsed_head.method,
            host,
            path: parsed_head.target.split_once('?').map_or(parsed_head.target, |(path, _)| path),
            version: match parsed_head.version {
                Version::Http10 => "HTTP/1.0",
                Version::Http11 => "HTTP/1.1",
            },
            fields: Some(parsed_head.fields),
            request,
        })
    }

    async fn begin_request_body(&mut self) -> Result<(), Failure> {
        if self.head == 0 {
            return Ok(());
        }
        let begun = self.http1.receiver.begin_body(self.head, self.length);
        begun.map_err(|error| Failure::UploadBroken(UploadError::Client(error.into())))
    }

    fn has_whole_body(&self) -> bool {
        self.http1.receiver.is_over()
    }

    async fn read_form(&mut self, max: usize, timeout: Duration) -> Result<Bytes, Failure> {
        if matches!(self.length, Length::Known(bytes) if bytes > max as u64) {
            return Err(Failure::FormTooLarge);
        }
        if self.expects_continue && self.wants_data() {
            self.http1.sender.head().extend_from_slice(CONTINUE);
            // If it fails, sending the response fails as well.
            let _ = self.http1.flush().await;
        }
        self.expects_continue = false;
        let Http1Connection { receiver, io, deadline, draining, .. } = &mut *self.http1;
        deadline.set(timeout);
        let mut form = Vec::new();
        let collected = poll_fn(|cx| {
            loop {
                form.extend_from_slice(receiver.data());
                receiver.consume(receiver.data().len());
                if form.len() > max {
                    return Poll::Ready(Err(Failure::FormTooLarge));
                }
                if receiver.is_over() {
                    return Poll::Ready(Ok(()));
                }
                match receiver.poll_body(cx, io) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(Failure::UploadBroken(UploadError::Client(error))));
                    }
                    Poll::Pending => break,
                }
            }
            draining.poll_idle_within_request(cx);
            if draining.is_evicted() {
                return Poll::Ready(Err(Failure::RequestTimeout));
            }
            deadline.poll(cx).map(|()| Err(Failure::RequestTimeout))
        })
        .await;
        draining.set_busy();
        collected.map(|()| form.into())
    }

    async fn send_page(&mut self, page: Response<Bytes>, _: Option<&Failure>, access: &mut Access) {
        let unread = !self.http1.receiver.is_taken();
        let close = !self.keep_alive || unread || self.http1.draining.is_draining();
        access.answered(page.status());
        let framing = self.framing(Length::Known(0), close, false);
        write_page(self.http1.sender.head(), &page, framing, self.is_head);
        if close && !unread {
            self.http1.io.cork();
        }
        if self.http1.flush().await.is_err() || (close && !unread && !self.http1.end().await) {
            return self.after = After::Gone;
        }
        access.count(if self.is_head { 0 } else { page.body().len() as u64 });
        access.complete();
        self.after = if close { self.http1.closing() } else { After::Another };
    }

    fn take_upstream(&mut self) -> Option<Box<UpstreamConnection>> {
        self.http1.own_upstream.take()
    }

    fn keep_upstream(&mut self, connection: Box<UpstreamConnection>) {
        self.http1.own_upstream = Some(connection);
    }

    fn write_interim(&mut self, response: &head::Response<'_, '_>, _: &[u8]) -> Result<(), UpstreamError> {
        // HTTP/1.0 has no interim responses (RFC 9110 section 15.2).
        if self.version == Version::Http11 {
            let framing = self.framing(Length::Known(0), false, false);
            headers::write_response(self.http1.sender.head(), response, framing, &HeadChanges::default());
        }
        Ok(())
    }

    async fn flush_interim(&mut self) -> Result<(), RelayError> {
        self.http1.flush().await.map_err(|_| RelayError::ClientGone)
    }

    fn write_head(
        &mut self,
        response: &head::Response<'_, '_>,
        _: &[u8],
        changes: &HeadChanges<'_>,
        request_sent: bool,
    ) -> Result<(), UpstreamError> {
        let length = match response.length {
            // HTTP/1.0 has no chunked coding: closing the connection ends the body.
            Length::Chunked | Length::UntilClose if self.version == Version::Http10 => Length::UntilClose,
            Length::Chunked | Length::UntilClose => Length::Chunked,
            Length::Known(bytes) => Length::Known(bytes),
        };
        self.keep_alive &= length != Length::UntilClose
            && request_sent
            && self.http1.receiver.is_taken()
            && !self.http1.draining.is_draining();
        let framing = self.framing(length, !self.keep_alive, false);
        headers::write_response(self.http1.sender.head(), response, framing, changes);
        self.http1.sender.begin_body(length);
        Ok(())
    }

    fn discard_head(&mut self) {
        self.http1.sender.forget();
    }

    fn begin_response_body(&mut self, upstream: &UpstreamConnection) -> Result<(), RelayError> {
        self.is_last = !self.keep_alive && self.http1.receiver.is_taken() && upstream.receiver.is_over();
        if self.is_last {
            self.http1.io.cork();
        }
        Ok(())
    }

    fn poll_relay(
        &mut self,
        cx: &mut Context<'_>,
        upstream: &mut UpstreamConnection,
    ) -> Poll<Result<(), RelayError>> {
        let from = (&mut upstream.receiver, &mut upstream.stream);
        let to = (&mut self.http1.sender, &mut self.http1.io);
        poll_pipe(cx, from, to).map_err(|error| match error {
            PipeError::Receive(error) => RelayError::Upstream(UpstreamError::BodyBroke(error)),
            PipeError::Send(_) => RelayError::ClientGone,
        })
    }

    fn is_blocked(&self, upstream: &UpstreamConnection) -> bool {
        let receiver = &upstream.receiver;
        !receiver.data().is_empty() || receiver.is_taken() || !self.http1.sender.is_empty()
    }

    async fn end_response(&mut self) -> Result<(), RelayError> {
        if self.is_last && !self.http1.end().await {
            return Err(RelayError::ClientGone);
        }
        let another = self.keep_alive && self.http1.receiver.is_taken();
        self.after = if another { After::Another } else { self.http1.closing() };
        Ok(())
    }

    /// Closes the connection before the end of the response, so that the client detects the truncation.
    fn abort(&mut self, _: Abort) {
        self.after = After::Gone;
    }

    fn write_upgrade(&mut self, response: &head::Response<'_, '_>) {
        let framing = self.framing(Length::Known(0), false, true);
        headers::write_response(self.http1.sender.head(), response, framing, &HeadChanges::default());
    }

    async fn tunnel(&mut self, exchange: &mut Exchange, timeouts: RelayTimeouts) -> Result<(), TunnelError> {
        let Http1Connection { receiver, sender, io, draining, .. } = &mut *self.http1;
        let client = End { receiver, sender, io };
        Box::pin(websocket_tunnel::tunnel(client, Socket::arrived, exchange, (timeouts, draining))).await
    }
}

/// Writes head and body of a response that the gateway generated.
fn write_page(out: &mut Vec<u8>, page: &Response<Bytes>, framing: ResponseFraming, is_head: bool) {
    let status = page.status();
    let line = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
    out.extend_from_slice(line.as_bytes());
    for (name, value) in page.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(format!("content-length: {}\r\n", page.body().len()).as_bytes());
    headers::end_response(out, framing);
    if !is_head {
        out.extend_from_slice(page.body());
    }
}
