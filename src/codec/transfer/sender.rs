//! The sending side of a connection: writes heads and bodies, chunked if the length is unknown.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::base::buffers::Buffers;
use crate::codec::message::Length;

/// Why sending failed.
#[derive(Debug, thiserror::Error)]
#[error("the connection failed")]
pub(crate) struct SendError(#[from] io::Error);

/// The sending side of a connection.
#[derive(Debug, Default)]
pub(crate) struct Sender {
    /// Heads and framing that have not been sent completely.
    pending: Vec<u8>,
    /// How many bytes of `pending` have been sent.
    sent_of_pending: usize,
    chunked: bool,
    /// The number of data bytes of the current chunk that are still to be sent.
    chunk_left: usize,
    /// The last chunk has been written, or the body is not chunked.
    closed: bool,
    /// The total number of bytes that were written.
    pub(crate) sent: u64,
}

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Sender {
    /// The buffer to write a head to. It is sent together with the first data.
    pub(crate) fn head(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    /// Begins a body. Only `Chunked` adds framing.
    pub(crate) fn begin_body(&mut self, length: Length) {
        self.chunked = length == Length::Chunked;
        self.chunk_left = 0;
        self.closed = !self.chunked;
    }

    fn pending(&self) -> &[u8] {
        &self.pending[self.sent_of_pending..]
    }

    /// Discards a head of which nothing has been sent.
    pub(crate) fn forget(&mut self) {
        self.pending.truncate(self.sent_of_pending);
        self.begin_body(Length::Known(0));
    }

    /// Whether everything has been written to the connection.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending().is_empty() && self.chunk_left == 0
    }

    /// Writes pending bytes and as much of `data` as possible. Returns how many bytes of `data` were written. `last`:
    /// no data follows.
    pub(crate) fn poll_send<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut W,
        data: &[u8],
        last: bool,
    ) -> Poll<Result<usize, SendError>> {
        let (data, tail) = if self.chunked { self.chunk(data, last) } else { (data, &b""[..]) };
        let offered = self.pending().len() + data.len() + tail.len();
        if offered == 0 {
            return Poll::Ready(Ok(0));
        }
        let slices = [IoSlice::new(self.pending()), IoSlice::new(data), IoSlice::new(tail)];
        let from = usize::from(self.pending().is_empty());
        let written = if data.is_empty() && tail.is_empty() {
            Pin::new(io).poll_write(cx, self.pending())
        } else if from == 1 && tail.is_empty() {
            Pin::new(io).poll_write(cx, data)
        } else {
            Pin::new(io).poll_write_vectored(cx, &slices[from..])
        };
        let mut written = ready!(written)?;
        if written == 0 {
            return Poll::Ready(Err(SendError(io::ErrorKind::WriteZero.into())));
        }
        written -= self.wrote(written);
        let of_data = written.min(data.len());
        written -= of_data;
        if self.chunked {
            self.chunk_left -= of_data;
            if self.chunk_left == 0 && !tail.is_empty() {
                // The rest of the chunk's end is sent first next time.
                self.pending.extend_from_slice(&tail[written..]);
                self.closed |= last;
            }
        }
        Poll::Ready(Ok(of_data))
    }

    /// Counts written bytes and returns how many of them were pending.
    fn wrote(&mut self, count: usize) -> usize {
        self.sent += count as u64;
        let of_pending = count.min(self.pending().len());
        self.sent_of_pending += of_pending;
        if self.pending().is_empty() {
            self.pending.clear();
            self.sent_of_pending = 0;
        }
        of_pending
    }

    /// Begins a chunk if none is open. Returns the part of `data` that belongs to it, and the bytes that end it.
    fn chunk<'d>(&mut self, data: &'d [u8], last: bool) -> (&'d [u8], &'static [u8]) {
        if self.chunk_left == 0 {
            if data.is_empty() {
                let end = last && !self.closed;
                return (data, if end { LAST_CHUNK } else { b"" });
            }
            self.chunk_left = data.len();
            let size = format_args!("{:x}\r\n", data.len());
            let written = io::Write::write_fmt(&mut self.pending, size);
            debug_assert!(written.is_ok(), "writing to a Vec does not fail");
        }
        let data = &data[..data.len().min(self.chunk_left)];
        let tail: &[u8] = match (data.len() == self.chunk_left, last) {
            (false, _) => b"",
            (true, false) => b"\r\n",
            (true, true) => b"\r\n0\r\n\r\n",
        };
        (data, tail)
    }

    /// Whether nothing is left to write, if no data is waiting. `last`: no data follows.
    pub(crate) fn is_over(&self, last: bool) -> bool {
        self.is_empty() && (self.closed || !last)
    }

    /// Returns the buffer to the pool while the connection is idle.
    pub(crate) fn release_buffer(&mut self, buffers: &Buffers) {
        buffers.keep_head(&mut self.pending);
    }

    /// Takes a buffer from the pool if there is none.
    pub(crate) fn take_buffer(&mut self, buffers: &Buffers) {
        if self.pending.capacity() == 0 {
            self.pending = buffers.head();
        }
    }

    /// Writes and flushes everything that is pending.
    pub(crate) fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut W,
    ) -> Poll<Result<(), SendError>> {
        while !self.pending().is_empty() {
            let written = ready!(Pin::new(&mut *io).poll_write(cx, self.pending()))?;
            if written == 0 {
                return Poll::Ready(Err(SendError(io::ErrorKind::WriteZero.into())));
            }
            self.wrote(written);
        }
        Pin::new(io).poll_flush(cx).map_err(SendError)
    }
}
