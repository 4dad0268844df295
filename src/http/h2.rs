//! A connection of a browser that speaks HTTP/2: hyper serves its streams, each of them a request.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::access::Seen;
use super::activity::{Activity, UnderWay};
use super::body::{Body, Followed, FromStream, Streamed};
use super::gather::Gathered;
use super::{Asked, Connection, Verdict};
use crate::drain::Watching;
use crate::http1::Length;
use crate::http1::fields::{Fate, decimal};
use crate::http1::head::{self, MOST_REQUEST_BYTES, slots};
use crate::incident::Incident;
use crate::pages::Failure;
use crate::proxy::exchange::{Exchange, Sending};
use crate::proxy::headers::{self, Forwarding, RequestFraming, pairs};
use crate::proxy::upstream::UpstreamError;
use crate::proxy::{Kind, MOST_INTERIM, Outgoing, windows};
use crate::tls::wire::Wire;

/// A PING goes out after this much silence, and the peer is gone when it is not answered in time.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_DEADLINE: Duration = Duration::from_secs(20);
const STREAMS: u32 = 128;
const WINDOW: u32 = 1024 * 1024;

/// Serves a browser until it leaves or the worker drains.
pub(super) async fn serve(stream: Box<TlsStream<Wire>>, connection: Connection) {
    let activity = Rc::new(Activity::default());
    let peer = connection.peer;
    let timeouts = connection.worker.gateway.timeouts;
    let buffers = connection.worker.buffers.clone();
    let draining = Watching::new(connection.worker.drain.clone());
    let connection = Rc::new(connection);
    let shared = activity.clone();
    let service = service_fn(move |request| answer(request, connection.clone(), UnderWay::begin(&shared)));
    let mut builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_DEADLINE)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(MOST_REQUEST_BYTES as u32)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let gathered = Gathered::new(stream, buffers, activity.clone());
    let served = Box::pin(builder.serve_connection(TokioIo::new(gathered.clone()), service));
    let served = std::pin::pin!(Served { connection: served, gathered });
    let ended = activity
        .serve(served, |served| served.get_mut().connection.as_mut().graceful_shutdown(), draining, timeouts)
        .await;
    if let Some(Err(error)) = ended {
        debug!(client = %peer, %error, "connection ended");
    }
}

/// A connection that sends what it has written each time it has been polled.
struct Served<C> {
    connection: Pin<Box<C>>,
    gathered: Gathered<Box<TlsStream<Wire>>>,
}

impl<C: Future> Future for Served<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let polled = self.connection.as_mut().poll(cx);
        self.gathered.send(cx);
        polled
    }
}

/// Answers one request: never an error, always one line in the access log.
async fn answer(
    mut request: Request<Incoming>,
    connection: Rc<Connection>,
    under_way: UnderWay,
) -> Result<Response<Followed>, Infallible> {
    headers::join_cookie_crumbs(request.headers_mut());
    let incident = connection.worker.next_incident();
    let seen = Seen {
        method: request.method().as_str(),
        host: request.uri().host().unwrap_or_default(),
        path: request.uri().path(),
        version: "HTTP/2.0",
    };
    let client = connection.visitor(pairs(request.headers()));
    let access = connection.access(&seen, client, incident);
    let is_head = request.method() == http::Method::HEAD;
    let response = match respond(request, &connection, incident).await {
        Ok(response) => response,
        Err(failure) => connection.failed(&failure, incident).map(Body::whole),
    };
    Ok(Followed::response(response, access, is_head, incident, under_way))
}

async fn respond(
    request: Request<Incoming>,
    connection: &Rc<Connection>,
    incident: Incident,
) -> Result<Response<Body>, Failure> {
    let authority = authority_of(&request)?;
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let asked = Asked {
        method: request.method().as_str(),
        target,
        authority: Some((authority.host(), authority.as_str())),
    };
    let (site, host) = match super::decide(&asked, connection)? {
        // Only the plain-HTTP port redirects, and that speaks HTTP/1 alone.
        Verdict::Redirect(_) => return Err(Failure::Internal),
        Verdict::Forward { site, host } => (site, host),
        Verdict::Visit { site, host, visit } => {
            let headers = request.headers().clone();
            let visited = super::visited(connection, &asked, (site, host), visit, headers, incident)?;
            let page = super::visit(&connection.worker, *visited, incident).await?;
            return Ok(page.map(Body::whole));
        }
    };
    let outgoing = outgoing(&request, &asked, connection, (site, host), incident)?;
    let kind = outgoing.method;
    let mut upload = FromStream::new(request.into_body());
    let upstream = &connection.worker.upstreams[site];
    let mut exchange = upstream.send(&outgoing, &mut upload, None).await.map_err(Failure::Upstream)?;
    connection.worker.buffers.keep_head(&mut { outgoing.head });
    for interim in 0..=MOST_INTERIM {
        if let Some((mut response, keep)) = take_head(&mut exchange, kind).map_err(Failure::Upstream)? {
            *response.body_mut() = body(exchange, upload, keep, connection, site);
            return Ok(response);
        }
        if interim == MOST_INTERIM {
            break;
        }
        // hyper passes no interim responses on over HTTP/2.
        exchange.response_head(&mut upload, upstream.patience).await.map_err(Failure::Upstream)?;
    }
    Err(Failure::Upstream(UpstreamError::EndlessInterim))
}

