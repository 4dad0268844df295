//! TLS whose writes are over when they have gone out. What tokio-rustls has taken in and could not write at once,
//! because the socket was full or the task had had its turn, waits for a flush; without one it is lost when the
//! connection is dropped, and whoever waits for it waits for ever.

use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the module. A write that is given up half-way must be the last.
#[derive(Debug)]
pub(crate) struct Flushing<S> {
    stream: S,
    /// Of the write that is under way.
    taken: Option<usize>,
}

impl<S> Flushing<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, taken: None }
    }
}

impl<S> Deref for Flushing<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Flushing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Flushing<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = match self.taken {
            Some(taken) => taken,
            None => ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?,
        };
        self.taken = Some(taken);
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.taken = None;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
