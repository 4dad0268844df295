//! Forwards a request to the upstream and relays the response. Both bodies are streamed, if necessary at the same time.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{self, Poll};

use http::StatusCode;
use tracing::{debug, warn};

use crate::base::error_chain::Chain;
use crate::base::request_id::RequestId;
use crate::codec::Length;
use crate::codec::head::{self, header_slots};
use crate::codec::request_head::{HeaderFields, RequestHead};
use crate::observe::metrics::{Outcome, Responder};
use crate::proxy::connection_auth;
use crate::proxy::error::{ForwardError, UpstreamError};
use crate::proxy::exchange::{Exchange, Expired, RelayTimeouts, Sending, WaitingOn};
use crate::proxy::headers::{self, Forwarding, HeadChanges, Traceparent};
use crate::proxy::upstream::Upstream;
use crate::proxy::upstream_request::{Kind, MAX_INTERIM, UpstreamRequest};
use crate::proxy::websocket_tunnel;
use crate::request::access_log::Access;
use crate::request::client_stream::{Abort, ClientStream, RelayError};
use crate::request::connection::{Connection, Context};
use crate::request::error_page::Failure;
use crate::request::route::Destination;
use crate::request::session_changes;
use crate::sso::single_logout::{LogoutRedirect, SignOutRequest};

/// A request for the upstream of a site.
pub(crate) struct ForwardRequest {
    site: usize,
    outgoing: UpstreamRequest,
    /// Set if the request signs in to iMIS or out of it.
    sign_out: Option<Box<SignOutRequest>>,
}

/// The kind of a response head from the upstream.
enum RelayedHead {
    Interim,
    /// The upstream accepts a WebSocket.
    Upgrade,
    /// `keep`: the upstream keeps its connection open. `ends_session`: the response deletes a session cookie.
    Final {
        keep: bool,
        ends_session: bool,
    },
}

impl ForwardRequest {
    /// Writes the request head for the upstream.
    pub(crate) fn new<F: HeaderFields>(
        head: &RequestHead<'_, F>,
        connection: &Connection,
        to: &Destination<'_>,
        request_id: RequestId,
        access: &Access,
    ) -> Result<Self, Failure> {
        let worker = &connection.worker;
        let config = &worker.gateway.sites[to.site].config.upstream;
        let rewritten = config.host.as_ref().map(ToString::to_string);
        let own_host = rewritten.as_deref().or_else(|| (!head.has_host).then_some(to.host));
        let trace = match access.span.as_deref() {
            Some(span) => {
                let starts_trace = span.parent_span_id.is_none();
                Traceparent::Replace { traceparent: span.traceparent, starts_trace }
            }
            None if worker.gateway.traces && head.fields.first("traceparent").is_none() => {
                Traceparent::Create
            }
            None => Traceparent::Keep,
        };
        let forwarding = Forwarding {
            chain: &connection.forwarded_for(&head.fields),
            host: to.host,
            incident: request_id,
            max_forwards: to.max_forwards,
            trace,
        };
        let mut buffer = worker.buffers.head_buffer();
        headers::write_request(&mut buffer, head, own_host, &config.headers, &forwarding);
        let outgoing = UpstreamRequest {
            head: buffer,
            length: head.length,
            whole: head.length == Length::Known(0),
            method: Kind::of(head.method),
            tunnel: head.wants_websocket,
            signs_in: connection_auth::used_by(head.fields.pairs()),
            client: SocketAddr::new(to.client, connection.port),
            session: worker.upstreams[to.site].servers.session(head.fields.pairs()),
        };
        let sign_out = session_changes::sign_out(head, connection, (to.site, to.host));
        Ok(Self { site: to.site, outgoing, sign_out })
    }
}

/// Forwards a request and relays the response.
///
/// # Errors
/// No response has begun. The client needs an error page.
pub(crate) async fn forward<C: ClientStream>(
    client: &mut C,
    mut request: ForwardRequest,
    context: &mut Context<'_>,
) -> Result<(), Failure> {
    let (site, connection) = (request.site, context.connection);
    let upstream = &*connection.worker.upstreams[site];
    context.access.site = Some(site);
    context.access.responder = Responder::Imis;
    request.outgoing.whole |= client.has_whole_body();
    if request.sign_out.is_some() {
        session_changes::forget(connection, site, &request.outgoing.head).await;
    }
    let own = client.take_upstream();
    let mut exchange = upstream.send(&request.outgoing, client, own).await?;
    for interim in 0..=MAX_INTERIM {
        let redirect = match &request.sign_out {
            Some(sign_out) => {
                let head = &request.outgoing.head;
                session_changes::logout_redirect(sign_out, &exchange, head, connection, site).await
            }
            None => None,
        };
        match relay_head(client, &mut exchange, &request, redirect.as_ref(), context)? {
            RelayedHead::Final { keep, ends_session } => {
                if ends_session {
                    session_changes::forget(connection, site, &request.outgoing.head).await;
                }
                drop(request);
                relay_body(client, exchange, keep, upstream, context).await;
                return Ok(());
            }
            RelayedHead::Upgrade => {
                drop(request);
                relay_websocket(client, exchange, upstream, context).await;
                return Ok(());
            }
            RelayedHead::Interim if interim == MAX_INTERIM => break,
            RelayedHead::Interim => {
                client.flush_interim().await.map_err(|_| Failure::ClientGone)?;
                exchange.response_head(client, upstream.relay_timeouts).await?;
            }
        }
    }
    Err(ForwardError::from(UpstreamError::EndlessInterim).into())
}

