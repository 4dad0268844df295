//! One connection of a browser, HTTP/1.1 or HTTP/2 as ALPN chose. Every request gets a response: what fails outside the
//! sign-in becomes one here, what fails inside it in `sso`.

pub(crate) mod access;
mod activity;
pub(crate) mod body;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, warn};

use crate::config::App;
use crate::pages::{self, Failure};
use crate::proxy::{self, headers::Forwarded};
use crate::route::{Route, route};
use crate::sso;
use crate::telemetry::Chain;
use crate::worker::Worker;
use access::Access;
use activity::{Activity, UnderWay};
use body::{Body, Followed};

/// For a request head, and for waiting for the next one on a kept connection.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);
/// A PING goes out after this much silence, and the peer is gone when it is not answered in time.
const H2_PING_AFTER: Duration = Duration::from_secs(30);
const H2_PING_DEADLINE: Duration = Duration::from_secs(20);
const MAX_HEADERS: usize = 128;
/// http.sys takes 16 KiB a head by default; four times that, so that iMIS decides.
const MAX_HEAD_BYTES: usize = 64 * 1024;
const H2_STREAMS: u32 = 128;
const H2_WINDOW: u32 = 1024 * 1024;

/// What is known of a connection before its first request.
struct Connection {
    worker: Rc<Worker>,
    peer: IpAddr,
    /// The site whose certificate was shown.
    site: usize,
    /// HTTP/1.1 only.
    bound: Option<proxy::bound::Bound>,
    activity: Rc<Activity>,
}

/// Serves a browser until it leaves or the worker drains.
pub(crate) async fn serve_https(stream: TlsStream<TcpStream>, peer: SocketAddr, worker: Rc<Worker>) {
    let (_, tls) = stream.get_ref();
    let h2 = tls.alpn_protocol() == Some(b"h2");
    let site = tls.server_name().and_then(|name| worker.gateway.site_of(name)).unwrap_or(0);
    let bound = (!h2).then(proxy::bound::Bound::default);
    let activity = Rc::new(Activity::default());
    let connection = Rc::new(Connection {
        worker: worker.clone(),
        peer: peer.ip(),
        site,
        bound,
        activity: activity.clone(),
    });
    let service = service_fn(move |request| answer(request, connection.clone()));
    let io = TokioIo::new(stream);
    let ended = if h2 {
        let mut builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .keep_alive_interval(H2_PING_AFTER)
            .keep_alive_timeout(H2_PING_DEADLINE)
            .max_concurrent_streams(H2_STREAMS)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .initial_stream_window_size(H2_WINDOW)
            .initial_connection_window_size(H2_WINDOW);
        let connection = std::pin::pin!(builder.serve_connection(io, service));
        activity.serve(connection, |connection| connection.graceful_shutdown(), &worker.drain).await
    } else {
        let connection = std::pin::pin!(http1().serve_connection(io, service).with_upgrades());
        activity.serve(connection, |connection| connection.graceful_shutdown(), &worker.drain).await
    };
    log_end(peer, ended);
}

fn log_end(peer: SocketAddr, ended: Option<hyper::Result<()>>) {
    if let Some(Err(error)) = ended {
        debug!(client = %peer.ip(), %error, "connection ended");
    }
}

fn http1() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .auto_date_header(false)
        .preserve_header_case(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
}

/// Serves the plain-HTTP port: every request is sent to https.
pub(crate) async fn serve_redirects(stream: TcpStream, peer: SocketAddr, worker: Rc<Worker>) {
    let drain = worker.drain.clone();
    let activity = Rc::new(Activity::default());
    let shared = activity.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let response = redirect_to_https(&request, &worker, peer.ip(), UnderWay::begin(&shared));
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let connection = std::pin::pin!(http1().serve_connection(TokioIo::new(stream), service));
    let ended = activity.serve(connection, |connection| connection.graceful_shutdown(), &drain).await;
    log_end(peer, ended);
}

fn redirect_to_https(
    request: &Request<Incoming>,
    worker: &Worker,
    peer: IpAddr,
    under_way: UnderWay,
) -> Response<Followed> {
    let incident = worker.next_incident();
    let gateway = &worker.gateway;
    let client = gateway.visitor(request.headers(), peer);
    let access = gateway.access_log.then(|| Access::begin(request, client, incident.clone()));
    let response = match https_location(request, worker) {
        Ok(location) => pages::redirect(StatusCode::PERMANENT_REDIRECT, &location),
        Err(failure) => gateway.pages.failure(&failure, &incident),
    };
    Followed::response(response, access, under_way)
}

/// The same target on https, if it is for one of our sites.
fn https_location(request: &Request<Incoming>, worker: &Worker) -> Result<String, Failure> {
    let authority = authority_of(request).map_err(|BadAuthority| Failure::BadRequest)?;
    let authority = authority.ok_or(Failure::BadRequest)?;
    let host = authority.host();
    worker.gateway.site_of(host).ok_or(Failure::UnknownHost)?;
    let port = match worker.gateway.https_port {
        443 => String::new(),
        other => format!(":{other}"),
    };
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    Ok(format!("https://{host}{port}{target}"))
}

