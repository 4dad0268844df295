//! The receiving side of a connection: buffers bytes and removes the framing of bodies.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use crate::base::buffers::Buffers;
use crate::codec::body::Decoder;
use crate::codec::chunked::BodyError;
use crate::codec::message::Length;

/// Why receiving failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the body")]
    Body(#[from] BodyError),
}

/// After a read of at least this many bytes, the receiver reads again at once.
const LARGE_READ: usize = 8 * 1024;

/// The receiving side of a connection.
#[derive(Debug)]
pub(crate) struct Receiver {
    buffers: Rc<Buffers>,
    /// `ready` bytes of decoded body, then bytes that have not been decoded.
    pub(crate) bytes: BytesMut,
    ready: usize,
    decoder: Decoder,
    /// An error of a read that followed a successful one. The next call reports it, because the kernel does so only
    /// once.
    failed: Option<io::Error>,
    /// The total number of bytes read.
    pub(crate) received: u64,
    /// The total number of body bytes consumed.
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

    /// The received bytes after the decoded body: a head, or part of one.
    pub(crate) fn head(&self) -> &[u8] {
        &self.bytes[self.ready..]
    }

    /// Reads more bytes. `false`: the connection has ended. Within a body, use `poll_body`.
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
            // An idle connection holds no buffer.
            self.buffers.give_back(&mut self.bytes);
        }
        let mut count = ready!(read)?;
        let ended = count == 0;
        while count >= LARGE_READ && self.bytes.capacity() > self.bytes.len() {
            // A TLS read returns one record. The next one may have arrived already.
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

    /// Skips bytes before a head.
    pub(crate) fn skip(&mut self, count: usize) {
        debug_assert_eq!(self.ready, 0);
        self.bytes.advance(count);
    }

    /// Discards all buffered bytes.
    pub(crate) fn discard(&mut self) {
        self.ready = 0;
        self.bytes.clear();
    }

    /// Returns the buffer to the pool if it is empty.
    pub(crate) fn release_buffer(&mut self) {
        if self.bytes.is_empty() {
            self.buffers.give_back(&mut self.bytes);
        }
    }

    /// Consumes a head of `head` bytes and begins the body after it.
    pub(crate) fn begin_body(&mut self, head: usize, length: Length) -> Result<(), BodyError> {
        self.bytes.advance(head);
        self.decoder = Decoder::new(length);
        self.decode()
    }

    fn decode(&mut self) -> Result<(), BodyError> {
        let piece = self.decoder.decode(&mut self.bytes)?;
        let rest = self.bytes.len() - piece.taken;
        if rest > 0 && piece.end != piece.taken {
            // Bytes after the body move up to its data.
            self.bytes.copy_within(piece.taken.., piece.end);
        }
        self.bytes.truncate(piece.end + rest);
        self.bytes.advance(piece.start);
        self.ready = piece.end - piece.start;
        Ok(())
    }

    /// The decoded body data that has not been consumed.
    pub(crate) fn data(&self) -> &[u8] {
        &self.bytes[..self.ready]
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.bytes.advance(count);
        self.ready -= count;
        self.taken += count as u64;
        self.release_buffer();
    }

    /// Consumes all decoded data and returns it.
    pub(crate) fn take(&mut self) -> Bytes {
        // Smaller data is copied, so that it does not keep a large buffer.
        const MIN_UNCOPIED: usize = 16 * 1024;
        let ready = self.ready;
        if ready < MIN_UNCOPIED {
            let bytes = Bytes::copy_from_slice(self.data());
            self.consume(ready);
            return bytes;
        }
        self.ready = 0;
        self.taken += ready as u64;
        let bytes = self.bytes.split_to(ready).freeze();
        if self.bytes.is_empty() {
            // The returned data owns the rest of the buffer.
            self.bytes = BytesMut::new();
        }
        bytes
    }

    /// Whether the whole body has been received. Some of it may not have been consumed.
    pub(crate) fn is_over(&self) -> bool {
        self.decoder.is_over()
    }

    /// Whether the whole body has been received and consumed.
    pub(crate) fn is_taken(&self) -> bool {
        self.is_over() && self.ready == 0
    }

    /// Whether no bytes are buffered.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Receives more of a body, after all data has been consumed.
    pub(crate) fn poll_body<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut R,
    ) -> Poll<Result<(), ReceiveError>> {
        while self.ready == 0 && !self.is_over() {
            if ready!(self.poll_more(cx, io))? {
                self.decode()?;
            } else {
                self.decoder.end_of_connection()?;
            }
        }
        Poll::Ready(Ok(()))
    }
}
