//! Moving messages between connections: what is received, what is sent, and a body on its way from one to the other.
//!
//! Nothing is collected: a receiver reads more only when what it holds has been taken, a sender takes more only when what it
//! holds is written. That is the back-pressure, in both directions.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use super::body::{BodyError, Decoder, Length};
use crate::buffers::Buffers;

/// Why nothing more comes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the body")]
    Body(#[from] BodyError),
}

/// Whoever sends this much at once may have sent more.
const LARGE_READ: usize = 8 * 1024;

/// One side of a connection: bytes as they come, and the body among them without its framing.
#[derive(Debug)]
pub(crate) struct Receiver {
    buffers: Rc<Buffers>,
    /// First `ready` bytes of the body, then what has not been looked at.
    bytes: BytesMut,
    ready: usize,
    decoder: Decoder,
    /// Why reading failed, when something had come before it; a system tells that only once.
    failed: Option<io::Error>,
    /// Bytes read, all in all: whether there is progress.
    pub(crate) received: u64,
    /// Bytes of bodies that were taken, all in all.
    pub(crate) taken: u64,
}

impl Receiver {
    pub(crate) fn new(buffers: Rc<Buffers>) -> Self {
        Self {
            buffers,
            bytes: BytesMut::new(),
            ready: 0,
            decoder: Decoder::Over,
            failed: None,
            received: 0,
            taken: 0,
        }
    }

    /// What has come and is no body, or not yet known to be one.
    pub(crate) fn head(&self) -> &[u8] {
        &self.bytes[self.ready..]
    }

