//! A connection of a client that speaks HTTP/2: h2 speaks the protocol, each stream is a request.
//!
//! The connection itself is kept here: how long it may be without a request, what it may cost (`flood_guard`), and how it ends.

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
use crate::edge::http2::response_progress::{ResponseProgress, around_a_record};
use crate::edge::http2::stream::Http2Stream;
use crate::request::connection::Connection;
use crate::request::serve::serve as serve_request;

/// Requests at a time.
const STREAMS: u32 = 100;
/// Of bodies, what clients may send before it has been passed on, in bytes: all streams together, and one of them, so that one
/// that stands still leaves room for others.
const WINDOW: u32 = 1024 * 1024;
const STREAM_WINDOW: u32 = WINDOW / 4;
/// Of a response, what waits for the socket.
const MAX_UNSENT: usize = 128 * 1024;
/// Streams that were reset before they were looked at, and streams reset for the peer's errors, before it is shown the door.
const MAX_RESET: usize = 64;
/// How often a connection that is used is looked over.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What a connection without any request has to take note that it is being closed.
const UNUSED_GRACE: Duration = Duration::from_secs(2);
/// What a peer that is hung up on has to take note of that.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a peer that has been told everything may go on sending, so that it gets to read it; the same once the worker drains.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_IN_DRAIN: Duration = Duration::from_secs(5);
/// How often it is asked whether the peer still reads what the system has.
const STILL_READ: Duration = Duration::from_secs(1);

type Io = CoalescingIo<Box<TlsStream<CorkedSocket>>>;

