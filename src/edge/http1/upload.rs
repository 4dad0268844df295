//! What a browser sends behind the head of its request: the body, and whatever shows that it is still there.

use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::base::drain::Watching;
use crate::codec::transfer::{PipeError, Receiver, Sender, poll_pipe_until};
use crate::edge::client_socket::Socket;
use crate::proxy::connection::Stream;
use crate::proxy::exchange::{Turn, Upload, UploadError};

/// What a browser may send ahead while it waits for an answer, in bytes, before it is listened to no more.
const MOST_AHEAD: usize = 16 * 1024;
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The body of a request, from the browser's connection.
pub(crate) struct FromBrowser<'a, S> {
    receiver: &'a mut Receiver,
    sender: &'a mut Sender,
    io: &'a mut S,
    draining: &'a mut Watching,
    /// The browser waits to be told to go on (RFC 9110 section 10.1.1).
    says_continue: bool,
    /// It is being told.
    told: bool,
}

impl<'a, S> FromBrowser<'a, S> {
    pub(crate) fn new(
        (receiver, sender, io): (&'a mut Receiver, &'a mut Sender, &'a mut S),
        draining: &'a mut Watching,
        says_continue: bool,
    ) -> Self {
        Self { receiver, sender, io, draining, says_continue, told: false }
    }
}

impl<S: AsyncRead + AsyncWrite + Socket + Unpin> Upload for FromBrowser<'_, S> {
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        to: (&mut Sender, &mut Stream),
        may_end: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<Result<(), UploadError>> {
        if self.says_continue && self.receiver.data().is_empty() && !self.receiver.is_over() {
            self.says_continue = false;
            self.told = true;
            self.sender.head().extend_from_slice(CONTINUE);
        }
        if self.told {
            // Whether it goes is seen when the answer is sent.
            let _ = self.sender.poll_flush(cx, self.io);
        }
        poll_pipe_until(cx, (self.receiver, self.io), to, may_end).map_err(|error| match error {
            PipeError::Receive(error) => UploadError::Browser(error),
            PipeError::Send(error) => UploadError::Upstream(error),
        })
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // What has been sent ahead waits its turn; of that only so much is taken in.
        if !self.receiver.is_taken() || self.receiver.head().len() >= MOST_AHEAD {
            return Poll::Pending;
        }
        match self.receiver.poll_more(cx, self.io) {
            Poll::Ready(Ok(true)) | Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(false) | Err(_)) => Poll::Ready(()),
        }
    }

    fn wants_data(&self) -> bool {
        self.receiver.data().is_empty() && !self.receiver.is_over()
    }

    fn moved(&self, turn: Turn) -> u64 {
        if turn == Turn::Reads { self.sender.sent } else { self.receiver.received }
    }

    fn arrived(&self, turn: Turn) -> Option<u64> {
        if turn == Turn::Reads { self.io.arrived() } else { None }
    }

    fn poll_evicted(&mut self, cx: &mut Context<'_>, is_waited_for: bool) -> Poll<()> {
        if !is_waited_for {
            self.draining.works();
            return Poll::Pending;
        }
        self.draining.poll_waiting_within(cx);
        if self.draining.is_evicted() { Poll::Ready(()) } else { Poll::Pending }
    }
}
