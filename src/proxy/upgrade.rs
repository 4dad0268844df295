//! WebSocket: once the upstream has agreed with 101, bytes flow both ways until both sides are done.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use super::exchange::{Exchange, Patience};
use crate::http1::head::{Request, Response};
use crate::http1::transfer::{PipeError, Receiver, Sender, poll_pipe};
use crate::http1::{Length, Version};
use crate::pace::Pace;

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

/// The browser's end.
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
}

/// Moves bytes both ways until both sides have ended, or nothing has come for too long, or been taken by the browser. What was
/// read behind the two heads goes first. `acknowledged`: what has arrived at the browser.
pub(crate) async fn tunnel<S: AsyncRead + AsyncWrite + Unpin>(
    browser: End<'_, S>,
    acknowledged: impl Fn(&S) -> Option<u64>,
    exchange: &mut Exchange,
    patience: Patience,
) -> Result<(), TunnelError> {
    let upstream = &mut *exchange.connection;
    // Until its connection ends, everything is data.
    browser
        .receiver
        .begin_body(0, Length::UntilClose)
        .map_err(|error| TunnelError::Up(PipeError::Receive(error.into())))?;
    upstream.sender.begin_body(Length::UntilClose);
    browser.sender.begin_body(Length::UntilClose);
    let (mut up, mut down) = (Half::Open, Half::Open);
    let (mut seen, mut pace) = (0, Pace::default());
    upstream.deadline.set(patience.upstream);
    poll_fn(|cx| {
        let to_upstream = (&mut upstream.sender, &mut upstream.stream);
        up.poll(cx, (browser.receiver, browser.io), to_upstream).map_err(TunnelError::Up)?;
        let from_upstream = (&mut upstream.receiver, &mut upstream.stream);
        down.poll(cx, from_upstream, (browser.sender, browser.io)).map_err(TunnelError::Down)?;
        if up == Half::Closed && down == Half::Closed {
            return Poll::Ready(Ok(()));
        }
        // What waits for the browser waits only so long.
        if !upstream.receiver.data().is_empty() || !browser.sender.is_empty() {
            let io = &*browser.io;
            let arrived = || acknowledged(io);
            return pace
                .poll(cx, &mut upstream.deadline, browser.sender.sent, arrived, patience.browser)
                .map(|()| Err(TunnelError::Unread));
        }
        pace.rests();
        let moved = browser.receiver.received
            + upstream.receiver.received
            + browser.sender.sent
            + upstream.sender.sent;
        if moved != seen {
            seen = moved;
            upstream.deadline.set(patience.upstream);
        }
        upstream.deadline.poll(cx).map(|()| Err(TunnelError::Silent))
    })
    .await
}

/// One direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Open,
    /// All has been passed on; the other side is being told that no more comes.
    Ending,
    Closed,
}

impl Half {
    fn poll<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: (&mut Receiver, &mut R),
        to: (&mut Sender, &mut W),
    ) -> Result<(), PipeError> {
        let (sender, io) = to;
        if *self == Self::Open
            && let Poll::Ready(outcome) = poll_pipe(cx, from, (sender, io))
        {
            outcome?;
            *self = Self::Ending;
        }
        if *self == Self::Ending && Pin::new(io).poll_shutdown(cx).is_ready() {
            *self = Self::Closed;
        }
        Ok(())
    }
}