/// Serves a client until it leaves or the worker drains.
pub(crate) async fn serve(stream: Box<TlsStream<CorkedSocket>>, connection: Connection) {
    let peer = connection.peer;
    let mut kept = Box::new(Http2Connection::new(stream, connection));
    match poll_fn(|cx| kept.poll(cx)).await {
        End::Closed => kept.linger().await,
        End::Failed(error) => debug!(client = %peer, %error, "connection ended"),
        End::GivenUp(why) => debug!(client = %peer, reason = why, "connection given up"),
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

/// A connection and what is known of it.
struct Http2Connection {
    stage: Stage,
    io: Io,
    flood_guard: Rc<FloodGuard>,
    connection: Rc<Connection>,
    timeouts: ClientTimeouts,
    limits: Limits,
    draining: DrainWatch,
    deadline: Deadline,
    begun: Instant,
    /// Since when there has been no request; none while there is one.
    idle_since: Option<Instant>,
    used: bool,
    /// How the peer takes what is sent to it.
    pace: MinRateTimer,
    ending: Ending,
}

/// Whether the connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// What is under way is finished; since then.
    Told(Instant),
    /// At once, with a last word.
    HungUp(&'static str),
}

/// What is to be done with a connection that has been looked over.
enum Look {
    /// Look again after so long.
    Again(Duration),
    Tell,
    HangUp(&'static str),
    /// Close without a GOAWAY frame: the client does not read.
    GiveUp(&'static str),
}

impl Http2Connection {
    fn new(stream: Box<TlsStream<CorkedSocket>>, connection: Connection) -> Self {
        let worker = connection.worker.clone();
        let flood_guard = Rc::new(FloodGuard::new());
        let (wire, tls) = stream.get_ref();
        let milestones = ResponseProgress::new(wire.sent(), around_a_record(tls));
        let io = CoalescingIo::new(stream, milestones, worker.buffers.clone(), flood_guard.clone());
        let greeting = Builder::new()
            .max_concurrent_streams(STREAMS)
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
            begun: now,
            idle_since: Some(now),
            used: false,
            pace: MinRateTimer::default(),
            ending: Ending::No,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.flood_guard.set_waker(cx.waker());
        loop {
            let streams = self.poll_streams(cx);
            self.io.send(cx);
            if let Ending::HungUp(why) = self.ending {
                let over = streams.is_ready() || self.deadline.poll(cx).is_ready();
                return if over { Poll::Ready(End::GivenUp(why)) } else { Poll::Pending };
            }
            if let Poll::Ready(end) = streams {
                return Poll::Ready(end);
            }
            let told = self.ending != Ending::No;
            let now = Instant::now();
            match self.look(cx, now) {
                Look::Again(left) => {
                    self.deadline.set_from(now, left);
                    if self.deadline.poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Look::Tell if !told => self.tell(),
                Look::Tell => return Poll::Ready(End::GivenUp("it does not take note of its end")),
                Look::HangUp(why) => self.hang_up(why),
                Look::GiveUp(why) => return Poll::Ready(End::GivenUp(why)),
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
                Poll::Ready(Some(Ok((_, mut reply)))) if self.takes_no_more() => {
                    // It can be sent anew, on another connection (RFC 9113 section 8.7).
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
                    // From now on it counts as being answered.
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

    /// Whether what the peer asks for is not taken up any more. h2 names the last stream only when the peer has answered a PING,
    /// which it need not do.
    fn takes_no_more(&self) -> bool {
        match self.ending {
            Ending::No => false,
            Ending::Told(since) => since.elapsed() > UNUSED_GRACE,
            Ending::HungUp(_) => true,
        }
    }

    /// Looks the connection over.
    fn look(&mut self, cx: &mut Context<'_>, now: Instant) -> Look {
        if self.flood_guard.hang_up.get() {
            return Look::HangUp("it costs and brings nothing");
        }
        let mut left = LOOK_EVERY;
        let has_streams = matches!(&self.stage, Stage::Open(connection) if connection.has_streams());
        let (flushed, sent) = self.io.progress();
        // Where no answer is under way any more, what is left of them waits for the peer's windows.
        if flushed && !(has_streams && self.flood_guard.has_answered()) {
            self.pace.pause(now);
        } else {
            match self.pace.update(sent, || self.io.arrived(), self.limits, now) {
                Some(time) => left = left.min(time),
                None => return Look::GiveUp("it does not read"),
            }
        }
        if self.flood_guard.unfinished_for(now) >= self.timeouts.request_head {
            return Look::HangUp("the rest of a head does not come");
        }
        // What has not gone out keeps a connection as busy as a request does.
        let draining = if has_streams || !flushed {
            self.idle_since = None;
            if self.flood_guard.all_wait() {
                self.draining.poll_waiting_within(cx)
            } else {
                self.draining.works();
                self.draining.poll(cx)
            }
        } else {
            let since = *self.idle_since.get_or_insert(now);
            let (since, allowed) = match (self.ending, self.used) {
                (Ending::Told(_), _) => (since, UNUSED_GRACE),
                (_, true) => (since, self.timeouts.idle),
                (_, false) => (self.begun, self.timeouts.request_head),
            };
            match allowed.checked_sub(now - since) {
                Some(time) if !time.is_zero() => {
                    // Nothing moves that would have to be looked over, unless a head has begun.
                    left = if self.flood_guard.is_unfinished() { left.min(time) } else { time };
                }
                Some(_) | None if self.still_reads(now) => left = STILL_READ,
                Some(_) | None => return Look::Tell,
            }
            self.draining.poll_waiting(cx)
        };
        if self.draining.is_evicted() {
            return Look::GiveUp("it makes room for another");
        }
        let old = now - self.begun >= self.timeouts.connection_age;
        if self.ending == Ending::No && (draining || old || self.flood_guard.closing.get()) {
            return Look::Tell;
        }
        Look::Again(left)
    }

    /// Whether the peer still takes, and fast enough, what the system has of answers. A connection that is closed under it is reset when
    /// the peer says anything, and that takes the rest away.
    fn still_reads(&mut self, now: Instant) -> bool {
        let (_, sent) = self.io.progress();
        self.io.is_under_way() && self.pace.update(sent, || self.io.arrived(), self.limits, now).is_some()
    }

    /// Tells the peer that nothing new is taken up, and finishes what is under way.
    fn tell(&mut self) {
        self.ending = Ending::Told(Instant::now());
        self.idle_since = None;
        match &mut self.stage {
            Stage::Open(connection) => connection.graceful_shutdown(),
            // Nothing has been said yet.
            Stage::Greeting(_) => self.hang_up("no greeting"),
        }
    }

    /// All has been said: what the peer still sends is thrown away until it has heard. A connection that is closed under what
    /// it sends could take the end of the answers away from it.
    async fn linger(&mut self) {
        let (begun, mut bytes) = (Instant::now(), vec![0; 4096]);
        self.deadline.set(LINGER);
        poll_fn(|cx| {
            loop {
                let mut buffer = ReadBuf::new(&mut bytes);
                match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            if self.draining.poll_waiting(cx) {
                self.deadline.set(LINGER_IN_DRAIN.saturating_sub(begun.elapsed()));
            }
            if self.draining.is_evicted() {
                return Poll::Ready(());
            }
            while self.deadline.poll(cx).is_ready() {
                if !self.still_reads(Instant::now()) {
                    return Poll::Ready(());
                }
                self.deadline.set(STILL_READ);
            }
            Poll::Pending
        })
        .await;
    }

    fn hang_up(&mut self, why: &'static str) {
        self.ending = Ending::HungUp(why);
        if let Stage::Open(connection) = &mut self.stage {
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
        self.deadline.set(GOAWAY_TIMEOUT);
    }
}
