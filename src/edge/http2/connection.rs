//! One HTTP/2 connection: its time-outs, its limits (`flood_guard`), and how it is closed.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, Handshake};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use crate::base::corked_socket::CorkedSocket;
use crate::base::deadline::Deadline;
use crate::base::drain::DrainWatch;
use crate::base::min_rate::{Limits, MinRateTimer};
use crate::codec::head::MAX_REQUEST_BYTES;
use crate::config::ClientTimeouts;
use crate::edge::http2::coalescing_io::CoalescingIo;
use crate::edge::http2::flood_guard::FloodGuard;
use crate::edge::http2::request_body::RequestBody;
use crate::edge::http2::response_progress::{ResponseProgress, record_overhead};
use crate::edge::http2::stream::Http2Stream;
use crate::request::connection::Connection;
use crate::request::serve::serve as serve_request;

/// The maximum number of concurrent requests.
const MAX_STREAMS: u32 = 100;
/// Flow-control windows in bytes, of a connection and of a stream. A stalled stream leaves room for others.
const WINDOW: u32 = 1024 * 1024;
const STREAM_WINDOW: u32 = WINDOW / 4;
/// The maximum number of unsent bytes of a response.
const MAX_UNSENT: usize = 128 * 1024;
/// How many streams the client may reset before they are accepted, and how many may be reset for its errors, before the
/// connection is closed.
const MAX_RESET: usize = 64;
/// How often a connection in use is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How long a connection without requests stays open after GOAWAY.
const UNUSED_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a client has to receive the GOAWAY of a connection that is closed at once.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the gateway reads and discards data after the last response, so that the client can read it; and the same
/// during a drain.
const LINGER_TIMEOUT: Duration = Duration::from_secs(30);
const LINGER_TIMEOUT_IN_DRAIN: Duration = Duration::from_secs(5);
/// How often a closing connection checks whether the client still reads.
const READ_CHECK_INTERVAL: Duration = Duration::from_secs(1);

type Io = CoalescingIo<Box<TlsStream<CorkedSocket>>>;

/// Serves a client until it leaves or the worker drains.
pub(crate) async fn serve(stream: Box<TlsStream<CorkedSocket>>, connection: Connection) {
    let peer = connection.peer;
    let mut kept = Box::new(Http2Connection::new(stream, connection));
    match poll_fn(|cx| kept.poll(cx)).await {
        End::Closed => kept.linger().await,
        End::Failed(error) => debug!(client = %peer, %error, "connection ended"),
        End::GivenUp(why) => debug!(client = %peer, reason = why, "connection aborted"),
    }
}

