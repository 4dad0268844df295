//! The socket of a client connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::base::acked_bytes::acknowledged;
use crate::base::corked_socket::CorkedSocket;

/// The socket of a client: what reaches it, and how it ends: said at the TLS level where there is one, and in one
/// packet with the last response where that is at hand.
pub(crate) trait Socket {
    /// What has arrived at its machine, if the system tells.
    fn arrived(&self) -> Option<u64>;

    /// What is written from now on is the last, and all of it is at hand: it may wait for `poll_end`.
    fn cork(&mut self);

    /// Bytes that are held back.
    fn held(&self) -> usize;

    /// Sends what is held back and says that no more comes; the connection can then be dropped.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Socket for TcpStream {
    fn arrived(&self) -> Option<u64> {
        acknowledged(self)
    }

    fn cork(&mut self) {}

    fn held(&self) -> usize {
        0
    }

    fn poll_end(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Socket for Box<TlsStream<CorkedSocket>> {
    fn arrived(&self) -> Option<u64> {
        self.get_ref().0.acknowledged()
    }

    fn cork(&mut self) {
        self.get_mut().0.cork();
    }

    fn held(&self) -> usize {
        self.get_ref().0.held()
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (wire, session) = self.get_mut();
        // Only the first time does anything.
        session.send_close_notify();
        wire.release();
        Pin::new(self).poll_flush(cx)
    }
}
