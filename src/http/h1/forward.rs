//! A request on its way to the upstream and its response on the way back, both of them streamed, if need be at once.

use std::future::poll_fn;
use std::task::{Context, Poll};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use super::super::{Connection, Ending};
use super::plan::Facts;
use super::{After, Browser};
use crate::http1::head::{self, slots};
use crate::http1::transfer::{PipeError, Receiver, Sender, poll_pipe};
use crate::http1::{Length, Version};
use crate::pages::Failure;
use crate::proxy::connection::Stream;
use crate::proxy::exchange::{Exchange, Patience, Sending, Upload, UploadError};
use crate::proxy::headers::{self, ResponseFraming};
use crate::proxy::upgrade::{self, End};
use crate::proxy::upstream::UpstreamError;
use crate::proxy::{Kind, MOST_INTERIM, Outgoing, windows};
use crate::telemetry::Chain;

/// What a browser may send ahead while it waits for an answer, in bytes, before it is listened to no more.
const MOST_AHEAD: usize = 16 * 1024;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

impl<S: AsyncRead + AsyncWrite + Ending + Unpin> Browser<S> {
    pub(super) async fn forward(
        &mut self,
        site: usize,
        outgoing: Outgoing,
        facts: &mut Facts,
        connection: &Connection,
    ) -> After {
        let upstream = &connection.worker.upstreams[site];
        let own = self.own.take();
        let mut upload = FromBrowser {
            receiver: &mut self.receiver,
            sender: &mut self.sender,
            io: &mut self.io,
            says_continue: facts.expects_continue,
            told: false,
        };
        let sent = upstream.send(&outgoing, &mut upload, own).await;
        connection.worker.buffers.keep_head(&mut { outgoing.head });
        let mut exchange = match sent {
            Ok(exchange) => exchange,
            Err(error) => return self.no_answer(error, facts, connection).await,
        };
        for _ in 0..MOST_INTERIM {
            match self.take_head(&mut exchange, facts, outgoing.method, outgoing.tunnel) {
                Ok(Taken::Response { keep }) => {
                    return self.stream(exchange, keep, facts, connection, site).await;
                }
                Ok(Taken::Agreed) => return self.tunnel(exchange, facts, connection, site).await,
                Ok(Taken::Interim) if self.flush().await.is_ok() => {}
                Ok(Taken::Interim) => return After::Gone,
                Err(error) => return self.no_answer(error, facts, connection).await,
            }
            let mut upload = FromBrowser {
                receiver: &mut self.receiver,
                sender: &mut self.sender,
                io: &mut self.io,
                says_continue: false,
                told: false,
            };
            if let Err(error) = exchange.response_head(&mut upload, upstream.patience).await {
                return self.no_answer(error, facts, connection).await;
            }
        }
        self.no_answer(UpstreamError::EndlessInterim, facts, connection).await
    }

    /// The upstream gave no response: a page of ours, unless nobody is there to read it.
    async fn no_answer(&mut self, error: UpstreamError, facts: &mut Facts, connection: &Connection) -> After {
        if matches!(error, UpstreamError::BrowserGone) {
            return After::Gone;
        }
        self.fail(&Failure::Upstream(error), facts, connection).await
    }

    /// Takes a head from the upstream and writes the browser's.
    fn take_head(
        &mut self,
        exchange: &mut Exchange,
        facts: &mut Facts,
        method: Kind,
        tunnel: bool,
    ) -> Result<Taken, UpstreamError> {
        let bytes = &exchange.connection.receiver.head()[..exchange.head];
        let mut slots = slots();
        let response = head::Response::parse(bytes, &mut slots, method == Kind::Head)
            .map_err(UpstreamError::Malformed)?;
        let out = self.sender.head();
        if response.status == 101 {
            if !tunnel || !upgrade::is_agreed(&response) {
                return Err(UpstreamError::UnexpectedUpgrade);
            }
            let framing = ResponseFraming {
                version: facts.version,
                length: Length::Known(0),
                close: false,
                tunnel: true,
            };
            headers::write_response(out, &response, framing);
            // What the upstream has sent behind its head is the first of the tunnel.
            exchange.begin_body(Length::UntilClose)?;
            return Ok(Taken::Agreed);
        }
        if response.status < 200 {
            // We asked for no 100, and HTTP/1.0 knows no interim response (RFC 9110 section 15.2).
            if response.status != 100 && facts.version == Version::Http11 {
                let framing = ResponseFraming {
                    version: facts.version,
                    length: Length::Known(0),
                    close: false,
                    tunnel: false,
                };
                headers::write_response(out, &response, framing);
            }
            exchange.begin_body(Length::Known(0))?;
            return Ok(Taken::Interim);
        }
        exchange.exclusive |= windows::asked_for_by(response.fields.pairs());
        let length = match response.length {
            // HTTP/1.0 knows no chunks; where an end of ours must be told, it is told by chunks else.
            Length::Chunked | Length::UntilClose if facts.version == Version::Http10 => Length::UntilClose,
            Length::Chunked | Length::UntilClose => Length::Chunked,
            Length::Known(bytes) => Length::Known(bytes),
        };
        facts.keep_alive &= length != Length::UntilClose
            && exchange.sending == Sending::Done
            && self.receiver.is_taken()
            && !self.draining.is_on();
        let framing =
            ResponseFraming { version: facts.version, length, close: !facts.keep_alive, tunnel: false };
        headers::write_response(out, &response, framing);
        if let Some(access) = &mut facts.access {
            access.answered(StatusCode::from_u16(response.status).unwrap_or(StatusCode::BAD_GATEWAY));
        }
        let (keep, of_upstream) = (response.keep_alive, response.length);
        self.sender.begin_body(length);
        exchange.begin_body(of_upstream).inspect_err(|_| {
            // Nothing of it has been sent.
            self.sender.forget();
        })?;
        Ok(Taken::Response { keep })
    }

