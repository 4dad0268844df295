//! Receives, sends and relays messages.
//!
//! Bodies are not collected: a receiver reads only when its data has been consumed, and a sender accepts data only when
//! its own has been written. This gives back-pressure in both directions.

mod receiver;
mod sender;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use receiver::{ReceiveError, Receiver};
pub(crate) use sender::{SendError, Sender};

/// Which side of a pipe failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipeError {
    #[error("receiving")]
    Receive(#[from] ReceiveError),
    #[error("sending")]
    Send(#[from] SendError),
}

/// Relays a body. Ready when all of it has been sent and flushed.
pub(crate) fn poll_pipe<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    from: (&mut Receiver, &mut R),
    to: (&mut Sender, &mut W),
) -> Poll<Result<(), PipeError>> {
    poll_pipe_until(cx, from, to, |_| Poll::Ready(()))
}

/// Relays a body, and holds the end of a body that has been received as a whole back until `may_end` is ready.
pub(crate) fn poll_pipe_until<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    (receiver, from): (&mut Receiver, &mut R),
    (sender, to): (&mut Sender, &mut W),
    mut may_end: impl FnMut(&mut Context<'_>) -> Poll<()>,
) -> Poll<Result<(), PipeError>> {
    loop {
        let over = receiver.is_over();
        if over {
            ready!(may_end(cx));
        }
        while !receiver.data().is_empty() || !sender.is_over(over) {
            let count = ready!(sender.poll_send(cx, to, receiver.data(), over))?;
            receiver.consume(count);
        }
        if over {
            return Pin::new(to).poll_flush(cx).map_err(|error| PipeError::Send(error.into()));
        }
        ready!(poll_more(cx, (receiver, from), to))?;
    }
}

/// Receives more of a body. While there is none, flushes the data that TLS has buffered.
pub(crate) fn poll_more<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    (receiver, from): (&mut Receiver, &mut R),
    to: &mut W,
) -> Poll<Result<(), PipeError>> {
    if let Poll::Ready(outcome) = receiver.poll_body(cx, from) {
        return Poll::Ready(outcome.map_err(PipeError::from));
    }
    if let Poll::Ready(Err(error)) = Pin::new(to).poll_flush(cx) {
        return Poll::Ready(Err(PipeError::Send(error.into())));
    }
    Poll::Pending
}

#[cfg(test)]
mod tests;
