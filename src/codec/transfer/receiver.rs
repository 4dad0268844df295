//! The receiving side: bytes as they come, and the body among them without its framing.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use crate::base::buffers::Buffers;
use crate::codec::body::Decoder;
use crate::codec::body_piece::BodyError;
use crate::codec::length::Length;

/// Why nothing more comes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the body")]
    Body(#[from] BodyError),
}

/// After a read of this many bytes, more may be waiting.
const LARGE_READ: usize = 8 * 1024;

/// One side of a connection: bytes as they come, and the body among them without its framing.
#[derive(Debug)]
pub(crate) struct Receiver {
    buffers: Rc<Buffers>,
    /// First `ready` bytes of the body, then what has not been looked at.
    pub(crate) bytes: BytesMut,
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
            // The rest of the buffer belongs to the piece.
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
