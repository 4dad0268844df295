//! The socket below TLS, read in large pieces: rustls asks for 4 KiB at a time, which would be a system call each. And
//! written in one piece at the end: the last response and the word that no more comes need not be two packets.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use crate::base::acked_bytes::acknowledged;
use crate::base::buffers::Buffers;

#[derive(Debug)]
pub(crate) struct CorkedSocket {
    stream: TcpStream,
    /// Read and not yet asked for.
    ahead: BytesMut,
    /// Written and not yet sent.
    held: BytesMut,
    holding: bool,
    /// Bytes that the system has taken, all in all.
    sent: u64,
    buffers: Rc<Buffers>,
}

/// More than this is not held back.
const MAX_HELD: usize = 64 * 1024;

impl CorkedSocket {
    pub(crate) fn new(stream: TcpStream, buffers: Rc<Buffers>) -> Self {
        Self { stream, ahead: BytesMut::new(), held: BytesMut::new(), holding: false, sent: 0, buffers }
    }

    /// Holds back what is written from now on, until it is too much or `release` is called. A flush does nothing
    /// meanwhile.
    pub(crate) fn cork(&mut self) {
        self.holding = true;
    }

    /// Bytes that the system has taken from us, all in all.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Of those, what the peer's machine has acknowledged; none when the system does not tell.
    pub(crate) fn acknowledged(&self) -> Option<u64> {
        acknowledged(&self.stream)
    }

    fn count(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = written {
            self.sent += count as u64;
        }
        written
    }

    /// Bytes that are held back.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// The next flush sends all that has been held back.
    pub(crate) fn release(&mut self) {
        self.holding = false;
    }

    /// Whether that many more bytes could be buffered.
    fn hold(&mut self, slices: &[IoSlice<'_>]) -> Option<usize> {
        let count = slices.iter().map(|slice| slice.len()).sum();
        if !self.holding || self.held.len() + count > MAX_HELD {
            return None;
        }
        self.buffers.make_room(&mut self.held);
        slices.iter().for_each(|slice| self.held.extend_from_slice(slice));
        Some(count)
    }

    fn poll_send_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.held.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(cx, &self.held);
            let count = ready!(self.count(written))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(count);
        }
        self.buffers.give_back(&mut self.held);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for CorkedSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        asked: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            this.buffers.make_room(&mut this.ahead);
            let read = poll_read_buf(Pin::new(&mut this.stream), cx, &mut this.ahead);
            if this.ahead.is_empty() {
                this.buffers.give_back(&mut this.ahead);
            }
            ready!(read)?;
        }
        let count = asked.remaining().min(this.ahead.len());
        asked.put_slice(&this.ahead[..count]);
        this.ahead.advance(count);
        if this.ahead.is_empty() {
            this.buffers.give_back(&mut this.ahead);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CorkedSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(count) = this.hold(&[IoSlice::new(bytes)]) {
            return Poll::Ready(Ok(count));
        }
        ready!(this.poll_send_held(cx))?;
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.count(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(count) = this.hold(slices) {
            return Poll::Ready(Ok(count));
        }
        ready!(this.poll_send_held(cx))?;
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.holding { Poll::Ready(Ok(())) } else { this.poll_send_held(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send_held(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn what_is_held_back_goes_out_in_its_order_whenever_it_goes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (mut client, mut wire) = (client.unwrap(), CorkedSocket::new(accepted.unwrap().0, Rc::default()));
        wire.cork();
        wire.write_all(b"one ").await.unwrap();
        wire.flush().await.unwrap();
        assert!(client.try_read(&mut [0; 10]).is_err(), "held back");
        wire.write_all(b"two ").await.unwrap();
        wire.release();
        wire.flush().await.unwrap();
        let mut bytes = [0; 8];
        client.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"one two ");

        wire.cork();
        wire.write_all(b"small").await.unwrap();
        let large = vec![b'x'; MAX_HELD];
        wire.write_all(&large).await.unwrap();
        let mut all = vec![0; 5 + MAX_HELD];
        client.read_exact(&mut all).await.unwrap();
        assert!(all.starts_with(b"smallxxx"), "too much is not held back");

        wire.write_all(b"end").await.unwrap();
        poll_fn(|cx| Pin::new(&mut wire).poll_shutdown(cx)).await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"end");
    }
}
