//! A connection of a browser that speaks HTTP/1: one request after the other, each answered before the next is looked at.

mod forward;
mod plan;
mod upload;
mod visit;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::base::buffers::Buffers;
use crate::base::deadline::Deadline;
use crate::base::drain::Watching;
use crate::base::min_rate::{Limits, Pace};
use crate::codec::head;
use crate::codec::head::{HeadError, Scanner, Tokens, slots};
use crate::codec::transfer::{Receiver, SendError, Sender};
use crate::codec::{Length, Version};
use crate::edge::client_socket::Socket;
use crate::pages::{self, Failure};
use crate::proxy::connection;
use crate::proxy::exchange::{Upload, UploadError};
use crate::proxy::headers::{self, ResponseFraming};
use crate::proxy::upstream::UpstreamError;
use crate::request::access_log::Seen;
use crate::request::connection::Connection;
use plan::{Facts, Step, plan};
use upload::FromBrowser;

/// Empty lines before a request: some old clients send one behind a body.
const MOST_BLANK_LINES: usize = 4;
/// How long a browser that was sent away may go on sending, so that it gets to read why.
const LINGER: Duration = Duration::from_secs(2);
/// The same once the worker drains.
const LINGER_IN_DRAIN: Duration = Duration::from_millis(500);
/// And how much it may send, in bytes.
const MOST_DISCARDED: u64 = 16 * 1024 * 1024;
/// How long the rest of a head may take once the worker drains.
const HEAD_IN_DRAIN: Duration = Duration::from_secs(2);

/// Serves a browser until it leaves or the worker drains.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Socket + Unpin>(io: S, mut connection: Connection) {
    let mut browser = Browser::new(io, &connection);
    loop {
        let next = browser.next_head(&connection).await;
        if let Some(renewed) = connection.renewed() {
            browser.limits = renewed.worker.gateway.limits;
            if !renewed.has_upstream_of(&connection) {
                // It leads to a server that is not the site's any more.
                browser.own = None;
            }
            connection = renewed;
        }
        let next = match next {
            Next::Head(length) => browser.answer(length, &connection).await,
            Next::Malformed(error) => browser.refuse(Failure::Malformed(error), &connection).await,
            Next::TooSlow => browser.refuse(Failure::RequestTimeout, &connection).await,
            Next::Idle => After::Close,
            Next::Gone => After::Gone,
        };
        match next {
            After::Another => browser.rest(&connection.worker.buffers),
            After::Close => {
                browser.end().await;
                return;
            }
            After::Linger => return browser.linger().await,
            After::Gone => return,
        }
    }
}

/// While a request is waited for.
struct Waiting {
    /// Something of it has come.
    begun: bool,
    blank_lines: usize,
}

/// What came of waiting for a request.
enum Next {
    /// A whole head, of so many bytes.
    Head(usize),
    Malformed(HeadError),
    TooSlow,
    /// No request, and no reason to wait for one any longer.
    Idle,
    /// The browser has left.
    Gone,
}

/// What follows a request.
enum After {
    Another,
    Close,
    /// Close, but let the browser finish what it is sending.
    Linger,
    /// Nobody to tell, or nothing that could be told.
    Gone,
}

struct Browser<S> {
    io: S,
    receiver: Receiver,
    sender: Sender,
    scanner: Scanner,
    deadline: Deadline,
    /// How slow it may be.
    limits: Limits,
    begun: Instant,
    draining: Watching,
    /// A head that was under way when the worker began to drain has been given its last time.
    hurried: bool,
    /// It has had a request.
    used: bool,
    /// The upstream connection that Windows authentication signed in for this browser.
    own: Option<Box<connection::Connection>>,
}

impl<S: AsyncRead + AsyncWrite + Socket + Unpin> Browser<S> {
    fn new(io: S, connection: &Connection) -> Self {
        let worker = &connection.worker;
        Self {
            io,
            receiver: Receiver::new(Rc::clone(&worker.buffers)),
            sender: Sender::default(),
            scanner: Scanner::default(),
            deadline: Deadline::after(worker.gateway.timeouts.request_head),
            limits: worker.gateway.limits,
            begun: Instant::now(),
            draining: Watching::new(worker.drain.clone()),
            hurried: false,
            used: false,
            own: None,
        }
    }

    /// Lets go of what an idle connection does not need.
    fn rest(&mut self, buffers: &Buffers) {
        self.receiver.rest();
        self.sender.rest(buffers);
    }

