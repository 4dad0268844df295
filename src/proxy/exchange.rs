//! One request and its response on one upstream connection. The response is read while the request is still being sent,
//! because a server may answer before it has received the whole body.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::min_rate::{Limits, MinRateTimer};
use crate::codec::Length;
use crate::codec::head::{MAX_RESPONSE_BYTES, Scanner};
use crate::codec::transfer::Sender;
use crate::proxy::concurrency_limit::PermitWait;
use crate::proxy::connection::{Connection, Stream};
use crate::proxy::error::{ForwardError, UploadError, UpstreamError};
use crate::proxy::upstream_request::UpstreamRequest;
use crate::upstream::servers::{Busy, Servers};

/// The client's side of an exchange: the source of the request body, and the client's progress.
pub(crate) trait Upload {
    /// Moves the request body to the upstream. Ready when the whole request has been sent. The last part is held back
    /// until `may_end` is ready.
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        to: (&mut Sender, &mut Stream),
        may_end: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<Result<(), UploadError>>;

    /// Ready when the client has left. Called while the gateway waits for the upstream.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether the request body is incomplete and no part of it is buffered.
    fn wants_data(&self) -> bool;

    /// The total number of bytes that the client has sent, or that were written to its socket, depending on
    /// `waiting_on`.
    fn moved(&self, waiting_on: WaitingOn) -> u64;

    /// How many of these bytes the client has acknowledged, if that is known. Costs a system call.
    fn arrived(&self, waiting_on: WaitingOn) -> Option<u64>;

    /// Ready when the connection must close to make room for others. `is_waited_for`: the gateway waits for the client.
    fn poll_evicted(&mut self, cx: &mut Context<'_>, is_waited_for: bool) -> Poll<()>;
}

/// Waits for a future unless the client leaves first.
pub(crate) async fn while_connected<T>(
    client: &mut impl Upload,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
        Poll::Pending => client.poll_gone(cx).map(|()| None),
    })
    .await
}

/// The time-outs of an exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RelayTimeouts {
    /// From the end of the request to the head of the response.
    pub(crate) response_head: Duration,
    /// Within a body, while the gateway waits for the client.
    pub(crate) client: Limits,
    /// Within a body, while the gateway waits for the upstream.
    pub(crate) upstream: Duration,
}

/// The state of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sending {
    UnderWay,
    Done,
    /// The upstream does not accept the rest of it. It may still answer.
    Refused,
}

/// A request and its response on an upstream connection.
pub(crate) struct Exchange {
    pub(crate) connection: Box<Connection>,
    pub(crate) sending: Sending,
    /// Length of the response head in bytes, while it is at the front of the receiver.
    pub(crate) head: usize,
    /// The connection serves this client alone.
    pub(crate) exclusive: bool,
    pub(super) permit: PermitWait,
    /// Counts the request as one in flight on its server.
    _busy: Option<Busy>,
    /// Timer of the response body while the gateway waits for the client.
    reading: Option<Box<MinRateTimer>>,
    /// Timer of the request body while the gateway waits for the client.
    uploading: Option<Box<MinRateTimer>>,
    /// While the gateway waits for the upstream: the number of bytes that have moved, and since when it is unchanged.
    last_moved: Option<(u64, Instant)>,
}

/// The side that the gateway waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitingOn {
    /// The client has to read.
    ClientRead,
    /// The client has to send.
    ClientSend,
    Upstream,
}

/// Why waiting has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// The side that the gateway waited for was too slow.
    TooSlow,
    /// The client's connection closes to make room for others.
    Evicted,
}

impl Exchange {
    pub(super) fn begin(
        mut connection: Box<Connection>,
        request: &UpstreamRequest,
        permit: PermitWait,
        exclusive: bool,
        servers: &Arc<Servers>,
    ) -> Self {
        connection.sender.take_buffer(&connection.buffers);
        connection.sender.head().extend_from_slice(&request.head);
        connection.sender.begin_body(request.length);
        connection.sender.sent = 0;
        connection.receiver.received = 0;
        connection.scanner = Scanner::default();
        Self {
            _busy: Busy::new(servers, connection.server),
            connection,
            sending: Sending::UnderWay,
            head: 0,
            exclusive,
            permit,
            reading: None,
            uploading: None,
            last_moved: None,
        }
    }

    /// The response head that `response_head` has received.
    pub(crate) fn response_head_bytes(&self) -> &[u8] {
        &self.connection.receiver.head()[..self.head]
    }