/// Answers one request: never an error, always one line in the access log.
async fn answer(
    request: Request<Incoming>,
    connection: Rc<Connection>,
) -> Result<Response<Followed>, Infallible> {
    let worker = &connection.worker;
    let incident = worker.next_incident();
    let under_way = UnderWay::begin(&connection.activity);
    let client = worker.gateway.visitor(request.headers(), connection.peer);
    let access = worker.gateway.access_log.then(|| Access::begin(&request, client, incident.clone()));
    let response = match decide(request, &connection, &incident).await {
        Ok(response) => response,
        Err(failure) => {
            let error = Chain(&failure);
            if failure.is_the_clients() {
                debug!(incident, %error, "answered with a page of our own");
            } else {
                warn!(incident, %error, "answered with a page of our own");
            }
            worker.gateway.pages.failure(&failure, &incident)
        }
    };
    Ok(Followed::response(response, access, under_way))
}

/// The order of a request: whose it is, then what it asks for.
async fn decide(
    mut request: Request<Incoming>,
    connection: &Connection,
    incident: &str,
) -> Result<Response<Body>, Failure> {
    let worker = &connection.worker;
    let gateway = &worker.gateway;
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Failure::MethodNotAllowed);
    }
    let (index, authority) = site_and_authority(&request, connection)?;
    let site = &gateway.sites[index];
    proxy::headers::join_cookie_crumbs(&mut request);
    let forwarded = Forwarded::of(&request, connection.peer, gateway, &authority, incident);
    if let Some(sign_on) = &site.sign_on {
        let visit = |app: &Arc<App>, request: Request<Incoming>| {
            let head = request.into_parts().0;
            let (forwarded, authority) = (forwarded.clone(), authority.clone());
            sso::Visit {
                gateway: gateway.clone(),
                site: index,
                sign_on: sign_on.clone(),
                app: app.clone(),
                query: head.uri.query().unwrap_or_default().to_owned(),
                headers: head.headers,
                forwarded,
                authority,
                incident: incident.to_owned(),
            }
        };
        let asked = route(&sign_on.apps, request.uri().path());
        if matches!(asked, Route::SignIn(_) | Route::SignedOut(_)) && request.method() != Method::GET {
            return Err(Failure::MethodNotAllowed);
        }
        match asked {
            Route::SignIn(app) => return sign_in(worker, visit(app, request), incident).await,
            Route::SignedOut(app) => return Ok(sso::signed_out(&visit(app, request))),
            Route::Ambiguous(meant) => {
                let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
                return Err(Failure::AmbiguousPath(meant + &query));
            }
            Route::Proxy => {}
        }
    }
    let upstream = &worker.upstreams[index];
    let client = proxy::Client { tunnels: &worker.connections, bound: connection.bound.as_ref() };
    proxy::forward(request, site, upstream, client, &authority, &forwarded).await.map_err(Failure::Upstream)
}

/// Waits for a sign-in on the control runtime: iMIS cannot hold up this worker, and a panic ends one sign-in. A browser
/// that leaves takes its sign-in with it.
async fn sign_in(worker: &Worker, visit: sso::Visit, incident: &str) -> Result<Response<Body>, Failure> {
    let task = AbortOnDropHandle::new(worker.control.spawn(sso::sign_in(visit)));
    task.await.map_err(|error| {
        // Not the error itself: a panic's message could quote what it stumbled on.
        error!(incident, panicked = error.is_panic(), "a sign-in ended abnormally");
        Failure::Internal
    })
}

/// The site a request is for: it must be one of ours, and the one whose certificate the browser saw.
fn site_and_authority(
    request: &Request<Incoming>,
    connection: &Connection,
) -> Result<(usize, Authority), Failure> {
    let gateway = &connection.worker.gateway;
    let authority = match authority_of(request).map_err(|BadAuthority| Failure::BadRequest)? {
        Some(authority) => authority,
        // HTTP/1.0 has no Host (RFC 1945): the site of the certificate, under its first name.
        None if request.version() == Version::HTTP_10 => {
            let host = &gateway.sites[connection.site].config.hosts[0];
            Authority::try_from(host.as_str()).map_err(|_| Failure::BadRequest)?
        }
        None => return Err(Failure::BadRequest),
    };
    match gateway.site_of(authority.host()) {
        Some(index) if index == connection.site => Ok((index, authority)),
        // RFC 9110 section 15.5.20: not the server for this authority, or not over this connection.
        Some(_) | None => Err(Failure::UnknownHost),
    }
}

struct BadAuthority;

/// The authority of the target or of Host; both must agree when both are there (RFC 9112 section 3.2).
fn authority_of(request: &Request<Incoming>) -> Result<Option<Authority>, BadAuthority> {
    let mut lines = request.headers().get_all(HOST).iter();
    let from_host = match (lines.next(), lines.next()) {
        (None, _) => None,
        (Some(host), None) => Some(Authority::try_from(host.as_bytes()).map_err(|_| BadAuthority)?),
        (Some(_), Some(_)) => return Err(BadAuthority),
    };
    let authority = match (request.uri().authority(), from_host) {
        (Some(target), Some(host)) if *target != host => return Err(BadAuthority),
        (Some(target), _) => Some(target.clone()),
        (None, host) => host,
    };
    match &authority {
        Some(authority) if authority.as_str().contains('@') => Err(BadAuthority),
        Some(_) | None => Ok(authority),
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
