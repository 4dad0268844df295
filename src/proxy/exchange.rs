//! One request and its response on one upstream connection: the request goes out while the head of the response is
//! waited for, since a server may answer before it has seen all of the body.

use std::future::{Future, poll_fn};
use std::io;
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
use crate::upstream::servers::Busy;

/// The client's side of an exchange: where the body of a request comes from, and how fast what is sent to it goes.
pub(crate) trait Upload {
    /// Moves the body on to the upstream; ready when the whole request is on the wire. The last of it waits until
    /// `may_end`.
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        to: (&mut Sender, &mut Stream),
        may_end: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<Result<(), UploadError>>;

    /// Ready when the client has left; asked while only iMIS is waited for.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether there is more to come and nothing of it is here: it is the client's waiting_on.
    fn wants_data(&self) -> bool;

    /// Bytes that it has sent, or that were handed over to be sent to it, all in all; whichever `waiting_on` is about.
    fn moved(&self, waiting_on: WaitingOn) -> u64;

    /// What of them has arrived, if that is known better. It takes a system call to know it.
    fn arrived(&self, waiting_on: WaitingOn) -> Option<u64>;

    /// Whether it is waited for, or something else is. Ready when it is to make room for another.
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

/// How long an exchange may stand still.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RelayTimeouts {
    /// From the end of the request to the head of the response.
    pub(crate) response_head: Duration,
    /// Within a body, when it is the client that is waited for.
    pub(crate) browser: Limits,
    /// Within a body, when it is the upstream.
    pub(crate) upstream: Duration,
}

/// What has become of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sending {
    UnderWay,
    Done,
    /// The upstream takes no more of it. It may still answer.
    Refused,
}

/// A request that has been sent, or nearly, on a connection with the head of a response at its front.
pub(crate) struct Exchange {
    pub(crate) connection: Box<Connection>,
    pub(crate) sending: Sending,
    /// Bytes of the head that has come.
    pub(crate) head: usize,
    /// The connection serves this client alone.
    pub(crate) exclusive: bool,
    pub(super) gate: PermitWait,
    /// Its server has something to do.
    pub(super) busy: Option<Busy>,
    /// Of the answer to the client, and of its upload.
    reading: Option<Box<MinRateTimer>>,
    uploading: Option<Box<MinRateTimer>>,
    /// What had moved when it was last the upstream's waiting_on, and since when it has been that much.
    seen: Option<(u64, Instant)>,
}

/// Who has to do something for an exchange to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitingOn {
    /// The client has to read.
    ClientRead,
    /// The client has to send.
    ClientSend,
    Upstream,
}

/// Why an exchange does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// The side that was waited for has been too slow.
    TooSlow,
    /// The client is to make room for others.
    Evicted,
}

impl Exchange {
    pub(super) fn begin(
        mut connection: Box<Connection>,
        request: &UpstreamRequest,
        gate: PermitWait,
        exclusive: bool,
    ) -> Self {
        connection.sender.wake(&connection.buffers);
        connection.sender.head().extend_from_slice(&request.head);
        connection.sender.begin_body(request.length);
        connection.sender.sent = 0;
        connection.receiver.received = 0;
        connection.scanner = Scanner::default();
        Self {
            connection,
            sending: Sending::UnderWay,
            head: 0,
            exclusive,
            gate,
            busy: None,
            reading: None,
            uploading: None,
            seen: None,
        }
    }

    /// The head of the response, once `response_head` has returned.
    pub(crate) fn response_head_bytes(&self) -> &[u8] {
        &self.connection.receiver.head()[..self.head]
    }

    /// Sends on, and waits for the head of the response. It then stands at the front of the receiver.
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
            match receiver.poll_more(cx, stream) {
                // What comes before anything was sent answers nothing that was asked.
                Poll::Ready(Ok(true)) if sender.sent == 0 => {
                    return Poll::Ready(Err(UpstreamError::Broken(io::ErrorKind::InvalidData.into()).into()));
                }
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => {
                    return Poll::Ready(Err(
                        UpstreamError::Broken(io::ErrorKind::UnexpectedEof.into()).into()
                    ));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(UpstreamError::Broken(error).into())),
                Poll::Pending => break,
            }
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

    /// Sends on, while the response may already be on its way.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut impl Upload,
    ) -> Poll<Result<(), ForwardError>> {
        let Self { connection, gate, .. } = self;
        let to = (&mut connection.sender, &mut connection.stream);
        let uploaded = upload.poll_upload(cx, to, |cx| gate.poll(cx));
        if uploaded.is_ready() {
            // From here on it is iMIS that is waited for.
            let _ = upload.poll_evicted(cx, false);
        }
        match uploaded {
            Poll::Pending if matches!(self.gate, PermitWait::Rejected) => {
                Poll::Ready(Err(ForwardError::Overloaded))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => {
                self.sending = Sending::Done;
                Poll::Ready(Ok(()))
            }
            // It may have answered and closed; what it said is still to be read.
            Poll::Ready(Err(UploadError::Upstream(_))) => {
                self.sending = Sending::Refused;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(ForwardError::UploadBroken(error))),
        }
    }

    /// Ready when the side that is waited for within a body has been idle for too long, was too slow, or is evicted.
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
        let (pace, other) = match waiting_on {
            WaitingOn::ClientRead => (&mut self.reading, &mut self.uploading),
            WaitingOn::ClientSend => (&mut self.uploading, &mut self.reading),
            WaitingOn::Upstream => {
                [&mut self.reading, &mut self.uploading]
                    .into_iter()
                    .flatten()
                    .for_each(|pace| pace.pause(now));
                let Connection { sender, receiver, .. } = &*self.connection;
                let moved = sender.sent + receiver.received;
                let since = match self.seen {
                    Some((before, since)) if before == moved => since,
                    Some(_) | None => now,
                };
                self.seen = Some((moved, since));
                let left = timeouts.upstream.saturating_sub(now - since);
                return Some(left).filter(|left| !left.is_zero());
            }
        };
        other.iter_mut().for_each(|pace| pace.pause(now));
        self.seen = None;
        let pace = pace.get_or_insert_default();
        pace.update(upload.moved(waiting_on), || upload.arrived(waiting_on), timeouts.browser, now)
    }

    /// Whether the upload stands still because nothing comes.
    pub(crate) fn waits_for_client(&self, upload: &impl Upload) -> bool {
        self.sending == Sending::UnderWay && self.connection.sender.is_empty() && upload.wants_data()
    }

    /// Whether the connection is good for another request once `keep_alive` has been said.
    pub(crate) fn is_reusable(&self, keep_alive: bool) -> bool {
        let receiver = &self.connection.receiver;
        keep_alive && self.sending == Sending::Done && receiver.is_taken() && receiver.is_empty()
    }

    /// The response's body begins behind its head: iMIS has done its work.
    pub(crate) fn begin_body(&mut self, length: Length) -> Result<(), UpstreamError> {
        self.gate = PermitWait::Past;
        self.begin_behind_head(length)
    }

    /// Consumes the head; what follows it has this length. Another head follows an interim response.
    pub(crate) fn begin_behind_head(&mut self, length: Length) -> Result<(), UpstreamError> {
        let head = std::mem::take(&mut self.head);
        let begun = self.connection.receiver.begin_body(head, length);
        begun.map_err(|error| UpstreamError::BodyBroke(error.into()))
    }
}
