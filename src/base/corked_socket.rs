//! The socket below TLS. It reads ahead, because rustls reads 4 KiB at a time, which would be one system call each. It
//! can be corked, so that the last response and `close_notify` go out in one packet.

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
    /// Bytes that have been read ahead.
    ahead: BytesMut,
    /// Bytes that are held back.
    held: BytesMut,
    is_corked: bool,
    /// The total number of bytes that the kernel has accepted.
    sent: u64,
    buffers: Rc<Buffers>,
}

/// The maximum number of bytes that are held back.
const MAX_HELD: usize = 64 * 1024;

impl CorkedSocket {
    pub(crate) fn new(stream: TcpStream, buffers: Rc<Buffers>) -> Self {
        Self { stream, ahead: BytesMut::new(), held: BytesMut::new(), is_corked: false, sent: 0, buffers }
    }

    /// Holds back the data that is written from now on, up to `MAX_HELD`. A flush has no effect until `uncork`.
    pub(crate) fn cork(&mut self) {
        self.is_corked = true;
    }

    /// The total number of bytes that the kernel has accepted.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// The number of bytes that the peer has acknowledged. None: the kernel cannot tell.
    pub(crate) fn acknowledged(&self) -> Option<u64> {
        acknowledged(&self.stream)
    }

    fn count(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = written {
            self.sent += count as u64;
        }
        written
    }

    /// The number of bytes that are held back.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Makes the next flush send the data that is held back.
    pub(crate) fn uncork(&mut self) {
        self.is_corked = false;
    }

    /// Holds data back and returns its length. None: the socket is not corked, or the limit is reached.
    fn hold(&mut self, slices: &[IoSlice<'_>]) -> Option<usize> {
        let count = slices.iter().map(|slice| slice.len()).sum();
        if !self.is_corked || self.held.len() + count > MAX_HELD {
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
        if this.is_corked { Poll::Ready(Ok(())) } else { this.poll_send_held(cx) }
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
    async fn corked_data_is_sent_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (mut client, mut socket) =
            (client.unwrap(), CorkedSocket::new(accepted.unwrap().0, Rc::default()));
        socket.cork();
        socket.write_all(b"one ").await.unwrap();
        socket.flush().await.unwrap();
        assert!(client.try_read(&mut [0; 10]).is_err(), "held back");
        socket.write_all(b"two ").await.unwrap();
        socket.uncork();
        socket.flush().await.unwrap();
        let mut bytes = [0; 8];
        client.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"one two ");

        socket.cork();
        socket.write_all(b"small").await.unwrap();
        let large = vec![b'x'; MAX_HELD];
        socket.write_all(&large).await.unwrap();
        let mut all = vec![0; 5 + MAX_HELD];
        client.read_exact(&mut all).await.unwrap();
        assert!(all.starts_with(b"smallxxx"), "no more than the limit is held back");

        socket.write_all(b"end").await.unwrap();
        poll_fn(|cx| Pin::new(&mut socket).poll_shutdown(cx)).await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"end");
    }
}