    /// Reads on; `false` at the end of the connection. Not for within a body.
    pub(crate) fn poll_more<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut R,
    ) -> Poll<io::Result<bool>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        self.buffers.make_room(&mut self.bytes);
        let read = poll_read_buf(Pin::new(&mut *io), cx, &mut self.bytes);
        if self.bytes.is_empty() {
            // Nothing came: an idle connection holds no buffer.
            self.buffers.give_back(&mut self.bytes);
        }
        let mut count = ready!(read)?;
        let ended = count == 0;
        while count >= LARGE_READ && self.bytes.capacity() > self.bytes.len() {
            // TLS gives a record at a time; the next may be there already.
            self.received += count as u64;
            match poll_read_buf(Pin::new(&mut *io), cx, &mut self.bytes) {
                Poll::Ready(Ok(more)) => count = more,
                Poll::Pending => return Poll::Ready(Ok(true)),
                Poll::Ready(Err(error)) => {
                    self.failed = Some(error);
                    return Poll::Ready(Ok(true));
                }
            }
        }
        self.received += count as u64;
        Poll::Ready(Ok(!ended))
    }

    /// Leaves out bytes that are no body.
    pub(crate) fn skip(&mut self, count: usize) {
        debug_assert_eq!(self.ready, 0);
        self.bytes.advance(count);
    }

    /// Drops whatever is here.
    pub(crate) fn discard(&mut self) {
        self.ready = 0;
        self.bytes.clear();
    }

    /// Gives the buffer back if nothing is in it.
    pub(crate) fn rest(&mut self) {
        if self.bytes.is_empty() {
            self.buffers.give_back(&mut self.bytes);
        }
    }

    /// A head of `head` bytes has been dealt with; a body follows it.
    pub(crate) fn begin_body(&mut self, head: usize, length: Length) -> Result<(), BodyError> {
        self.bytes.advance(head);
        self.decoder = Decoder::new(length);
        self.look()
    }

    fn look(&mut self) -> Result<(), BodyError> {
        let piece = self.decoder.decode(&mut self.bytes)?;
        let rest = self.bytes.len() - piece.taken;
        if rest > 0 && piece.end != piece.taken {
            // What comes behind the body moves up to its data.
            self.bytes.copy_within(piece.taken.., piece.end);
        }
        self.bytes.truncate(piece.end + rest);
        self.bytes.advance(piece.start);
        self.ready = piece.end - piece.start;
        Ok(())
    }

    /// Data of the body that waits to be taken.
    pub(crate) fn data(&self) -> &[u8] {
        &self.bytes[..self.ready]
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.bytes.advance(count);
        self.ready -= count;
        self.taken += count as u64;
        if self.bytes.is_empty() {
            self.buffers.give_back(&mut self.bytes);
        }
    }

    /// All data that waits, as one piece of its own.
    pub(crate) fn take(&mut self) -> Bytes {
        // A small piece does not keep a large buffer.
        const WORTH_A_BUFFER: usize = 16 * 1024;
        let ready = self.ready;
        if ready < WORTH_A_BUFFER {
            let bytes = Bytes::copy_from_slice(self.data());
            self.consume(ready);
            return bytes;
        }
        self.ready = 0;
        self.taken += ready as u64;
        let bytes = self.bytes.split_to(ready).freeze();
        if self.bytes.is_empty() {
            // What is left of the buffer belongs to whoever reads the piece.
            self.bytes = BytesMut::new();
        }
        bytes
    }

    /// Whether the body has been read to its end; some of it may still wait to be taken.
    pub(crate) fn is_over(&self) -> bool {
        self.decoder.is_over()
    }

    /// Whether everything of the body has been taken.
    pub(crate) fn is_taken(&self) -> bool {
        self.is_over() && self.ready == 0
    }

    /// Bytes of the body still to be taken, if that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        self.decoder.left().map(|left| left + self.ready as u64)
    }

    /// Whether nothing is here that has not been dealt with.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Reads on in a body, once all that waited has been taken.
    pub(crate) fn poll_body<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut R,
    ) -> Poll<Result<(), ReceiveError>> {
        while self.ready == 0 && !self.is_over() {
            if ready!(self.poll_more(cx, io))? {
                self.look()?;
            } else {
                self.decoder.end_of_connection()?;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Why nothing more can be sent.
#[derive(Debug, thiserror::Error)]
#[error("the connection failed")]
pub(crate) struct SendError(#[from] io::Error);

/// One side of a connection: a message that goes out, head first.
#[derive(Debug, Default)]
pub(crate) struct Sender {
    /// Heads and framing.
    pending: Vec<u8>,
    sent_of_pending: usize,
    chunked: bool,
    /// Of the chunk that has been begun, data still to come.
    chunk_left: usize,
    /// The last chunk has been written, or there is none.
    closed: bool,
    /// Bytes written, all in all: whether there is progress.
    pub(crate) sent: u64,
}

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Sender {
    /// Where a head is written; goes out with the first data behind it.
    pub(crate) fn head(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    /// A body follows the head. `Known` and `UntilClose` go out as they are.
    pub(crate) fn begin_body(&mut self, length: Length) {
        self.chunked = length == Length::Chunked;
        self.chunk_left = 0;
        self.closed = !self.chunked;
    }

    fn pending(&self) -> &[u8] {
        &self.pending[self.sent_of_pending..]
    }

    /// Takes back a head of which nothing has been sent.
    pub(crate) fn forget(&mut self) {
        self.pending.truncate(self.sent_of_pending);
        self.begin_body(Length::Known(0));
    }

    /// Everything has been handed to the connection.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending().is_empty() && self.chunk_left == 0
    }

    /// Writes what waits and as much of `data` as goes; returns how much of `data` that was. `last`: no data follows.
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
                // What did not go of the chunk's end goes before all else.
                self.pending.extend_from_slice(&tail[written..]);
                self.closed |= last;
            }
        }
        Poll::Ready(Ok(of_data))
    }

    /// Notes that bytes went out, and returns how many of them had been pending.
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

    /// Begins a chunk if none is open; the data that belongs to it, and what stands at its end.
    fn chunk<'d>(&mut self, data: &'d [u8], last: bool) -> (&'d [u8], &'static [u8]) {
        if self.chunk_left == 0 {
            if data.is_empty() {
                let end = last && !self.closed;
                return (data, if end { LAST_CHUNK } else { b"" });
            }
            self.chunk_left = data.len();
            let size = format_args!("{:x}\r\n", data.len());
            let written = io::Write::write_fmt(&mut self.pending, size);
            debug_assert!(written.is_ok(), "a Vec takes everything");
        }
        let data = &data[..data.len().min(self.chunk_left)];
        let tail: &[u8] = match (data.len() == self.chunk_left, last) {
            (false, _) => b"",
            (true, false) => b"\r\n",
            (true, true) => b"\r\n0\r\n\r\n",
        };
        (data, tail)
    }

    /// Whether nothing is left to write, given that no data waits. `last`: and none will come.
    pub(crate) fn is_over(&self, last: bool) -> bool {
        self.is_empty() && (self.closed || !last)
    }

    /// Frees what an idle connection does not need.
    pub(crate) fn rest(&mut self, buffers: &Buffers) {
        buffers.keep_head(&mut self.pending);
    }

    /// Takes a buffer for heads.
    pub(crate) fn wake(&mut self, buffers: &Buffers) {
        if self.pending.capacity() == 0 {
            self.pending = buffers.head();
        }
    }

    /// Writes all that waits, to the wire.
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

/// Which side of a pipe failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipeError {
    #[error("receiving")]
    Receive(#[from] ReceiveError),
    #[error("sending")]
    Send(#[from] SendError),
}

/// Moves a body on; ready when all of it is on the wire.
pub(crate) fn poll_pipe<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    (receiver, from): (&mut Receiver, &mut R),
    (sender, to): (&mut Sender, &mut W),
) -> Poll<Result<(), PipeError>> {
    loop {
        let over = receiver.is_over();
        while !receiver.data().is_empty() || !sender.is_over(over) {
            let count = ready!(sender.poll_send(cx, to, receiver.data(), over))?;
            receiver.consume(count);
        }
        if over {
            return Pin::new(to).poll_flush(cx).map_err(|error| PipeError::Send(SendError(error)));
        }
        match receiver.poll_body(cx, from) {
            Poll::Ready(outcome) => outcome?,
            Poll::Pending => {
                // What TLS could not write at once goes out as soon as it can.
                if let Poll::Ready(Err(error)) = Pin::new(to).poll_flush(cx) {
                    return Poll::Ready(Err(PipeError::Send(SendError(error))));
                }
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests;
