//! WebSocket: once the upstream has agreed with 101, bytes flow both ways until both sides are done.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::base::drain::DrainWatch;
use crate::base::min_rate::MinRateTimer;
use crate::codec::head::{Request, Response};
use crate::codec::transfer;
use crate::codec::transfer::{PipeError, Receiver, Sender};
use crate::codec::{Length, Version};
use crate::proxy::exchange::{Exchange, RelayTimeouts};
use crate::proxy::websocket_frames;
use crate::proxy::websocket_frames::Frames;

/// Whether a request asks for a WebSocket (RFC 6455 section 4.1): GET, HTTP/1.1, both headers, no body.
pub(crate) fn is_wanted(request: &Request<'_, '_>) -> bool {
    request.method == "GET"
        && request.version == Version::Http11
        && request.length == Length::Known(0)
        && names_websocket(request.upgrade)
        && request.named_by_connection.iter().any(|option| option.eq_ignore_ascii_case("upgrade"))
}

/// Whether a 101 agrees to just that.
pub(crate) fn is_agreed(response: &Response<'_, '_>) -> bool {
    names_websocket(response.upgrade)
}

fn names_websocket(upgrade: Option<&[u8]>) -> bool {
    upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// The client's end.
pub(crate) struct End<'a, S> {
    pub(crate) receiver: &'a mut Receiver,
    pub(crate) sender: &'a mut Sender,
    pub(crate) io: &'a mut S,
}

