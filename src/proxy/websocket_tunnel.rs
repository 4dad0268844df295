//! WebSocket: after the 101 response, bytes are relayed in both directions until both sides have closed.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::base::drain::DrainWatch;
use crate::base::min_rate::MinRateTimer;
use crate::codec::head::{Request, Response};
use crate::codec::transfer::{self, PipeError, Receiver, Sender};
use crate::codec::{Length, Version};
use crate::proxy::exchange::{Exchange, RelayTimeouts};
use crate::proxy::websocket_frames::{self, Frames};

/// Whether a request asks for a WebSocket (RFC 6455 section 4.1): GET, HTTP/1.1, both headers, no body.
pub(crate) fn is_wanted(request: &Request<'_, '_>) -> bool {
    request.method == "GET"
        && request.version == Version::Http11
        && request.length == Length::Known(0)
        && names_websocket(request.upgrade)
        && request.named_by_connection.iter().any(|option| option.eq_ignore_ascii_case("upgrade"))
}

/// Whether a 101 response accepts a WebSocket.
pub(crate) fn is_accepted(response: &Response<'_, '_>) -> bool {
    names_websocket(response.upgrade)
}

fn names_websocket(upgrade: Option<&[u8]>) -> bool {
    upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// The client's side of the tunnel.
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

/// How long a WebSocket has to finish its last frames after the drain.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(2);

/// Relays bytes in both directions until both sides have closed, or a time-out expires. Bytes that were received after
/// the two heads are relayed first. `arrived`: how many bytes the client has acknowledged. When the drain ends, both
/// sides get a close frame between two frames.
pub(crate) async fn tunnel<S: AsyncRead + AsyncWrite + Unpin>(
    client: End<'_, S>,
    arrived: impl Fn(&S) -> Option<u64>,
    exchange: &mut Exchange,
    (timeouts, draining): (RelayTimeouts, &mut DrainWatch),
) -> Result<(), TunnelError> {
    let upstream = &mut *exchange.connection;
    // Everything is data until the connection closes.
    client
        .receiver
        .begin_body(0, Length::UntilClose)
        .map_err(|error| TunnelError::Up(PipeError::Receive(error.into())))?;
    upstream.sender.begin_body(Length::UntilClose);
    client.sender.begin_body(Length::UntilClose);
    let mut up = Direction::new(websocket_frames::close_to_server, true);
    let mut down = Direction::new(websocket_frames::close_to_client, false);
    let (mut last_moved, mut timer, mut closing) = (0, MinRateTimer::default(), false);
    upstream.deadline.set(timeouts.upstream);
    poll_fn(|cx| {
        if !closing && draining.poll(cx) && draining.is_closing() {
            closing = true;
            upstream.deadline.set(CLOSING_TIMEOUT);
        }
        let to_upstream = (&mut upstream.sender, &mut upstream.stream);
        up.poll(cx, (client.receiver, client.io), to_upstream, closing).map_err(TunnelError::Up)?;
        let from_upstream = (&mut upstream.receiver, &mut upstream.stream);
        down.poll(cx, from_upstream, (client.sender, client.io), closing).map_err(TunnelError::Down)?;
        if up.state == State::Closed && down.state == State::Closed {
            return Poll::Ready(Ok(()));
        }
        if closing {
            ready!(upstream.deadline.poll(cx));
            // If the client has its close frame, it does not answer.
            if down.state != State::Open {
                return Poll::Ready(Ok(()));
            }
            draining.record_abort();
            return Poll::Ready(Err(TunnelError::Cut));
        }
        if !upstream.receiver.data().is_empty() || !client.sender.is_empty() {
            let io = &*client.io;
            return timer
                .poll(cx, &mut upstream.deadline, client.sender.sent, || arrived(io), timeouts.client)
                .map(|()| Err(TunnelError::Unread));
        }
        timer.pause(Instant::now());
        let moved =
            client.receiver.received + upstream.receiver.received + client.sender.sent + upstream.sender.sent;
        if moved != last_moved {
            last_moved = moved;
            upstream.deadline.set(timeouts.upstream);
        }
        upstream.deadline.poll(cx).map(|()| Err(TunnelError::Silent))
    })
    .await
}

/// One direction of the tunnel.
struct Direction {
    state: State,
    frames: Frames,
    /// Writes a close frame.
    write_close: fn(&mut Vec<u8>),
    /// A close frame has been sent: the gateway's or the sender's.
    is_close_sent: bool,
    /// Whether to wait for the sender's reply to the close frame that it got. Closing a connection with unread data
    /// resets it, and the sender could lose that frame.
    awaits_reply: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// All data has been relayed; the connection is being closed for sending.
    Ending,
    Closed,
}

impl Direction {
    fn new(write_close: fn(&mut Vec<u8>), awaits_reply: bool) -> Self {
        let frames = Frames::default();
        Self { state: State::Open, frames, write_close, is_close_sent: false, awaits_reply }
    }

    /// Reads and discards until a close frame or the end of the connection.
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
        if self.state == State::Open
            && let Poll::Ready(outcome) = self.poll_relay(cx, from, (sender, io), closing)
        {
            outcome?;
            self.state = State::Ending;
        }
        if self.state == State::Ending && Pin::new(io).poll_shutdown(cx).is_ready() {
            self.state = State::Closed;
        }
        Ok(())
    }

    /// Relays until the connection ends. `closing`: relays only to the end of the current frame, followed by a close
    /// frame.
    fn poll_relay<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        (receiver, from): (&mut Receiver, &mut R),
        (sender, to): (&mut Sender, &mut W),
        closing: bool,
    ) -> Poll<Result<(), PipeError>> {
        loop {
            if closing && self.frames.is_between() && !self.is_close_sent {
                if !self.frames.is_closed {
                    (self.write_close)(sender.head());
                }
                self.is_close_sent = true;
            }
            if self.is_close_sent {
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
