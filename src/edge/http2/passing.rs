//! The upstream's response on its way to a stream of HTTP/2, as fast as the browser's windows let it.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::SendStream;

use crate::edge::http2::request::FromStream;
use crate::proxy::exchange::{Exchange, Patience, Sending, Turn};
use crate::proxy::upstream::UpstreamError;

/// A response on its way, and perhaps the upload that is still going the other way.
pub(crate) struct Passing<'a> {
    pub(crate) body: SendStream<Bytes>,
    /// Of the body, what waits for the browser.
    pub(crate) piece: Bytes,
    /// The browser has been told that no more comes.
    pub(crate) ended: bool,
    pub(crate) exchange: Exchange,
    pub(crate) upload: &'a mut FromStream,
    pub(crate) counted: u64,
    pub(crate) patience: Patience,
}

/// Why a body breaks off.
pub(crate) enum Broke {
    Upstream(UpstreamError),
    /// The browser does not take it, or does not send what it has to.
    Stalled,
    /// The browser has reset the stream.
    Gone,
}

impl Passing<'_> {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broke>> {
        if self.exchange.sending == Sending::UnderWay
            && let Poll::Ready(Err(_)) = self.exchange.poll_send(cx, self.upload)
        {
            return Poll::Ready(Err(Broke::Gone));
        }
        let mut waits_for_browser = false;
        while !self.ended {
            let receiver = &mut self.exchange.connection.receiver;
            if self.piece.is_empty() {
                match receiver.poll_body(cx, &mut self.exchange.connection.stream) {
                    Poll::Ready(Ok(())) => self.piece = receiver.take(),
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(Broke::Upstream(UpstreamError::BodyBroke(error))));
                    }
                    Poll::Pending => break,
                }
            }
            let over = receiver.is_taken();
            if !self.piece.is_empty() || !over {
                match poll_room(cx, &mut self.body, self.piece.len()) {
                    Poll::Ready(Some(room)) => {
                        let piece = self.piece.split_to(room);
                        self.counted += piece.len() as u64;
                        self.upload.handed_over += piece.len() as u64;
                        self.ended = over && self.piece.is_empty();
                        if self.body.send_data(piece, self.ended).is_err() {
                            return Poll::Ready(Err(Broke::Gone));
                        }
                    }
                    Poll::Ready(None) => return Poll::Ready(Err(Broke::Gone)),
                    Poll::Pending => {
                        waits_for_browser = true;
                        break;
                    }
                }
            } else {
                self.ended = true;
                if self.body.send_data(Bytes::new(), true).is_err() {
                    return Poll::Ready(Err(Broke::Gone));
                }
            }
        }
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        if self.body.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Broke::Gone));
        }
        let turn = match (waits_for_browser, self.exchange.waits_for_browser(self.upload)) {
            (true, _) => Turn::Reads,
            (false, true) => Turn::Sends,
            (false, false) => Turn::Upstream,
        };
        self.exchange.poll_patience(cx, self.upload, turn, self.patience).map(|_| match turn {
            Turn::Reads | Turn::Sends => Err(Broke::Stalled),
            Turn::Upstream => Err(Broke::Upstream(UpstreamError::SilentWithin)),
        })
    }
}

/// Room for some of `wanted` bytes in the browser's windows and in what may wait here; none when the stream is gone.
pub(crate) fn poll_room(
    cx: &mut Context<'_>,
    body: &mut SendStream<Bytes>,
    wanted: usize,
) -> Poll<Option<usize>> {
    body.reserve_capacity(wanted);
    loop {
        match body.capacity() {
            0 => {}
            room => return Poll::Ready(Some(room.min(wanted))),
        }
        match body.poll_capacity(cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        }
    }
}