/// How a connection ended.
enum End {
    Closed,
    Failed(h2::Error),
    GivenUp(&'static str),
}

enum Stage {
    Greeting(Pin<Box<Handshake<Io, Bytes>>>),
    Open(Box<h2::server::Connection<Io, Bytes>>),
}

/// A connection of a client.
struct Http2Connection {
    stage: Stage,
    io: Io,
    flood_guard: Rc<FloodGuard>,
    connection: Rc<Connection>,
    timeouts: ClientTimeouts,
    limits: Limits,
    draining: DrainWatch,
    deadline: Deadline,
    opened: Instant,
    /// Since when no request is in progress. None while there is one.
    idle_since: Option<Instant>,
    /// At least one request has been received.
    used: bool,
    /// Checks how fast the client reads.
    min_rate: MinRateTimer,
    closing: Closing,
}

/// Whether the connection is being closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// GOAWAY was sent at this time; requests in progress are finished.
    Graceful(Instant),
    /// GOAWAY was sent, and requests in progress are dropped. Holds the reason.
    AtOnce(&'static str),
}

/// The result of a check.
enum Check {
    /// Check again after this time.
    Again(Duration),
    CloseGracefully,
    CloseAtOnce(&'static str),
    /// Close without a GOAWAY frame: the client does not read.
    GiveUp(&'static str),
}

impl Http2Connection {
    fn new(stream: Box<TlsStream<CorkedSocket>>, connection: Connection) -> Self {
        let worker = connection.worker.clone();
        let flood_guard = Rc::new(FloodGuard::new());
        let (socket, tls) = stream.get_ref();
        let progress = ResponseProgress::new(socket.sent(), record_overhead(tls));
        let io = CoalescingIo::new(stream, progress, worker.buffers.clone(), flood_guard.clone());
        let greeting = Builder::new()
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_REQUEST_BYTES as u32)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buffer_size(MAX_UNSENT)
            .max_pending_accept_reset_streams(MAX_RESET)
            .max_local_error_reset_streams(Some(MAX_RESET))
            .handshake(io.clone());
        let now = Instant::now();
        let timeouts = worker.gateway.timeouts;
        Self {
            stage: Stage::Greeting(Box::pin(greeting)),
            io,
            flood_guard,
            connection: Rc::new(connection),
            timeouts,
            limits: worker.gateway.limits,
            draining: DrainWatch::new(worker.drain.clone()),
            deadline: Deadline::after(timeouts.request_head),
            opened: now,
            idle_since: Some(now),
            used: false,
            min_rate: MinRateTimer::default(),
            closing: Closing::No,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.flood_guard.set_waker(cx.waker());
        loop {
            let streams = self.poll_streams(cx);
            self.io.send(cx);
            if let Closing::AtOnce(why) = self.closing {
                let over = streams.is_ready() || self.deadline.poll(cx).is_ready();
                return if over { Poll::Ready(End::GivenUp(why)) } else { Poll::Pending };
            }
            if let Poll::Ready(end) = streams {
                return Poll::Ready(end);
            }
            let is_closing = self.closing != Closing::No;
            let now = Instant::now();
            match self.check(cx, now) {
                Check::Again(left) => {
                    self.deadline.set_from(now, left);
                    if self.deadline.poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Check::CloseGracefully if !is_closing => self.close_gracefully(),
                Check::CloseGracefully => return Poll::Ready(End::GivenUp("the client ignores GOAWAY")),
                Check::CloseAtOnce(why) => self.close_at_once(why),
                Check::GiveUp(why) => return Poll::Ready(End::GivenUp(why)),
            }
        }
    }

    /// Drives the connection and starts the requests that have arrived.
    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let connection = match &mut self.stage {
                Stage::Open(connection) => connection,
                Stage::Greeting(greeting) => match greeting.as_mut().poll(cx) {
                    Poll::Ready(Ok(connection)) => {
                        self.stage = Stage::Open(Box::new(connection));
                        continue;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(End::Failed(error)),
                    Poll::Pending => return Poll::Pending,
                },
            };
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((_, mut reply)))) if self.rejects_new_streams() => {
                    // The client can repeat it on another connection (RFC 9113 section 8.7).
                    reply.send_reset(Reason::REFUSED_STREAM);
                }
                Poll::Ready(Some(Ok((request, reply)))) => {
                    self.used = true;
                    if let Some(renewed) = self.connection.renewed() {
                        self.timeouts = renewed.worker.gateway.timeouts;
                        self.limits = renewed.worker.gateway.limits;
                        self.connection = Rc::new(renewed);
                    }
                    let (head, body) = request.into_parts();
                    // From now on it counts as a request in progress.
                    let body = RequestBody::new(body, self.flood_guard.clone(), self.io.arrivals());
                    let mut stream =
                        Http2Stream::new(head, body, reply, self.flood_guard.clone(), self.limits.gap);
                    let connection = self.connection.clone();
                    tokio::task::spawn_local(async move {
                        serve_request(&mut stream, &connection).await;
                        stream.finish().await;
                    });
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(End::Failed(error)),
                Poll::Ready(None) => return Poll::Ready(End::Closed),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Whether new streams are refused. h2 sends the GOAWAY that names the last stream only after the client has
    /// answered a PING, and a client may not answer.
    fn rejects_new_streams(&self) -> bool {
        match self.closing {
            Closing::No => false,
            Closing::Graceful(since) => since.elapsed() > UNUSED_TIMEOUT,
            Closing::AtOnce(_) => true,
        }
    }

    /// Checks time-outs, limits and the drain.
    fn check(&mut self, cx: &mut Context<'_>, now: Instant) -> Check {
        if self.flood_guard.is_exhausted.get() {
            return Check::CloseAtOnce("flood");
        }
        let mut left = CHECK_INTERVAL;
        let has_streams = matches!(&self.stage, Stage::Open(connection) if connection.has_streams());
        let (flushed, sent) = self.io.progress();
        // Without a request in progress, open streams wait for the client's windows.
        if flushed && !(has_streams && self.flood_guard.has_no_requests()) {
            self.min_rate.pause(now);
        } else {
            match self.min_rate.update(sent, || self.io.arrived(), self.limits, now) {
                Some(time) => left = left.min(time),
                None => return Check::GiveUp("the client does not read"),
            }
        }
        if self.flood_guard.unfinished_for(now) >= self.timeouts.request_head {
            return Check::CloseAtOnce("incomplete request head");
        }
        // Unsent data keeps a connection as busy as a request does.
        let draining = if has_streams || !flushed {
            self.idle_since = None;
            if self.flood_guard.all_wait() {
                self.draining.poll_idle_within_request(cx)
            } else {
                self.draining.set_busy();
                self.draining.poll(cx)
            }
        } else {
            let since = *self.idle_since.get_or_insert(now);
            let (since, allowed) = match (self.closing, self.used) {
                (Closing::Graceful(_), _) => (since, UNUSED_TIMEOUT),
                (_, true) => (since, self.timeouts.idle),
                (_, false) => (self.opened, self.timeouts.request_head),
            };
            match allowed.checked_sub(now - since) {
                Some(time) if !time.is_zero() => {
                    // An idle connection needs no other check, unless a head is incomplete.
                    left = if self.flood_guard.is_unfinished() { left.min(time) } else { time };
                }
                Some(_) | None if self.client_still_reads(now) => left = READ_CHECK_INTERVAL,
                Some(_) | None => return Check::CloseGracefully,
            }
            self.draining.poll_idle(cx)
        };
        if self.draining.is_evicted() {
            return Check::GiveUp("evicted at the connection limit");
        }
        let is_old = now - self.opened >= self.timeouts.connection_age;
        if self.closing == Closing::No && (draining || is_old || self.flood_guard.closing.get()) {
            return Check::CloseGracefully;
        }
        Check::Again(left)
    }

    /// Whether the client is still reading data that the kernel has buffered, and fast enough. If the connection closed
    /// now, any data from the client would reset it, and the buffered data would be lost.
    fn client_still_reads(&mut self, now: Instant) -> bool {
        let (_, sent) = self.io.progress();
        self.io.has_unacknowledged()
            && self.min_rate.update(sent, || self.io.arrived(), self.limits, now).is_some()
    }

    /// Sends GOAWAY and finishes the requests in progress.
    fn close_gracefully(&mut self) {
        self.closing = Closing::Graceful(Instant::now());
        self.idle_since = None;
        match &mut self.stage {
            Stage::Open(connection) => connection.graceful_shutdown(),
            // Nothing has been sent yet.
            Stage::Greeting(_) => self.close_at_once("no connection preface"),
        }
    }

    /// Reads and discards data until the client has read the responses (lingering close). Without that, data from the
    /// client would reset the connection, and the client could lose them.
    async fn linger(&mut self) {
        let (begun, mut bytes) = (Instant::now(), vec![0; 4096]);
        self.deadline.set(LINGER_TIMEOUT);
        poll_fn(|cx| {
            loop {
                let mut buffer = ReadBuf::new(&mut bytes);
                match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            if self.draining.poll_idle(cx) {
                self.deadline.set(LINGER_TIMEOUT_IN_DRAIN.saturating_sub(begun.elapsed()));
            }
            if self.draining.is_evicted() {
                return Poll::Ready(());
            }
            while self.deadline.poll(cx).is_ready() {
                if !self.client_still_reads(Instant::now()) {
                    return Poll::Ready(());
                }
                self.deadline.set(READ_CHECK_INTERVAL);
            }
            Poll::Pending
        })
        .await;
    }

    fn close_at_once(&mut self, why: &'static str) {
        self.closing = Closing::AtOnce(why);
        if let Stage::Open(connection) = &mut self.stage {
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
        self.deadline.set(GOAWAY_TIMEOUT);
    }
}