    /// Passes the body of a response on.
    async fn stream(
        &mut self,
        mut exchange: Exchange,
        keep: bool,
        facts: &mut Facts,
        connection: &Connection,
        site: usize,
    ) -> After {
        let upstream = &connection.worker.upstreams[site];
        let before = exchange.connection.receiver.taken;
        let patience = upstream.patience;
        exchange.connection.deadline.set(patience.upstream);
        if !facts.keep_alive && self.receiver.is_taken() && exchange.connection.receiver.is_over() {
            self.io.hold_back();
        }
        let streamed = poll_fn(|cx| self.poll_stream(cx, &mut exchange, patience)).await;
        if let Some(access) = &mut facts.access {
            access.count(exchange.connection.receiver.taken - before);
            match &streamed {
                Ok(()) => access.complete(),
                Err(StreamError::Upstream) => access.upstream_broke(),
                Err(StreamError::Browser) => {}
            }
        }
        if streamed.is_err() {
            // No end is told: what has come is not all of it.
            return After::Gone;
        }
        self.own = upstream.settle(exchange, keep);
        match (facts.keep_alive, self.receiver.is_taken()) {
            (true, true) => After::Another,
            (_, true) => After::Close,
            (_, false) => After::Linger,
        }
    }

    fn poll_stream(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
        patience: Patience,
    ) -> Poll<Result<(), StreamError>> {
        let mut upload = FromBrowser {
            receiver: &mut self.receiver,
            sender: &mut self.sender,
            io: &mut self.io,
            says_continue: false,
            told: false,
        };
        if exchange.sending == Sending::UnderWay
            && let Poll::Ready(Err(_)) = exchange.poll_send(cx, &mut upload)
        {
            return Poll::Ready(Err(StreamError::Browser));
        }
        let from = &mut exchange.connection;
        let piped = poll_pipe(cx, (&mut from.receiver, &mut from.stream), (&mut self.sender, &mut self.io));
        if let Poll::Ready(outcome) = piped {
            return Poll::Ready(outcome.map_err(|error| match error {
                PipeError::Receive(_) => StreamError::Upstream,
                PipeError::Send(_) => StreamError::Browser,
            }));
        }
        // Either it does not read what there is, or it does not send what is asked for.
        let waits_for_browser = !from.receiver.data().is_empty()
            || !self.sender.is_empty()
            || from.receiver.is_taken()
            || exchange.waits_for_browser();
        let mut upload = FromBrowser {
            receiver: &mut self.receiver,
            sender: &mut self.sender,
            io: &mut self.io,
            says_continue: false,
            told: false,
        };
        if exchange.progressed(&upload) {
            let gap = if waits_for_browser { patience.browser } else { patience.upstream };
            exchange.connection.deadline.set(gap);
        }
        if exchange.sending != Sending::UnderWay && upload.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(StreamError::Browser));
        }
        exchange
            .connection
            .deadline
            .poll(cx)
            .map(|()| Err(if waits_for_browser { StreamError::Browser } else { StreamError::Upstream }))
    }

    async fn tunnel(
        &mut self,
        mut exchange: Exchange,
        facts: &mut Facts,
        connection: &Connection,
        site: usize,
    ) -> After {
        if let Some(access) = &mut facts.access {
            access.answered(StatusCode::SWITCHING_PROTOCOLS);
        }
        let gap = connection.worker.upstreams[site].patience.upstream;
        let end = End { receiver: &mut self.receiver, sender: &mut self.sender, io: &mut self.io };
        match Box::pin(upgrade::tunnel(end, &mut exchange, gap)).await {
            Ok(()) => {
                if let Some(access) = &mut facts.access {
                    access.complete();
                }
            }
            Err(error) => {
                debug!(incident = %facts.incident, error = %Chain(&error), "a WebSocket ended")
            }
        }
        After::Gone
    }
}

/// What a head from the upstream was.
enum Taken {
    /// `keep`: the upstream keeps its connection.
    Response {
        keep: bool,
    },
    Interim,
    /// To a WebSocket.
    Agreed,
}

/// Who broke off a body that was being passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamError {
    Upstream,
    Browser,
}

/// The body of a request, from the browser's connection.
struct FromBrowser<'a, S> {
    receiver: &'a mut Receiver,
    sender: &'a mut Sender,
    io: &'a mut S,
    /// The browser waits to be told to go on (RFC 9110 section 10.1.1).
    says_continue: bool,
    /// It is being told.
    told: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Upload for FromBrowser<'_, S> {
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        sender: &mut Sender,
        stream: &mut Stream,
    ) -> Poll<Result<(), UploadError>> {
        if self.says_continue && self.receiver.data().is_empty() && !self.receiver.is_over() {
            self.says_continue = false;
            self.told = true;
            self.sender.head().extend_from_slice(CONTINUE);
        }
        if self.told {
            // Whether it goes is seen when the answer is sent.
            let _ = self.sender.poll_flush(cx, self.io);
        }
        poll_pipe(cx, (self.receiver, self.io), (sender, stream)).map_err(|error| match error {
            PipeError::Receive(error) => UploadError::Browser(error),
            PipeError::Send(error) => UploadError::Upstream(error),
        })
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // What has been sent ahead waits its turn; of that only so much is taken in.
        if !self.receiver.is_taken() || self.receiver.head().len() >= MOST_AHEAD {
            return Poll::Pending;
        }
        match self.receiver.poll_more(cx, self.io) {
            Poll::Ready(Ok(true)) | Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(false) | Err(_)) => Poll::Ready(()),
        }
    }

    fn received(&self) -> u64 {
        self.receiver.received + self.sender.sent
    }
}
