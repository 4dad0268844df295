//! One request and its response on one upstream connection: the request goes out while the head of the response is waited
//! for, since a server may answer before it has seen all of the body.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::Outgoing;
use super::connection::{Connection, Stream};
use super::upstream::UpstreamError;
use crate::http1::Length;
use crate::http1::head::{MOST_RESPONSE_BYTES, Scanner};
use crate::http1::transfer::{ReceiveError, SendError, Sender};
use crate::pace::{Limits, Pace};

/// Where the body of a request comes from.
pub(crate) trait Upload {
    /// Moves the body on to the upstream; ready when the whole request is on the wire.
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        sender: &mut Sender,
        stream: &mut Stream,
    ) -> Poll<Result<(), UploadError>>;

    /// Ready when the browser has left; asked while only iMIS is waited for.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether there is more to come and nothing of it is here: it is the browser's turn.
    fn wants_data(&self) -> bool;

    /// Grows with everything that passes between the browser and here.
    fn passed(&self) -> u64;
}

/// Why a request does not arrive whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// The browser broke off, or sent what is no body.
    #[error("the browser")]
    Browser(#[source] ReceiveError),
    /// The browser's HTTP/2 stream ended before its body did.
    #[error("the browser")]
    Stream(#[source] h2::Error),
    #[error("the upstream")]
    Upstream(#[source] SendError),
}

/// How long an exchange may stand still.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// From the end of the request to the head of the response.
    pub(crate) response_head: Duration,
    /// Within a body, when it is the browser that is waited for.
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
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) connection: Box<Connection>,
    pub(crate) sending: Sending,
    /// Bytes of the head that has come.
    pub(crate) head: usize,
    /// The connection serves this browser alone.
    pub(crate) exclusive: bool,
    pace: Pace,
    /// Whose turn it was when this was last looked at, what had moved, and when it last had.
    seen: (Turn, u64, Instant),
}

/// Who has to do something for an exchange to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Browser,
    Upstream,
}

impl Exchange {
    pub(super) fn begin(mut connection: Box<Connection>, request: &Outgoing, exclusive: bool) -> Self {
        connection.sender.wake(&connection.buffers);
        connection.sender.head().extend_from_slice(&request.head);
        connection.sender.begin_body(request.length);
        connection.sender.sent = 0;
        connection.receiver.received = 0;
        connection.scanner = Scanner::default();
        let seen = (Turn::Upstream, 0, Instant::now());
        Self { connection, sending: Sending::UnderWay, head: 0, exclusive, pace: Pace::default(), seen }
    }

    /// Whether no byte of the request has been sent.
    pub(super) fn is_untouched(&self) -> bool {
        self.connection.sender.sent == 0
    }

    pub(super) fn is_unanswered(&self) -> bool {
        self.connection.receiver.received == 0
    }

    /// Sends on, and waits for the head of the response. It then stands at the front of the receiver.
    pub(crate) async fn response_head(
        &mut self,
        upload: &mut impl Upload,
        patience: Patience,
    ) -> Result<(), UpstreamError> {
        if self.sending != Sending::UnderWay {
            self.connection.deadline.set(patience.response_head);
        }
        self.head = poll_fn(|cx| self.poll_head(cx, upload, patience)).await?;
        Ok(())
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut impl Upload,
        patience: Patience,
    ) -> Poll<Result<usize, UpstreamError>> {
        if self.sending == Sending::UnderWay {
            match self.poll_send(cx, upload) {
                Poll::Ready(Ok(())) => self.connection.deadline.set(patience.response_head),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        let Connection { stream, receiver, scanner, sender, .. } = &mut *self.connection;
        loop {
            match scanner.find_end(receiver.head(), MOST_RESPONSE_BYTES) {
                Ok(Some(length)) => return Poll::Ready(Ok(length)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(UpstreamError::Malformed(error))),
            }
            match receiver.poll_more(cx, stream) {
                // What comes before anything was sent answers nothing that was asked.
                Poll::Ready(Ok(true)) if sender.sent == 0 => {
                    return Poll::Ready(Err(UpstreamError::Broken(io::ErrorKind::InvalidData.into())));
                }
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => {
                    return Poll::Ready(Err(UpstreamError::Broken(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(UpstreamError::Broken(error))),
                Poll::Pending => break,
            }
        }
        if self.sending == Sending::UnderWay {
            let turn = if self.waits_for_browser(upload) { Turn::Browser } else { Turn::Upstream };
            return self.poll_patience(cx, upload, turn, patience).map(|()| match turn {
                Turn::Browser => Err(UpstreamError::UploadStalled),
                Turn::Upstream => Err(UpstreamError::Silent),
            });
        }
        if upload.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(UpstreamError::BrowserGone));
        }
        self.connection.deadline.poll(cx).map(|()| Err(UpstreamError::Silent))
    }

    /// Sends on, while the response may already be on its way.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut impl Upload,
    ) -> Poll<Result<(), UpstreamError>> {
        let connection = &mut *self.connection;
        match upload.poll_upload(cx, &mut connection.sender, &mut connection.stream) {
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
            Poll::Ready(Err(error)) => Poll::Ready(Err(UpstreamError::UploadBroke(error))),
        }
    }

    /// Ready when whoever's turn it is within a body has stood still for too long, or dripped.
    pub(crate) fn poll_patience(
        &mut self,
        cx: &mut Context<'_>,
        upload: &impl Upload,
        turn: Turn,
        patience: Patience,
    ) -> Poll<()> {
        loop {
            let now = Instant::now();
            let Connection { sender, receiver, .. } = &*self.connection;
            let moved = sender.sent + receiver.received + upload.passed();
            if (turn, moved) != (self.seen.0, self.seen.1) {
                self.seen = (turn, moved, now);
            }
            let left = match turn {
                Turn::Browser => self.pace.left(upload.passed(), patience.browser, now),
                Turn::Upstream => {
                    self.pace.rests();
                    Some(patience.upstream.saturating_sub(now - self.seen.2)).filter(|left| !left.is_zero())
                }
            };
            let Some(left) = left else { return Poll::Ready(()) };
            self.connection.deadline.set_from(now, left);
            ready!(self.connection.deadline.poll(cx));
        }
    }

    /// Whether the upload stands still because nothing comes.
    pub(crate) fn waits_for_browser(&self, upload: &impl Upload) -> bool {
        self.sending == Sending::UnderWay && self.connection.sender.is_empty() && upload.wants_data()
    }

    /// Whether the connection is good for another request once `keep_alive` has been said.
    pub(crate) fn is_reusable(&self, keep_alive: bool) -> bool {
        let receiver = &self.connection.receiver;
        keep_alive && self.sending == Sending::Done && receiver.is_taken() && receiver.is_empty()
    }

    /// The response's body begins behind its head.
    pub(crate) fn begin_body(&mut self, length: Length) -> Result<(), UpstreamError> {
        let head = std::mem::take(&mut self.head);
        let begun = self.connection.receiver.begin_body(head, length);
        begun.map_err(|error| UpstreamError::BodyBroke(error.into()))
    }
}
