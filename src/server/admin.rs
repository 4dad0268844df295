//! The admin listener: liveness, readiness and metrics. It listens on a loopback address only.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::server::gauges;
use crate::server::reload::ServerHandle;
use crate::server::status;

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole connection: a request, and the client reading the response.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// When there are more, the oldest one makes room.
const MAX_CONNECTIONS: usize = 64;
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(100);

/// Serves connections until the process ends. During a drain, `/readyz` answers 503.
///
/// `hosts`: names that `Host` may have besides IP addresses and `localhost`. Any other name is refused: a web page in
/// an operator's browser could otherwise read the metrics under a name of its own (DNS rebinding).
pub(crate) async fn serve(listener: TcpListener, server: Arc<ServerHandle>, hosts: Arc<[String]>) {
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        // An accept error concerns one connection, or a lack of file descriptors, which the workers log.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE_AFTER_ACCEPT_ERROR).await;
            continue;
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= MAX_CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        let connection = serve_connection(stream, server.clone(), hosts.clone());
        let bounded = tokio::time::timeout(CONNECTION_TIMEOUT, connection);
        connections.push_back(tokio::spawn(bounded).abort_handle());
    }
}

async fn serve_connection(stream: TcpStream, server: Arc<ServerHandle>, hosts: Arc<[String]>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = if is_allowed(request.headers().get(HOST), &hosts) {
            respond(&request, &server)
        } else {
            response(
                StatusCode::MISDIRECTED_REQUEST,
                TEXT,
                "use an IP address or localhost; listen.admin_hosts allows other names\n",
            )
        };
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(false);
    // An aborted connection needs no log line.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// Whether a request may have this `Host`. HTTP/1.0 has none.
fn is_allowed(host: Option<&HeaderValue>, hosts: &[String]) -> bool {
    let Some(host) = host else { return true };
    let text = host.to_str().ok().filter(|text| !text.contains('@'));
    let Some(authority) = text.and_then(|text| text.parse::<Authority>().ok()) else { return false };
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    address.parse::<IpAddr>().is_ok()
        || ["localhost"]
            .into_iter()
            .chain(hosts.iter().map(String::as_str))
            .any(|name| name.eq_ignore_ascii_case(host))
}

fn respond(request: &Request<Incoming>, server: &ServerHandle) -> Response<Full<Bytes>> {
    if !matches!(request.method(), &Method::GET | &Method::HEAD) {
        let mut response = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET only\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let is_verbose = request.uri().query().is_some_and(|query| query.split('&').any(|key| key == "verbose"));
    match (request.uri().path(), server.is_draining()) {
        ("/livez", _) => response(StatusCode::OK, TEXT, "ok\n"),
        ("/readyz", true) if is_verbose => {
            response(StatusCode::SERVICE_UNAVAILABLE, TEXT, "listeners: draining\nnot ready\n")
        }
        ("/readyz", true) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready\n"),
        ("/readyz", false) if is_verbose => {
            let problems: String =
                status::problems(&server.gateway()).iter().map(|problem| format!("{problem}\n")).collect();
            response(StatusCode::OK, TEXT, format!("listeners: accepting\n{problems}ready\n"))
        }
        ("/readyz", false) => response(StatusCode::OK, TEXT, "ready\n"),
        ("/metrics", _) => {
            let gateway = server.gateway();
            match gateway.metrics.encode(&gauges::read(&gateway, &server.process)) {
                Ok(text) => response(StatusCode::OK, OPEN_METRICS, text),
                Err(_) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, ""),
            }
        }
        _ => response(StatusCode::NOT_FOUND, TEXT, "not found; available: /livez, /readyz, /metrics\n"),
    }
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Opens the listening socket.
pub(crate) fn open(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_known_names_are_allowed_as_host() {
        let hosts = ["metrics.example.org".to_owned()];
        let allowed = |host: &str| is_allowed(Some(&HeaderValue::from_str(host).unwrap()), &hosts);
        for host in [
            "127.0.0.1:9180",
            "127.0.0.1",
            "[::1]:9180",
            "localhost",
            "LocalHost:9180",
            "Metrics.example.org:1",
        ] {
            assert!(allowed(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9180",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "",
            "a@localhost",
        ] {
            assert!(!allowed(host), "{host}");
        }
        assert!(is_allowed(None, &hosts), "HTTP/1.0");
    }
}