    async fn next_head(&mut self, connection: &Connection) -> Next {
        self.draining.works();
        let mut waiting = Waiting { begun: !self.receiver.is_empty(), blank_lines: 0 };
        if waiting.begun {
            self.deadline.set(self.time_for_a_head(connection));
        }
        let next = poll_fn(|cx| self.poll_next_head(cx, connection, &mut waiting)).await;
        self.draining.works();
        next
    }

    /// How long a head that begins may take.
    fn time_for_a_head(&self, connection: &Connection) -> Duration {
        if self.hurried { HEAD_IN_DRAIN } else { connection.worker.gateway.timeouts.request_head }
    }

    fn poll_next_head(
        &mut self,
        cx: &mut Context<'_>,
        connection: &Connection,
        waiting: &mut Waiting,
    ) -> Poll<Next> {
        loop {
            // RFC 9112 section 2.2: an empty line before a request is left out.
            while self.receiver.head().starts_with(b"\r\n") {
                waiting.blank_lines += 1;
                if waiting.blank_lines > MOST_BLANK_LINES {
                    return Poll::Ready(Next::Malformed(HeadError::Malformed("empty lines")));
                }
                self.receiver.skip(2);
                self.scanner = Scanner::default();
            }
            match self.scanner.find_end(self.receiver.head(), head::MOST_REQUEST_BYTES) {
                Ok(Some(length)) => return Poll::Ready(Next::Head(length)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Next::Malformed(error)),
            }
            match self.receiver.poll_more(cx, &mut self.io) {
                Poll::Ready(Ok(true)) if waiting.begun => {}
                Poll::Ready(Ok(true)) => {
                    waiting.begun = true;
                    self.deadline.set(self.time_for_a_head(connection));
                }
                Poll::Ready(Ok(false) | Err(_)) => return Poll::Ready(Next::Gone),
                Poll::Pending => break,
            }
        }
        let idle = self.receiver.is_empty();
        let draining = self.draining.poll_waiting(cx);
        if self.draining.is_evicted() {
            return Poll::Ready(Next::Idle);
        }
        if draining && !self.hurried {
            if idle && self.used {
                return Poll::Ready(Next::Idle);
            }
            // The rest of a head that has begun may come, and so may the request that a new connection was opened for, if it comes soon.
            self.hurried = true;
            self.deadline.set(HEAD_IN_DRAIN);
        }
        self.deadline.poll(cx).map(|()| if idle { Next::Idle } else { Next::TooSlow })
    }

    async fn answer(&mut self, head: usize, connection: &Connection) -> After {
        self.used = true;
        let incident = connection.worker.next_request_id();
        self.sender.wake(&connection.worker.buffers);
        let planned = {
            let mut slots = slots();
            Tokens::parse(&self.receiver.head()[..head], &mut slots)
                .map(|tokens| plan(&tokens, connection, incident))
        };
        let (mut facts, step) = match planned {
            Ok(planned) => planned,
            Err(error) => return self.refuse(Failure::Malformed(error), connection).await,
        };
        // A connection that is old enough ends with this answer.
        facts.keep_alive &= self.begun.elapsed() < connection.worker.gateway.timeouts.age;
        // What cannot be judged has no body that could be told from a next request.
        let malformed = matches!(step, Err(Failure::Malformed(_)));
        let step = match self.receiver.begin_body(head, facts.length) {
            Ok(()) => step,
            Err(error) => {
                let error = UploadError::Browser(error.into());
                Err(step.err().unwrap_or(Failure::Upstream(UpstreamError::UploadBroke(error))))
            }
        };
        if let Ok(Step::Forward(site, _)) = &step {
            facts.access.is_for(*site);
        } else if let Ok(Step::Visit(visited)) = &step {
            facts.access.is_for(visited.site);
        }
        let after = match step {
            Ok(Step::Forward(site, outgoing)) => self.forward(site, outgoing, &mut facts, connection).await,
            Ok(Step::Visit(visited)) => self.visit(visited, &mut facts, connection).await,
            Ok(Step::Redirect(location)) => {
                let page = pages::redirect(StatusCode::PERMANENT_REDIRECT, &location);
                self.respond(page, &mut facts).await
            }
            Ok(Step::Challenge(answer)) => self.respond(pages::challenge(answer), &mut facts).await,
            Ok(Step::Options) => self.respond(pages::options(), &mut facts).await,
            Err(failure) => self.fail(&failure, &mut facts, connection).await,
        };
        self.deadline.set(connection.worker.gateway.timeouts.idle);
        if malformed && matches!(after, After::Close) { After::Linger } else { after }
    }

