//! One HTTP/1 connection: waiting for requests, and how it is closed.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::base::buffers::Buffers;
use crate::base::deadline::Deadline;
use crate::base::drain::DrainWatch;
use crate::base::min_rate::{Limits, MinRateTimer};
use crate::codec::head::{self, Scanner};
use crate::codec::message::HeadError;
use crate::codec::transfer::{Receiver, SendError, Sender};
use crate::edge::client_socket::Socket;
use crate::proxy::connection::Connection as UpstreamConnection;
use crate::request::connection::Connection;
use crate::request::error_page::Failure;

/// The maximum number of empty lines before a request. Some old clients send one after a body.
const MAX_BLANK_LINES: usize = 4;
/// How long the gateway reads and discards data after the last response, so that the client can read that response.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// `LINGER_TIMEOUT` while the worker drains.
const LINGER_TIMEOUT_IN_DRAIN: Duration = Duration::from_millis(500);
/// How many bytes are discarded at most while lingering.
const MAX_DISCARDED_BYTES: u64 = 16 * 1024 * 1024;
/// How long a connection still waits for a request, or for the rest of a head, once the worker drains or
/// `timeouts.idle` has expired. The client may be sending a request at that moment, and cannot know whether a server
/// that closes the connection has processed it. That request is the last one of the connection.
const LAST_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// State of waiting for a request head.
struct Waiting {
    /// Part of the head has been received.
    begun: bool,
    blank_lines: usize,
}

/// The result of waiting for a request.
pub(super) enum Next {
    /// A complete head of this many bytes, or why the connection ends with an error page.
    Request(Result<usize, Failure>),
    /// The idle time-out has expired, or the connection was evicted.
    Idle,
    /// The client has closed the connection.
    Gone,
}

/// What happens to the connection after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It waits for the next request.
    Another,
    Close,
    /// Close for sending, and discard what the client is still sending.
    Linger,
    /// Close at once.
    Gone,
}

/// A client connection and its state.
pub(super) struct Http1Connection<S> {
    pub(super) io: S,
    pub(super) receiver: Receiver,
    pub(super) sender: Sender,
    scanner: Scanner,
    pub(super) deadline: Deadline,
    pub(super) limits: Limits,
    opened: Instant,
    pub(super) draining: DrainWatch,
    /// The next request is the last one and must arrive within `LAST_REQUEST_TIMEOUT`.
    pub(super) is_last_request: bool,
    /// At least one request has been received.
    pub(super) used: bool,
    /// The upstream connection that Windows authentication has signed in for this client.
    pub(super) own_upstream: Option<Box<UpstreamConnection>>,
}

impl<S: AsyncRead + AsyncWrite + Socket + Unpin> Http1Connection<S> {
    pub(super) fn new(io: S, connection: &Connection) -> Self {
        let worker = &connection.worker;
        Self {
            io,
            receiver: Receiver::new(Rc::clone(&worker.buffers)),
            sender: Sender::default(),
            scanner: Scanner::default(),
            deadline: Deadline::after(worker.gateway.timeouts.request_head),
            limits: worker.gateway.limits,
            opened: Instant::now(),
            draining: DrainWatch::new(worker.drain.clone()),
            is_last_request: false,
            used: false,
            own_upstream: None,
        }
    }

    /// Returns the buffers that an idle connection does not need.
    pub(super) fn release_buffers(&mut self, buffers: &Buffers) {
        self.receiver.release_buffer();
        self.sender.release_buffer(buffers);
    }

    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Waits for a request head.
    pub(super) async fn next_head(&mut self, connection: &Connection) -> Next {
        self.draining.set_busy();
        let mut waiting = Waiting { begun: !self.receiver.is_empty(), blank_lines: 0 };
        if waiting.begun {
            self.deadline.set(self.head_timeout(connection));
        }
        let next = poll_fn(|cx| self.poll_next_head(cx, connection, &mut waiting)).await;
        self.draining.set_busy();
        next
    }

    fn head_timeout(&self, connection: &Connection) -> Duration {
        if self.is_last_request {
            LAST_REQUEST_TIMEOUT
        } else {
            connection.worker.gateway.timeouts.request_head
        }
    }

