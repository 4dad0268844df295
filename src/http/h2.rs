//! A connection of a browser that speaks HTTP/2: h2 speaks the protocol, each stream is a request.
//!
//! The connection itself is kept here: how long it may be without a request, what it may cost (`watch`), and how it ends.

mod answer;
mod gather;
mod request;
mod watch;

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, Handshake};
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::Connection;
use crate::config::BrowserTimeouts;
use crate::deadline::Deadline;
use crate::drain::Watching;
use crate::http1::head::MOST_REQUEST_BYTES;
use crate::pace::{Limits, Pace};
use crate::tls::wire::Wire;
use gather::Gathered;
use watch::Watch;

/// Requests at a time.
const STREAMS: u32 = 100;
/// Of bodies, what browsers may send before it has been passed on, in bytes: a stream, and all of them together.
const WINDOW: u32 = 1024 * 1024;
/// Of a response, what waits for the socket.
const MOST_UNSENT: usize = 128 * 1024;
/// Streams that were reset before they were looked at, and streams reset for the peer's errors, before it is shown the door.
const MOST_RESET: usize = 64;
/// How often a connection that is used is looked over.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What a connection without any request has to take note that it is being closed.
const UNUSED_GRACE: Duration = Duration::from_secs(2);
/// What a peer that is hung up on has to take note of that.
const LAST_WORDS: Duration = Duration::from_secs(1);

type Io = Gathered<Box<TlsStream<Wire>>>;

/// Serves a browser until it leaves or the worker drains.
pub(super) async fn serve(stream: Box<TlsStream<Wire>>, connection: Connection) {
    let peer = connection.peer;
    let mut kept = Box::new(Kept::new(stream, connection));
    match poll_fn(|cx| kept.poll(cx)).await {
        End::Closed => {}
        End::Failed(error) => debug!(client = %peer, %error, "connection ended"),
        End::GivenUp(why) => debug!(client = %peer, why, "connection given up"),
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
struct Kept {
    stage: Stage,
    io: Io,
    watch: Rc<Watch>,
    connection: Rc<Connection>,
    timeouts: BrowserTimeouts,
    limits: Limits,
    draining: Watching,
    deadline: Deadline,
    begun: Instant,
    /// Since when there has been no request; none while there is one.
    idle_since: Option<Instant>,
    used: bool,
    /// How the peer takes what is sent to it.
    pace: Pace,
    ending: Ending,
}

/// Whether the connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// What is under way is finished.
    Told,
    /// At once, with a last word.
    HungUp(&'static str),
}

/// What is to be done with a connection that has been looked over.
enum Look {
    /// Look again after so long.
    Again(Duration),
    Tell,
    HangUp(&'static str),
    /// Nobody is there to be told.
    GiveUp(&'static str),
}

impl Kept {
    fn new(stream: Box<TlsStream<Wire>>, connection: Connection) -> Self {
        let worker = connection.worker.clone();
        let watch = Rc::new(Watch::new());
        let io = Gathered::new(stream, worker.buffers.clone(), watch.clone());
        let greeting = Builder::new()
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(MOST_REQUEST_BYTES as u32)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buffer_size(MOST_UNSENT)
            .max_pending_accept_reset_streams(MOST_RESET)
            .max_local_error_reset_streams(Some(MOST_RESET))
            .handshake(io.clone());
        let now = Instant::now();
        let timeouts = worker.gateway.timeouts;
        Self {
            stage: Stage::Greeting(Box::pin(greeting)),
            io,
            watch,
            connection: Rc::new(connection),
            timeouts,
            limits: worker.gateway.limits,
            draining: Watching::new(worker.drain.clone()),
            deadline: Deadline::after(timeouts.request_head),
            begun: now,
            idle_since: Some(now),
            used: false,
            pace: Pace::default(),
            ending: Ending::No,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let streams = self.poll_streams(cx);
            self.io.send(cx);
            if let Poll::Ready(end) = streams {
                return Poll::Ready(end);
            }
            if let Ending::HungUp(why) = self.ending {
                return self.deadline.poll(cx).map(|()| End::GivenUp(why));
            }
            let told = self.ending == Ending::Told;
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

    /// Moves everything on, and takes up the requests that have come.
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
                Poll::Ready(Some(Ok((request, reply)))) => {
                    self.used = true;
                    let (connection, watch) = (self.connection.clone(), self.watch.clone());
                    tokio::task::spawn_local(answer::answer(request, reply, connection, watch));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(End::Failed(error)),
                Poll::Ready(None) => return Poll::Ready(End::Closed),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Looks the connection over.
    fn look(&mut self, cx: &mut Context<'_>, now: Instant) -> Look {
        if self.watch.hang_up.get() {
            return Look::HangUp("it costs and brings nothing");
        }
        let mut left = LOOK_EVERY;
        match self.io.progress() {
            (true, _) => self.pace.rests(),
            (false, sent) => match self.pace.left(sent, self.limits, now) {
                Some(time) => left = left.min(time),
                None => return Look::GiveUp("it does not read"),
            },
        }
        if self.watch.unfinished_for(now) >= self.timeouts.request_head {
            return Look::HangUp("the rest of a head does not come");
        }
        let busy = matches!(&self.stage, Stage::Open(connection) if connection.has_streams());
        let draining = if busy {
            self.idle_since = None;
            self.draining.works();
            self.draining.poll(cx)
        } else {
            let since = *self.idle_since.get_or_insert(now);
            let (since, allowed) = match (self.ending, self.used) {
                (Ending::Told, _) => (since, UNUSED_GRACE),
                (_, true) => (since, self.timeouts.idle),
                (_, false) => (self.begun, self.timeouts.request_head),
            };
            match allowed.checked_sub(now - since) {
                Some(time) if !time.is_zero() => {
                    // Nothing moves that would have to be looked over; a head that has begun is looked for in time.
                    let within = self.watch.unfinished_for(now) > Duration::ZERO;
                    left = if within || left < LOOK_EVERY { left.min(time) } else { time };
                }
                Some(_) | None => return Look::Tell,
            }
            self.draining.poll_waiting(cx)
        };
        if self.draining.is_evicted() {
            return Look::GiveUp("it makes room for another");
        }
        let old = now - self.begun >= self.timeouts.age;
        if self.ending == Ending::No && (draining || old || self.watch.retire.get()) {
            return Look::Tell;
        }
        Look::Again(left)
    }

    /// Tells the peer that nothing new is taken up, and finishes what is under way.
    fn tell(&mut self) {
        self.ending = Ending::Told;
        self.idle_since = None;
        match &mut self.stage {
            Stage::Open(connection) => connection.graceful_shutdown(),
            // Nothing has been said yet.
            Stage::Greeting(_) => self.ending = Ending::HungUp("no greeting"),
        }
        self.deadline.set(LAST_WORDS);
    }

    fn hang_up(&mut self, why: &'static str) {
        self.ending = Ending::HungUp(why);
        if let Stage::Open(connection) = &mut self.stage {
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
        self.deadline.set(LAST_WORDS);
    }
}