/// The body of a response: of most, all is there with the head.
fn body(
    mut exchange: Exchange,
    upload: FromStream,
    keep: bool,
    connection: &Connection,
    site: usize,
) -> Body {
    let worker = &connection.worker;
    if !exchange.connection.receiver.is_over() || exchange.sending == Sending::UnderWay {
        return Body::Streamed(Streamed::new(exchange, upload, keep, worker.clone(), site));
    }
    let bytes = exchange.connection.receiver.take();
    // Over HTTP/2 no connection is a browser's alone.
    drop(worker.upstreams[site].settle(exchange, keep));
    Body::whole(bytes)
}

/// The request as the upstream gets it.
fn outgoing(
    request: &Request<Incoming>,
    asked: &Asked<'_>,
    connection: &Connection,
    (site, host): (usize, &str),
    incident: Incident,
) -> Result<Outgoing, Failure> {
    let has_body = !http_body::Body::is_end_stream(request.body());
    let said = said_length(request)?;
    let length = match (said, has_body) {
        (Some(bytes), true) => Length::Known(bytes),
        (None, true) => Length::Chunked,
        (Some(0) | None, false) => Length::Known(0),
        (Some(_), false) => return Err(Failure::BadRequest),
    };
    let upstream = &connection.worker.gateway.sites[site].config.upstream;
    let rewritten = upstream.host.as_ref().map(ToString::to_string);
    let mut head = connection.worker.buffers.head();
    headers::write_request_line(
        &mut head,
        asked.method,
        asked.target,
        Some(rewritten.as_deref().unwrap_or(host)),
    );
    for (name, value) in pairs(request.headers()) {
        if headers::fate_in_request(name, &[], true, &upstream.headers) == Fate::Keep {
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
    }
    let framing = RequestFraming::of(asked.method, length, said.is_some());
    let chain = connection.chain(pairs(request.headers()));
    headers::end_request(&mut head, framing, false, &Forwarding { chain: &chain, host, incident });
    Ok(Outgoing {
        head,
        length,
        method: Kind::of(asked.method),
        tunnel: false,
        signs_in: windows::used_by(pairs(request.headers())),
    })
}

fn said_length(request: &Request<Incoming>) -> Result<Option<u64>, Failure> {
    let mut lines = request.headers().get_all(CONTENT_LENGTH).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(digits), None) => decimal(digits.as_bytes()).map(Some).ok_or(Failure::BadRequest),
        (Some(_), Some(_)) => Err(Failure::BadRequest),
    }
}

/// Takes a head from the upstream; none when it is an interim one. `true` beside it: the upstream keeps its connection.
fn take_head(exchange: &mut Exchange, method: Kind) -> Result<Option<(Response<Body>, bool)>, UpstreamError> {
    let head = Bytes::copy_from_slice(&exchange.connection.receiver.head()[..exchange.head]);
    let mut slots = slots();
    let read =
        head::Response::parse(&head, &mut slots, method == Kind::Head).map_err(UpstreamError::Malformed)?;
    if read.status == 101 {
        return Err(UpstreamError::UnexpectedUpgrade);
    }
    if read.status < 200 {
        exchange.begin_body(Length::Known(0))?;
        return Ok(None);
    }
    exchange.exclusive |= windows::asked_for_by(read.fields.pairs());
    let malformed = |_| UpstreamError::Malformed(head::HeadError::Malformed("a field"));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(read.status)
        .map_err(|_| UpstreamError::Malformed(head::HeadError::Malformed("the status")))?;
    *response.version_mut() = Version::HTTP_2;
    let headers = response.headers_mut();
    headers.reserve(read.fields.len());
    for (name, value) in read.fields.pairs() {
        if headers::fate_in_response(name, &read.named_by_connection, read.status) == Fate::Keep {
            let value = HeaderValue::from_maybe_shared(head.slice_ref(value)).map_err(malformed)?;
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| UpstreamError::Malformed(head::HeadError::Malformed("a field name")))?;
            headers.append(name, value);
        }
    }
    exchange.begin_body(read.length)?;
    Ok(Some((response, read.keep_alive)))
}

/// The authority of the target or of Host; both must agree when both are there (RFC 9113 section 8.3.1).
fn authority_of(request: &Request<Incoming>) -> Result<Authority, Failure> {
    let mut lines = request.headers().get_all(HOST).iter();
    let from_host = match (lines.next(), lines.next()) {
        (None, _) => None,
        (Some(host), None) => Some(Authority::try_from(host.as_bytes()).map_err(|_| Failure::BadRequest)?),
        (Some(_), Some(_)) => return Err(Failure::BadRequest),
    };
    let authority = match (request.uri().authority(), from_host) {
        (Some(target), Some(host)) if *target != host => return Err(Failure::BadRequest),
        (Some(target), _) => target.clone(),
        (None, Some(host)) => host,
        (None, None) => return Err(Failure::BadRequest),
    };
    match head::Authority::parse(authority.as_str().as_bytes()) {
        Some(_) => Ok(authority),
        None => Err(Failure::BadRequest),
    }
}

/// Runs HTTP/2 streams on the worker's own thread.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