    fn poll_next_head(
        &mut self,
        cx: &mut Context<'_>,
        connection: &Connection,
        waiting: &mut Waiting,
    ) -> Poll<Next> {
        let malformed = |error| Poll::Ready(Next::Request(Err(Failure::Malformed(error))));
        loop {
            // RFC 9112 section 2.2: an empty line before a request is ignored.
            while self.receiver.head().starts_with(b"\r\n") {
                waiting.blank_lines += 1;
                if waiting.blank_lines > MAX_BLANK_LINES {
                    return malformed(HeadError::Malformed("empty lines"));
                }
                self.receiver.skip(2);
                self.scanner = Scanner::default();
            }
            match self.scanner.find_end(self.receiver.head(), head::MAX_REQUEST_BYTES) {
                Ok(Some(length)) => return Poll::Ready(Next::Request(Ok(length))),
                Ok(None) => {}
                Err(error) => return malformed(error),
            }
            match self.receiver.poll_more(cx, &mut self.io) {
                Poll::Ready(Ok(true)) if waiting.begun => {}
                Poll::Ready(Ok(true)) => {
                    waiting.begun = true;
                    self.deadline.set(self.head_timeout(connection));
                }
                Poll::Ready(Ok(false) | Err(_)) => return Poll::Ready(Next::Gone),
                Poll::Pending => break,
            }
        }
        let idle = self.receiver.is_empty();
        let draining = self.draining.poll_idle(cx);
        if self.draining.is_evicted() {
            return Poll::Ready(Next::Idle);
        }
        if draining && !self.is_last_request {
            self.is_last_request = true;
            self.deadline.set(LAST_REQUEST_TIMEOUT);
        }
        ready!(self.deadline.poll(cx));
        if idle && self.used && !self.is_last_request {
            self.is_last_request = true;
            self.deadline.set(LAST_REQUEST_TIMEOUT);
            ready!(self.deadline.poll(cx));
        }
        Poll::Ready(if idle { Next::Idle } else { Next::Request(Err(Failure::RequestTimeout)) })
    }

    /// Writes everything that is buffered. Fails if the client reads slower than `limits` allow.
    pub(super) async fn flush(&mut self) -> Result<(), SendError> {
        let (sender, io, deadline) = (&mut self.sender, &mut self.io, &mut self.deadline);
        let (limits, mut timer) = (self.limits, MinRateTimer::default());
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = sender.poll_flush(cx, io) {
                return Poll::Ready(outcome);
            }
            let timed_out = || Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
            timer.poll(cx, deadline, sender.sent, || io.arrived(), limits).map(|()| timed_out())
        })
        .await
    }

    /// How to close the connection: it lingers if the client may still be sending.
    pub(super) fn closing(&self) -> After {
        if self.receiver.is_empty() && self.receiver.is_over() { After::Close } else { After::Linger }
    }

    /// Sends the corked data and closes for sending. Returns `false` if that failed or the client was too slow.
    pub(super) async fn end(&mut self) -> bool {
        let (io, deadline, limits) = (&mut self.io, &mut self.deadline, self.limits);
        let (held, mut timer) = (io.held(), MinRateTimer::default());
        poll_fn(|cx| {
            if let Poll::Ready(ended) = io.poll_end(cx) {
                return Poll::Ready(ended.is_ok());
            }
            let sent = held.saturating_sub(io.held()) as u64;
            timer.poll(cx, deadline, sent, || io.arrived(), limits).map(|()| false)
        })
        .await
    }

    /// Closes for sending, then reads and discards for a short time (lingering close). Without that, data from the
    /// client would reset the connection, and the client could lose the response.
    pub(super) async fn linger(&mut self) {
        let mut discarded = 0_u64;
        self.deadline.set(if self.draining.is_draining() { LINGER_TIMEOUT_IN_DRAIN } else { LINGER_TIMEOUT });
        let mut shut = false;
        poll_fn(|cx| {
            if !shut {
                match Pin::new(&mut self.io).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => shut = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return self.deadline.poll(cx),
                }
            }
            loop {
                discarded += (self.receiver.head().len() + self.receiver.data().len()) as u64;
                self.receiver.discard();
                match self.receiver.poll_more(cx, &mut self.io) {
                    Poll::Ready(Ok(true)) if discarded < MAX_DISCARDED_BYTES => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return self.deadline.poll(cx),
                }
            }
        })
        .await;
    }
}
