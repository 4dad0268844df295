//! What HTTP/2 writes, gathered: h2 writes and flushes frame by frame, each of which would be a TLS record and a system
//! call of its own. Here they are put together and go out once each time the connection has been polled. Both
//! directions are watched.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::base::buffers::Buffers;
use crate::base::corked_socket::CorkedSocket;
use crate::edge::http2::flood_guard::FloodGuard;
use crate::edge::http2::response_progress::ResponseProgress;

/// This much goes out without waiting for more: four records of TLS.
const ENOUGH: usize = 64 * 1024;

struct Inner<S> {
    io: S,
    written: BytesMut,
    /// Why sending failed, for the next write to tell.
    failed: Option<io::Error>,
    /// Nothing waits, neither here nor in TLS.
    flushed: bool,
    /// Bytes that have gone out, all in all.
    sent: u64,
    milestones: ResponseProgress,
    flood_guard: Rc<FloodGuard>,
    buffers: Rc<Buffers>,
}

/// A connection whose writes are gathered; the copies of it are one and the same connection.
pub(crate) struct CoalescingIo<S>(Rc<RefCell<Inner<S>>>);

impl<S> Clone for CoalescingIo<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> CoalescingIo<S> {
    pub(crate) fn new(
        io: S,
        milestones: ResponseProgress,
        buffers: Rc<Buffers>,
        flood_guard: Rc<FloodGuard>,
    ) -> Self {
        let written = BytesMut::new();
        Self(Rc::new(RefCell::new(Inner {
            io,
            written,
            failed: None,
            flushed: true,
            sent: 0,
            milestones,
            flood_guard,
            buffers,
        })))
    }

    /// Whether everything has gone out, and how much that was.
    pub(crate) fn progress(&self) -> (bool, u64) {
        let inner = self.0.borrow();
        (inner.written.is_empty() && inner.flushed, inner.sent)
    }

    /// Sends what has been gathered, as far as it goes; the task is woken when more can go. An error shows at the next
    /// write.
    pub(crate) fn send(&self, cx: &mut Context<'_>) {
        let inner = &mut *self.0.borrow_mut();
        let sent = match inner.poll_send(cx, 0) {
            // What TLS could not write at once.
            Poll::Ready(Ok(())) => Pin::new(&mut inner.io).poll_flush(cx),
            unsent @ (Poll::Ready(Err(_)) | Poll::Pending) => unsent,
        };
        inner.flushed = sent.is_ready();
        if let Poll::Ready(Err(error)) = sent {
            inner.failed = Some(error);
        }
    }
}

/// What reaches the peer, as long as there is a connection.
pub(crate) struct Arrivals(Weak<RefCell<Inner<Box<TlsStream<CorkedSocket>>>>>);

impl CoalescingIo<Box<TlsStream<CorkedSocket>>> {
    /// Bytes of answers that the peer's machine has acknowledged, all in all; none when that is not known. What frames
    /// and TLS add does not count: a client that opens its windows byte by byte causes a lot of it.
    pub(crate) fn arrived(&self) -> Option<u64> {
        let (record_sent, _) = self.progress();
        let inner = &mut *self.0.borrow_mut();
        let wire = inner.io.get_ref().0;
        if record_sent {
            inner.milestones.record_sent(wire.sent());
        }
        Some(inner.milestones.arrived(wire.acknowledged()?))
    }

    /// Whether the peer's machine has not acknowledged all that was sent.
    pub(crate) fn is_under_way(&self) -> bool {
        let inner = self.0.borrow();
        let wire = inner.io.get_ref().0;
        wire.acknowledged().is_some_and(|acknowledged| acknowledged < wire.sent())
    }

    pub(crate) fn arrivals(&self) -> Arrivals {
        Arrivals(Rc::downgrade(&self.0))
    }
}

impl Arrivals {
    pub(crate) fn arrived(&self) -> Option<u64> {
        CoalescingIo(self.0.upgrade()?).arrived()
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    /// Sends until no more than `most` bytes are left.
    fn poll_send(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<()>> {
        while self.written.len() > most {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.written))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let answers = self.flood_guard.sent(&self.written[..count]);
            self.milestones.taken(count, answers);
            self.written.advance(count);
            self.sent += count as u64;
        }
        if self.written.is_empty() {
            self.buffers.give_back(&mut self.written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_take(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if self.written.len() >= ENOUGH {
            ready!(self.poll_send(cx, ENOUGH - 1))?;
        }
        self.buffers.make_room(&mut self.written);
        let mut room = ENOUGH.saturating_sub(self.written.len());
        let mut taken = 0;
        for slice in slices {
            let count = slice.len().min(room);
            self.written.extend_from_slice(&slice[..count]);
            room -= count;
            taken += count;
        }
        Poll::Ready(Ok(taken))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CoalescingIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut inner.io).poll_read(cx, buffer))?;
        inner.flood_guard.received(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CoalescingIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Left to `send`.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        ready!(inner.poll_send(cx, 0))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}