/// Why a WebSocket ended before both sides had closed it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    #[error("from the browser to the upstream")]
    Up(#[source] PipeError),
    #[error("from the upstream to the browser")]
    Down(#[source] PipeError),
    #[error("silent for too long")]
    Silent,
    #[error("the browser takes nothing")]
    Unread,
    #[error("the gateway ends in the middle of a frame")]
    Cut,
}

/// How long a WebSocket that is closed for the end of the gateway may take over its last frames.
const CLOSING: Duration = Duration::from_secs(2);

/// Moves bytes both ways until both sides have ended, or nothing has come for too long, or been taken by the client.
/// What was read behind the two heads goes first. `arrived`: what has arrived at the client. When the worker's grace is
/// over, both sides are told between two frames.
pub(crate) async fn tunnel<S: AsyncRead + AsyncWrite + Unpin>(
    browser: End<'_, S>,
    arrived: impl Fn(&S) -> Option<u64>,
    exchange: &mut Exchange,
    (timeouts, draining): (RelayTimeouts, &mut DrainWatch),
) -> Result<(), TunnelError> {
    let upstream = &mut *exchange.connection;
    // Until its connection ends, everything is data.
    browser
        .receiver
        .begin_body(0, Length::UntilClose)
        .map_err(|error| TunnelError::Up(PipeError::Receive(error.into())))?;
    upstream.sender.begin_body(Length::UntilClose);
    browser.sender.begin_body(Length::UntilClose);
    let mut up = Way::new(websocket_frames::close_to_server, true);
    let mut down = Way::new(websocket_frames::close_to_browser, false);
    let (mut seen, mut pace, mut closing) = (0, MinRateTimer::default(), false);
    upstream.deadline.set(timeouts.upstream);
    poll_fn(|cx| {
        if !closing && draining.poll(cx) && draining.is_closing() {
            closing = true;
            upstream.deadline.set(CLOSING);
        }
        let to_upstream = (&mut upstream.sender, &mut upstream.stream);
        up.poll(cx, (browser.receiver, browser.io), to_upstream, closing).map_err(TunnelError::Up)?;
        let from_upstream = (&mut upstream.receiver, &mut upstream.stream);
        down.poll(cx, from_upstream, (browser.sender, browser.io), closing).map_err(TunnelError::Down)?;
        if up.half == Half::Closed && down.half == Half::Closed {
            return Poll::Ready(Ok(()));
        }
        if closing {
            let over = upstream.deadline.poll(cx).is_ready();
            // The client has got its close frame and does not answer.
            let told = down.half != Half::Open;
            if over && !told {
                draining.record_abort();
            }
            return if !over {
                Poll::Pending
            } else {
                Poll::Ready(if told { Ok(()) } else { Err(TunnelError::Cut) })
            };
        }
        // What waits for the client waits only so long.
        if !upstream.receiver.data().is_empty() || !browser.sender.is_empty() {
            let io = &*browser.io;
            return pace
                .poll(cx, &mut upstream.deadline, browser.sender.sent, || arrived(io), timeouts.browser)
                .map(|()| Err(TunnelError::Unread));
        }
        pace.pause(Instant::now());
        let moved = browser.receiver.received
            + upstream.receiver.received
            + browser.sender.sent
            + upstream.sender.sent;
        if moved != seen {
            seen = moved;
            upstream.deadline.set(timeouts.upstream);
        }
        upstream.deadline.poll(cx).map(|()| Err(TunnelError::Silent))
    })
    .await
}

/// One direction.
struct Way {
    half: Half,
    frames: Frames,
    /// Writes the frame that says good-bye.
    close: fn(&mut Vec<u8>),
    /// It has been written, or the peer's own has passed.
    said: bool,
    /// Whoever sends here has been told, too, and says good-bye before the connection ends: what is not read would take
    /// our last frame away from it.
    awaits_reply: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Open,
    /// All has been passed on; the other side is being told that no more comes.
    Ending,
    Closed,
}

impl Way {
    fn new(close: fn(&mut Vec<u8>), awaits_reply: bool) -> Self {
        Self { half: Half::Open, frames: Frames::default(), close, said: false, awaits_reply }
    }

    /// Reads and discards, until the other side's close frame or its end.
    fn poll_reply<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        receiver: &mut Receiver,
        from: &mut R,
    ) -> Poll<Result<(), PipeError>> {
        loop {
            self.frames.follow(receiver.data(), false);
            receiver.consume(receiver.data().len());
            if receiver.is_over() || (self.frames.is_closed && self.frames.is_between()) {
                return Poll::Ready(Ok(()));
            }
            ready!(receiver.poll_body(cx, from))?;
        }
    }

    fn poll<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: (&mut Receiver, &mut R),
        (sender, io): (&mut Sender, &mut W),
        closing: bool,
    ) -> Result<(), PipeError> {
        if self.half == Half::Open
            && let Poll::Ready(outcome) = self.poll_pass(cx, from, (sender, io), closing)
        {
            outcome?;
            self.half = Half::Ending;
        }
        if self.half == Half::Ending && Pin::new(io).poll_shutdown(cx).is_ready() {
            self.half = Half::Closed;
        }
        Ok(())
    }

    /// Passes on what comes, until its end. `closing`: until the frame of now is over, and a last one of ours behind
    /// it.
    fn poll_pass<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        (receiver, from): (&mut Receiver, &mut R),
        (sender, to): (&mut Sender, &mut W),
        closing: bool,
    ) -> Poll<Result<(), PipeError>> {
        loop {
            if closing && self.frames.is_between() && !self.said {
                if !self.frames.is_closed {
                    (self.close)(sender.head());
                }
                self.said = true;
            }
            if self.said {
                ready!(sender.poll_flush(cx, to)).map_err(PipeError::Send)?;
                return if self.awaits_reply {
                    self.poll_reply(cx, receiver, from)
                } else {
                    Poll::Ready(Ok(()))
                };
            }
            while !receiver.data().is_empty() || !sender.is_empty() {
                let data = receiver.data();
                let mut ahead = self.frames.clone();
                let offered = ahead.follow(data, closing);
                let count = ready!(sender.poll_send(cx, to, &data[..offered], false))?;
                self.frames.follow(&data[..count], false);
                receiver.consume(count);
                if closing && self.frames.is_between() {
                    break;
                }
            }
            if closing && self.frames.is_between() {
                continue;
            }
            if receiver.is_over() {
                return Pin::new(to).poll_flush(cx).map_err(|error| PipeError::Send(error.into()));
            }
            ready!(transfer::poll_more(cx, (&mut *receiver, &mut *from), to))?;
        }
    }
}