    /// What comes of something that takes its time, unless the browser leaves before.
    async fn while_there<T>(&mut self, something: impl Future<Output = T>) -> Option<T> {
        let mut something = Box::pin(something);
        let mut browser = self.upload(false);
        poll_fn(|cx| match something.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending => browser.poll_gone(cx).map(|()| None),
        })
        .await
    }

    /// The body of its request. `says_continue`: the browser waits to be told to go on.
    fn upload(&mut self, says_continue: bool) -> FromBrowser<'_, S> {
        let sides = (&mut self.receiver, &mut self.sender, &mut self.io);
        FromBrowser::new(sides, &mut self.draining, says_continue)
    }

    /// Answers what is no request at all.
    async fn refuse(&mut self, failure: Failure, connection: &Connection) -> After {
        let incident = connection.worker.next_request_id();
        let mut facts = Facts {
            incident,
            version: Version::Http11,
            keep_alive: false,
            // As far as that can be told.
            is_head: self.receiver.head().starts_with(b"HEAD "),
            length: Length::Known(0),
            expects_continue: false,
            access: connection.access(&Seen::nothing(), connection.peer, incident),
        };
        self.sender.wake(&connection.worker.buffers);
        let after = self.fail(&failure, &mut facts, connection).await;
        if matches!(after, After::Close) { After::Linger } else { after }
    }

    async fn fail(&mut self, failure: &Failure, facts: &mut Facts, connection: &Connection) -> After {
        facts.access.failed(failure.name());
        let page = connection.failed(failure, facts.incident);
        self.respond(page, facts).await
    }

    /// Sends a response of our own.
    async fn respond(&mut self, page: Response<Bytes>, facts: &mut Facts) -> After {
        let unread = !self.receiver.is_taken();
        let close = !facts.keep_alive || unread || self.draining.is_on();
        facts.access.answered(page.status());
        let framing =
            ResponseFraming { version: facts.version, length: Length::Known(0), close, tunnel: false };
        write_page(self.sender.head(), &page, framing, facts.is_head);
        if close && !unread {
            self.io.hold_back();
        }
        if self.flush().await.is_err() || (close && !unread && !self.end().await) {
            return After::Gone;
        }
        facts.access.count(if facts.is_head { 0 } else { page.body().len() as u64 });
        facts.access.complete();
        if close { self.closing() } else { After::Another }
    }

    /// Writes all that waits, as long as the browser takes some of it now and then.
    async fn flush(&mut self) -> Result<(), SendError> {
        let (sender, io, deadline) = (&mut self.sender, &mut self.io, &mut self.deadline);
        let (limits, mut pace) = (self.limits, Pace::default());
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = sender.poll_flush(cx, io) {
                return Poll::Ready(outcome);
            }
            let late = || Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
            pace.poll(cx, deadline, sender.sent, || io.arrived(), limits).map(|()| late())
        })
        .await
    }

    /// How to close: a browser that has sent more than was answered is perhaps still sending.
    fn closing(&self) -> After {
        if self.receiver.is_empty() && self.receiver.is_over() { After::Close } else { After::Linger }
    }

    /// Sends what has been held back and says that no more comes. `false`: the browser did not take it.
    async fn end(&mut self) -> bool {
        let (io, deadline, limits) = (&mut self.io, &mut self.deadline, self.limits);
        let (held, mut pace) = (io.held(), Pace::default());
        poll_fn(|cx| {
            if let Poll::Ready(ended) = io.poll_end(cx) {
                return Poll::Ready(ended.is_ok());
            }
            let gone = held.saturating_sub(io.held()) as u64;
            pace.poll(cx, deadline, gone, || io.arrived(), limits).map(|()| false)
        })
        .await
    }

    /// The same to a browser that is still sending, which is let go on for a little: a connection that is closed under what it
    /// sends could take the answer away from it.
    async fn linger(&mut self) {
        let mut discarded = 0_u64;
        self.deadline.set(if self.draining.is_on() { LINGER_IN_DRAIN } else { LINGER });
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
                    Poll::Ready(Ok(true)) if discarded < MOST_DISCARDED => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return self.deadline.poll(cx),
                }
            }
        })
        .await;
    }
}

/// Writes a page of ours, head and body.
fn write_page(out: &mut Vec<u8>, page: &Response<Bytes>, framing: ResponseFraming, is_head: bool) {
    let status = page.status();
    let line = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
    out.extend_from_slice(line.as_bytes());
    for (name, value) in page.headers() {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("content-length: {}\r\n", page.body().len()).as_bytes());
    headers::end_response(out, framing);
    if !is_head {
        out.extend_from_slice(page.body());
    }
}