    /// Sends the request and waits for a response head.
    pub(crate) async fn response_head(
        &mut self,
        upload: &mut impl Upload,
        timeouts: RelayTimeouts,
    ) -> Result<(), ForwardError> {
        if self.sending != Sending::UnderWay {
            self.connection.deadline.set(timeouts.response_head);
        }
        self.head = poll_fn(|cx| self.poll_head(cx, upload, timeouts)).await?;
        Ok(())
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut impl Upload,
        timeouts: RelayTimeouts,
    ) -> Poll<Result<usize, ForwardError>> {
        if self.sending == Sending::UnderWay {
            match self.poll_send(cx, upload) {
                Poll::Ready(Ok(())) => self.connection.deadline.set(timeouts.response_head),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        let Connection { stream, receiver, scanner, sender, .. } = &mut *self.connection;
        loop {
            match scanner.find_end(receiver.head(), MAX_RESPONSE_BYTES) {
                Ok(Some(length)) => return Poll::Ready(Ok(length)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(UpstreamError::Malformed(error).into())),
            }
            let error: io::Error = match receiver.poll_more(cx, stream) {
                // A response to a request of which nothing has been sent.
                Poll::Ready(Ok(true)) if sender.sent == 0 => io::ErrorKind::InvalidData.into(),
                Poll::Ready(Ok(true)) => continue,
                Poll::Ready(Ok(false)) => io::ErrorKind::UnexpectedEof.into(),
                Poll::Ready(Err(error)) => error,
                Poll::Pending => break,
            };
            return Poll::Ready(Err(UpstreamError::Broken(error).into()));
        }
        if self.sending == Sending::UnderWay {
            let waiting_on =
                if self.waits_for_client(upload) { WaitingOn::ClientSend } else { WaitingOn::Upstream };
            return self.poll_timeouts(cx, upload, waiting_on, timeouts).map(|reason| match reason {
                Expired::Evicted => Err(ForwardError::ClientGone),
                Expired::TooSlow if waiting_on == WaitingOn::Upstream => Err(UpstreamError::Silent.into()),
                Expired::TooSlow => Err(ForwardError::UploadStalled),
            });
        }
        if upload.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(ForwardError::ClientGone));
        }
        self.connection.deadline.poll(cx).map(|()| Err(UpstreamError::Silent.into()))
    }

    /// Continues to send the request. Ready when it has been sent or the upstream accepts no more of it.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut impl Upload,
    ) -> Poll<Result<(), ForwardError>> {
        let Self { connection, permit, .. } = self;
        let to = (&mut connection.sender, &mut connection.stream);
        let uploaded = upload.poll_upload(cx, to, |cx| permit.poll(cx));
        if uploaded.is_ready() {
            // From now on the gateway waits for iMIS.
            let _ = upload.poll_evicted(cx, false);
        }
        match uploaded {
            Poll::Pending if matches!(self.permit, PermitWait::Rejected) => {
                Poll::Ready(Err(ForwardError::Overloaded))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => {
                self.sending = Sending::Done;
                Poll::Ready(Ok(()))
            }
            // The upstream may have answered before it closed the connection.
            Poll::Ready(Err(UploadError::Upstream(_))) => {
                self.sending = Sending::Refused;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(ForwardError::UploadBroken(error))),
        }
    }

    /// Ready when the side that the gateway waits for within a body was idle for too long, too slow, or is evicted.
    pub(crate) fn poll_timeouts(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut impl Upload,
        waiting_on: WaitingOn,
        timeouts: RelayTimeouts,
    ) -> Poll<Expired> {
        if upload.poll_evicted(cx, waiting_on != WaitingOn::Upstream).is_ready() {
            return Poll::Ready(Expired::Evicted);
        }
        loop {
            let now = Instant::now();
            let left = self.time_left(upload, waiting_on, timeouts, now);
            let Some(left) = left else { return Poll::Ready(Expired::TooSlow) };
            self.connection.deadline.set_from(now, left);
            ready!(self.connection.deadline.poll(cx));
        }
    }

    fn time_left(
        &mut self,
        upload: &impl Upload,
        waiting_on: WaitingOn,
        timeouts: RelayTimeouts,
        now: Instant,
    ) -> Option<Duration> {
        let (timer, other) = match waiting_on {
            WaitingOn::ClientRead => (&mut self.reading, &mut self.uploading),
            WaitingOn::ClientSend => (&mut self.uploading, &mut self.reading),
            WaitingOn::Upstream => {
                let timers = [&mut self.reading, &mut self.uploading];
                timers.into_iter().flatten().for_each(|timer| timer.pause(now));
                let Connection { sender, receiver, .. } = &*self.connection;
                let moved = sender.sent + receiver.received;
                let since = match self.last_moved {
                    Some((before, since)) if before == moved => since,
                    Some(_) | None => now,
                };
                self.last_moved = Some((moved, since));
                let left = timeouts.upstream.saturating_sub(now - since);
                return Some(left).filter(|left| !left.is_zero());
            }
        };
        other.iter_mut().for_each(|timer| timer.pause(now));
        self.last_moved = None;
        let timer = timer.get_or_insert_default();
        timer.update(upload.moved(waiting_on), || upload.arrived(waiting_on), timeouts.client, now)
    }

    /// Whether the upload is stalled because the client sends nothing.
    pub(crate) fn waits_for_client(&self, upload: &impl Upload) -> bool {
        self.sending == Sending::UnderWay && self.connection.sender.is_empty() && upload.wants_data()
    }

    /// Whether another request may follow on the connection. `keep_alive`: the upstream keeps it open.
    pub(crate) fn is_reusable(&self, keep_alive: bool) -> bool {
        let receiver = &self.connection.receiver;
        keep_alive && self.sending == Sending::Done && receiver.is_taken() && receiver.is_empty()
    }

    /// Consumes the head of a final response and begins its body. Returns the permit.
    pub(crate) fn begin_body(&mut self, length: Length) -> Result<(), UpstreamError> {
        self.permit = PermitWait::Done;
        self.begin_behind_head(length)
    }

    /// Consumes a response head. `length`: of the body that follows it.
    pub(crate) fn begin_behind_head(&mut self, length: Length) -> Result<(), UpstreamError> {
        let head = std::mem::take(&mut self.head);
        let begun = self.connection.receiver.begin_body(head, length);
        begun.map_err(|error| UpstreamError::BodyBroke(error.into()))
    }
}
