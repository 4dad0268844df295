//! A request on its way to the upstream and its response on the way back, both of them streamed, if need be at once.

use std::future::poll_fn;
use std::task::{Context, Poll};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::{debug, warn};

use crate::codec::head;
use crate::codec::head::slots;
use crate::codec::transfer::{PipeError, poll_pipe};
use crate::codec::{Length, Version};
use crate::edge::client_socket::Socket;
use crate::edge::http1::plan::Facts;
use crate::edge::http1::{After, Browser};
use crate::observe::log::Chain;
use crate::pages::Failure;
use crate::proxy::exchange::{Exchange, Impatience, Patience, Sending, Turn, Upload};
use crate::proxy::headers::{self, Elsewhere, ResponseFraming};
use crate::proxy::upgrade::{self, End};
use crate::proxy::upstream::UpstreamError;
use crate::proxy::{Kind, MOST_INTERIM, Outgoing, windows};
use crate::request::connection::Connection;
use crate::sso::single_logout::Detour;
use crate::upstream::servers::Session;

impl<S: AsyncRead + AsyncWrite + Socket + Unpin> Browser<S> {
    pub(crate) async fn forward(
        &mut self,
        site: usize,
        mut outgoing: Outgoing,
        facts: &mut Facts,
        connection: &Connection,
    ) -> After {
        let upstream = &connection.worker.upstreams[site];
        facts.access.is_forwarded();
        let own = self.own.take();
        outgoing.whole |= self.receiver.is_over();
        if outgoing.departure.is_some() {
            connection.forget(site, &outgoing.head).await;
        }
        let mut upload = self.upload(facts.expects_continue);
        let sent = upstream.send(&outgoing, &mut upload, own).await;
        let mut exchange = match sent {
            Ok(exchange) => exchange,
            Err(error) => {
                connection.worker.buffers.keep_head(&mut outgoing.head);
                return self.no_answer(error, facts, connection).await;
            }
        };
        for interim in 0..=MOST_INTERIM {
            let detour = departs(&exchange, &outgoing, connection, site).await;
            let way = (site, detour.as_ref());
            match self.take_head(
                &mut exchange,
                facts,
                (outgoing.method, outgoing.tunnel, outgoing.session.as_ref()),
                connection,
                way,
            ) {
                Ok(Taken::Response { keep, ends_session }) => {
                    if ends_session {
                        connection.forget(site, &outgoing.head).await;
                    }
                    connection.worker.buffers.keep_head(&mut outgoing.head);
                    return self.stream(exchange, keep, facts, connection, site).await;
                }
                Ok(Taken::Agreed) => {
                    connection.worker.buffers.keep_head(&mut outgoing.head);
                    return self.tunnel(exchange, facts, connection, site).await;
                }
                Ok(Taken::Interim) if self.flush().await.is_ok() => {}
                Ok(Taken::Interim) => return After::Gone,
                Err(error) => return self.no_answer(error, facts, connection).await,
            }
            if interim == MOST_INTERIM {
                break;
            }
            let mut upload = self.upload(false);
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
        (method, tunnel, session): (Kind, bool, Option<&Session>),
        connection: &Connection,
        (site, detour): (usize, Option<&Detour>),
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
            exchange.pass_over_head()?;
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
        let elsewhere = detour.map(|to| Elsewhere { location: &to.location, set_cookie: &to.set_cookie });
        let servers = &connection.worker.upstreams[site].servers;
        let cookie = servers.answered((session, exchange.connection.server), response.fields.pairs());
        headers::write_response_to(out, &response, framing, elsewhere, cookie.as_deref());
        let ends_session = connection.ends_session(site, response.fields.pairs());
        facts.access.answered(StatusCode::from_u16(response.status).unwrap_or(StatusCode::BAD_GATEWAY));
        let (keep, of_upstream) = (response.keep_alive, response.length);
        self.sender.begin_body(length);
        exchange.begin_body(of_upstream).inspect_err(|_| {
            // Nothing of it has been sent.
            self.sender.forget();
        })?;
        Ok(Taken::Response { keep, ends_session })
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
        let last = !facts.keep_alive && self.receiver.is_taken() && exchange.connection.receiver.is_over();
        if last {
            self.io.hold_back();
        }
        let mut streamed = poll_fn(|cx| self.poll_stream(cx, &mut exchange, patience)).await;
        if last && streamed.is_ok() && !self.end().await {
            streamed = Err(StreamError::Browser);
        }
        facts.access.count(exchange.connection.receiver.taken - before);
        match &streamed {
            Ok(()) => facts.access.complete(),
            Err(StreamError::Upstream(_)) => facts.access.upstream_broke(),
            Err(StreamError::Browser) => {}
        }
        match streamed {
            Ok(()) => {}
            // No end is told: what has come is not all of it.
            Err(StreamError::Browser) => return After::Gone,
            Err(StreamError::Upstream(error)) => {
                warn!(incident = %facts.incident, error = %Chain(&error), "the upstream broke a response off");
                return After::Gone;
            }
        }
        self.own = upstream.settle(exchange, keep);
        if facts.keep_alive && self.receiver.is_taken() { After::Another } else { self.closing() }
    }

    fn poll_stream(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
        patience: Patience,
    ) -> Poll<Result<(), StreamError>> {
        let mut upload = self.upload(false);
        if exchange.sending == Sending::UnderWay
            && let Poll::Ready(Err(_)) = exchange.poll_send(cx, &mut upload)
        {
            return Poll::Ready(Err(StreamError::Browser));
        }
        let from = &mut exchange.connection;
        let piped = poll_pipe(cx, (&mut from.receiver, &mut from.stream), (&mut self.sender, &mut self.io));
        if let Poll::Ready(outcome) = piped {
            return Poll::Ready(outcome.map_err(|error| match error {
                PipeError::Receive(error) => StreamError::Upstream(UpstreamError::BodyBroke(error)),
                PipeError::Send(_) => StreamError::Browser,
            }));
        }
        // Either it does not read what there is, or it does not send what is asked for.
        let unread = !from.receiver.data().is_empty() || from.receiver.is_taken() || !self.sender.is_empty();
        let mut upload = self.upload(false);
        let turn = match (unread, exchange.waits_for_browser(&upload)) {
            (true, _) => Turn::Reads,
            (false, true) => Turn::Sends,
            (false, false) => Turn::Upstream,
        };
        if exchange.sending != Sending::UnderWay && upload.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(StreamError::Browser));
        }
        exchange.poll_patience(cx, &mut upload, turn, patience).map(|impatience| match (impatience, turn) {
            (Impatience::Over, Turn::Upstream) => Err(StreamError::Upstream(UpstreamError::SilentWithin)),
            (Impatience::Over | Impatience::Evicted, _) => Err(StreamError::Browser),
        })
    }

    async fn tunnel(
        &mut self,
        mut exchange: Exchange,
        facts: &mut Facts,
        connection: &Connection,
        site: usize,
    ) -> After {
        facts.access.answered(StatusCode::SWITCHING_PROTOCOLS);
        let patience = connection.worker.upstreams[site].patience;
        let before = exchange.connection.receiver.taken;
        let end = End { receiver: &mut self.receiver, sender: &mut self.sender, io: &mut self.io };
        let how = (patience, &mut self.draining);
        let ended = Box::pin(upgrade::tunnel(end, Socket::arrived, &mut exchange, how)).await;
        facts.access.count(exchange.connection.receiver.taken - before);
        match ended {
            Ok(()) => {
                facts.access.complete();
            }
            Err(error) => {
                debug!(incident = %facts.incident, error = %Chain(&error), "a WebSocket ended")
            }
        }
        After::Gone
    }
}

/// What becomes of the answer that is at the front, if it is to a sign-out.
async fn departs(
    exchange: &Exchange,
    outgoing: &Outgoing,
    connection: &Connection,
    site: usize,
) -> Option<Detour> {
    let departure = outgoing.departure.as_ref()?;
    let had_session = connection.forget(site, &outgoing.head).await;
    let bytes = &exchange.connection.receiver.head()[..exchange.head];
    let mut slots = slots();
    let response = head::Response::parse(bytes, &mut slots, outgoing.method == Kind::Head).ok()?;
    let location = response.fields.pairs().find(|(name, _)| name.eq_ignore_ascii_case("location"));
    connection.detour(site, departure, had_session, (response.status, location.map(|(_, value)| value)))
}

/// What a head from the upstream was.
enum Taken {
    /// `keep`: the upstream keeps its connection. `ends_session`: a cookie of the visitor's session is taken away.
    Response {
        keep: bool,
        ends_session: bool,
    },
    Interim,
    /// To a WebSocket.
    Agreed,
}

/// Who broke off a body that was being passed on.
enum StreamError {
    Upstream(UpstreamError),
    Browser,
}
