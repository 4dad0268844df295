//! Coalesces the writes of h2. It writes and flushes frame by frame, and each frame would be a TLS record and a system
//! call. Here the frames are buffered, and sent once each time the connection has been polled. The flood guard sees the
//! bytes of both directions.

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

/// A full buffer is sent at once: four TLS records.
const MAX_BUFFERED: usize = 64 * 1024;

struct Inner<S> {
    io: S,
    /// Bytes that have not been sent.
    buffered: BytesMut,
    /// Why sending failed. The next write reports it.
    failed: Option<io::Error>,
    /// TLS has no unsent data.
    flushed: bool,
    /// The total number of bytes that TLS has accepted.
    sent: u64,
    progress: ResponseProgress,
    flood_guard: Rc<FloodGuard>,
    buffers: Rc<Buffers>,
}

/// A connection whose writes are coalesced. Clones share the connection.
pub(crate) struct CoalescingIo<S>(Rc<RefCell<Inner<S>>>);

impl<S> Clone for CoalescingIo<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> CoalescingIo<S> {
    pub(crate) fn new(
        io: S,
        progress: ResponseProgress,
        buffers: Rc<Buffers>,
        flood_guard: Rc<FloodGuard>,
    ) -> Self {
        let buffered = BytesMut::new();
        Self(Rc::new(RefCell::new(Inner {
            io,
            buffered,
            failed: None,
            flushed: true,
            sent: 0,
            progress,
            flood_guard,
            buffers,
        })))
    }

    /// Whether everything has been sent, and the total number of bytes sent.
    pub(crate) fn progress(&self) -> (bool, u64) {
        let inner = self.0.borrow();
        (inner.buffered.is_empty() && inner.flushed, inner.sent)
    }

    /// Sends buffered data as far as possible. The task is woken when more can be sent. The next write reports an
    /// error.
    pub(crate) fn send(&self, cx: &mut Context<'_>) {
        let inner = &mut *self.0.borrow_mut();
        let sent = match inner.poll_send(cx, 0) {
            // Flushes data that TLS has buffered.
            Poll::Ready(Ok(())) => Pin::new(&mut inner.io).poll_flush(cx),
            unsent @ (Poll::Ready(Err(_)) | Poll::Pending) => unsent,
        };
        inner.flushed = sent.is_ready();
        if let Poll::Ready(Err(error)) = sent {
            inner.failed = Some(error);
        }
    }
}

/// Reports acknowledged bytes while the connection exists.
pub(crate) struct Arrivals(Weak<RefCell<Inner<Box<TlsStream<CorkedSocket>>>>>);

impl CoalescingIo<Box<TlsStream<CorkedSocket>>> {
    /// The total number of response bytes that the client has acknowledged. None: unknown. Frame headers and TLS
    /// overhead do not count, because a client that opens its windows byte by byte causes a lot of both.
    pub(crate) fn arrived(&self) -> Option<u64> {
        let (all_sent, _) = self.progress();
        let inner = &mut *self.0.borrow_mut();
        let socket = inner.io.get_ref().0;
        if all_sent {
            inner.progress.record_sent(socket.sent());
        }
        Some(inner.progress.arrived(socket.acknowledged()?))
    }

    /// Whether the client has not acknowledged all sent bytes.
    pub(crate) fn has_unacknowledged(&self) -> bool {
        let inner = self.0.borrow();
        let socket = inner.io.get_ref().0;
        socket.acknowledged().is_some_and(|acknowledged| acknowledged < socket.sent())
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
    /// Sends until at most `max_left` bytes are left.
    fn poll_send(&mut self, cx: &mut Context<'_>, max_left: usize) -> Poll<io::Result<()>> {
        while self.buffered.len() > max_left {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.buffered))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let response_bytes = self.flood_guard.sent(&self.buffered[..count]);
            self.progress.accepted(count, response_bytes);
            self.buffered.advance(count);
            self.sent += count as u64;
        }
        if self.buffered.is_empty() {
            self.buffers.give_back(&mut self.buffered);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_buffer(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if self.buffered.len() >= MAX_BUFFERED {
            ready!(self.poll_send(cx, MAX_BUFFERED - 1))?;
        }
        self.buffers.make_room(&mut self.buffered);
        let mut room = MAX_BUFFERED.saturating_sub(self.buffered.len());
        let mut accepted = 0;
        for slice in slices {
            let count = slice.len().min(room);
            self.buffered.extend_from_slice(&slice[..count]);
            room -= count;
            accepted += count;
        }
        Poll::Ready(Ok(accepted))
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
        self.0.borrow_mut().poll_buffer(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_buffer(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Has no effect: `send` flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        ready!(inner.poll_send(cx, 0))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}