/// Parses the response head of the upstream and writes the one for the client.
fn relay_head<C: ClientStream>(
    client: &mut C,
    exchange: &mut Exchange,
    request: &ForwardRequest,
    redirect: Option<&LogoutRedirect>,
    context: &mut Context<'_>,
) -> Result<RelayedHead, ForwardError> {
    let ForwardRequest { site, outgoing, .. } = request;
    let bytes = exchange.response_head_bytes();
    let mut slots = header_slots();
    let response = head::Response::parse(bytes, &mut slots, outgoing.method == Kind::Head)
        .map_err(UpstreamError::Malformed)?;
    if response.status == 101 {
        if !outgoing.tunnel || !websocket_tunnel::is_accepted(&response) {
            return Err(UpstreamError::UnexpectedUpgrade.into());
        }
        client.write_upgrade(&response);
        context.access.answered(StatusCode::SWITCHING_PROTOCOLS);
        // Bytes after the head belong to the WebSocket.
        exchange.begin_body(Length::UntilClose)?;
        return Ok(RelayedHead::Upgrade);
    }
    if response.status < 200 {
        // The gateway answers `Expect: 100-continue` by itself.
        if response.status != 100 {
            client.write_interim(&response, bytes)?;
        }
        exchange.begin_behind_head(Length::Known(0))?;
        return Ok(RelayedHead::Interim);
    }
    let servers = &context.connection.worker.upstreams[*site].servers;
    let session = outgoing.session.as_ref();
    let affinity = servers.set_affinity(session, exchange.connection.server, response.fields.pairs());
    let changes = HeadChanges {
        location: redirect.map(|redirect| redirect.location.as_str()),
        set_cookies: [redirect.map(|redirect| redirect.set_cookie.as_str()), affinity.as_deref()],
        hsts: context.connection.hsts(),
    };
    client.write_head(&response, bytes, &changes, exchange.sending == Sending::Done)?;
    context.access.answered(StatusCode::from_u16(response.status).unwrap_or(StatusCode::BAD_GATEWAY));
    let ends_session = session_changes::ends_session(context.connection, *site, &response);
    let is_exclusive = connection_auth::asked_for_by(response.fields.pairs());
    let (keep, length) = (response.keep_alive, response.length);
    exchange.exclusive |= is_exclusive;
    exchange.begin_body(length).inspect_err(|_| client.discard_head())?;
    Ok(RelayedHead::Final { keep, ends_session })
}

async fn relay_body<C: ClientStream>(
    client: &mut C,
    mut exchange: Exchange,
    keep: bool,
    upstream: &Upstream,
    context: &mut Context<'_>,
) {
    let taken_before = exchange.connection.receiver.taken;
    let mut outcome = client.begin_response_body(&exchange.connection);
    if outcome.is_ok() {
        outcome = poll_fn(|cx| poll_relay(cx, client, &mut exchange, upstream.relay_timeouts)).await;
    }
    if outcome.is_ok() {
        outcome = client.end_response().await;
    }
    context.access.count(exchange.connection.receiver.taken - taken_before - client.unsent());
    match outcome {
        Ok(()) => {
            context.access.complete();
            if let Some(own) = upstream.settle(exchange, keep) {
                client.keep_upstream(own);
            }
        }
        Err(RelayError::Upstream(error)) => {
            context.access.outcome = Outcome::UpstreamBroke;
            warn!(request_id = %context.request_id, error = %Chain(&error), "the upstream broke off a response");
            client.abort(Abort::UpstreamFailed);
        }
        Err(RelayError::ClientGone) => client.abort(Abort::ClientGone),
        Err(RelayError::ClientStalled) => client.abort(Abort::ClientStalled),
    }
}

/// Moves the response body to the client, and the rest of the request body to the upstream.
fn poll_relay<C: ClientStream>(
    cx: &mut task::Context<'_>,
    client: &mut C,
    exchange: &mut Exchange,
    timeouts: RelayTimeouts,
) -> Poll<Result<(), RelayError>> {
    if exchange.sending == Sending::UnderWay
        && let Poll::Ready(Err(_)) = exchange.poll_send(cx, client)
    {
        return Poll::Ready(Err(RelayError::ClientGone));
    }
    if let Poll::Ready(outcome) = client.poll_relay(cx, &mut exchange.connection) {
        return Poll::Ready(outcome);
    }
    let waiting_on = match (client.is_blocked(&exchange.connection), exchange.waits_for_client(client)) {
        (true, _) => WaitingOn::ClientRead,
        (false, true) => WaitingOn::ClientSend,
        (false, false) => WaitingOn::Upstream,
    };
    if client.poll_gone(cx).is_ready() {
        return Poll::Ready(Err(RelayError::ClientGone));
    }
    exchange.poll_timeouts(cx, client, waiting_on, timeouts).map(|reason| match (reason, waiting_on) {
        (Expired::TooSlow, WaitingOn::Upstream) => Err(RelayError::Upstream(UpstreamError::SilentWithin)),
        (Expired::TooSlow | Expired::Evicted, _) => Err(RelayError::ClientStalled),
    })
}

async fn relay_websocket<C: ClientStream>(
    client: &mut C,
    mut exchange: Exchange,
    upstream: &Upstream,
    context: &mut Context<'_>,
) {
    let taken_before = exchange.connection.receiver.taken;
    let ended = client.tunnel(&mut exchange, upstream.relay_timeouts).await;
    context.access.count(exchange.connection.receiver.taken - taken_before);
    match ended {
        Ok(()) => context.access.complete(),
        Err(error) => {
            debug!(request_id = %context.request_id, error = %Chain(&error), "a WebSocket ended early");
        }
    }
}
