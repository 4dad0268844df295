//! The admin listener: liveness, readiness and metrics. It listens on a loopback address only.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use crate::server::gauges;
use crate::server::reload::ServerHandle;

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(100);

/// Serves connections until the process ends. During a drain, `/readyz` answers 503.
pub(crate) async fn serve(listener: TcpListener, server: Arc<ServerHandle>) {
    loop {
        // An accept error concerns one connection, or a lack of file descriptors, which the workers log.
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_connection(stream, server.clone()));
        } else {
            tokio::time::sleep(PAUSE_AFTER_ACCEPT_ERROR).await;
        }
    }
}

async fn serve_connection(stream: TcpStream, server: Arc<ServerHandle>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&request, &server);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    // An aborted connection needs no log line.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
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
        ("/readyz", false) if is_verbose => response(StatusCode::OK, TEXT, "listeners: accepting\nready\n"),
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
