//! The socket of a client connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::base::acked_bytes::acknowledged;
use crate::base::corked_socket::CorkedSocket;

/// The socket of a client, with or without TLS. With TLS, `cork` and `poll_end` send the last response and the
/// `close_notify` alert in one packet.
pub(crate) trait Socket {
    /// How many bytes the client's kernel has acknowledged, if our kernel can tell.
    fn arrived(&self) -> Option<u64>;

    /// Holds back the data that is written from now on, until `poll_end`. Call it only when no more data will follow.
    fn cork(&mut self);

    /// The number of bytes that are held back.
    fn held(&self) -> usize;

    /// Sends the data that is held back, and `close_notify`. The connection can then be dropped.
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
        let (socket, session) = self.get_mut();
        // Repeated calls have no effect.
        session.send_close_notify();
        socket.uncork();
        Pin::new(self).poll_flush(cx)
    }
}
