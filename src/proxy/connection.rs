//! One connection to an upstream server.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::base::buffers::Buffers;
use crate::base::corked_socket::CorkedSocket;
use crate::base::deadline::Deadline;
use crate::codec::head::Scanner;
use crate::codec::transfer::{Receiver, Sender};

/// The socket of a connection: plain or TLS.
pub(crate) type Stream = Either<TcpStream, Box<TlsStream<CorkedSocket>>>;

/// A connection to an upstream server.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    /// Index of its server.
    pub(crate) server: usize,
    /// The client that its PROXY header names.
    pub(super) visitor: Option<IpAddr>,
    pub(crate) receiver: Receiver,
    pub(crate) sender: Sender,
    pub(super) scanner: Scanner,
    pub(crate) deadline: Deadline,
    pub(super) buffers: Rc<Buffers>,
}

impl Connection {
    pub(super) fn new(stream: Stream, server: usize, buffers: Rc<Buffers>, limit: Duration) -> Box<Self> {
        Box::new(Self {
            stream,
            server,
            visitor: None,
            receiver: Receiver::new(buffers.clone()),
            sender: Sender::default(),
            scanner: Scanner::default(),
            deadline: Deadline::after(limit),
            buffers,
        })
    }

    /// Whether an idle connection is open and nothing has been received on it. Unsolicited data would be read as the
    /// response to the next request.
    pub(super) fn check_idle(&mut self) -> bool {
        let mut byte = [0];
        let mut read = std::pin::pin!(unconstrained(poll_fn(|cx| {
            Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut byte))
        })));
        // Without the task's budget: if it is exhausted, every read is pending.
        let silent = read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
        silent && self.receiver.is_empty()
    }
}
