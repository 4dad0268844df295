//! The admin listener: liveness, readiness and metrics for whoever supervises the gateway. Loopback only.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use crate::request::gateway::Gateway;
use crate::server::gauges;
use crate::server::process_state::ProcessState;
use crate::server::reload::Reloader;

/// Serves as long as the program runs; once that drains, `/readyz` says so.
pub(crate) async fn serve(listener: TcpListener, reloader: Arc<Reloader>) {
    loop {
        // An error concerns one connection, or descriptors that the workers report about.
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream, reloader.clone()));
        } else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}

async fn connection(stream: TcpStream, reloader: Arc<Reloader>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &reloader);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(std::time::Duration::from_secs(5));
    // A client that breaks off has nobody to tell.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

fn answer(request: &Request<Incoming>, reloader: &Reloader) -> Response<Full<Bytes>> {
    if matches!(request.method(), &Method::GET | &Method::HEAD) && request.uri().path() == "/metrics" {
        return metrics(&reloader.gateway(), &reloader.process);
    }
    let verbose = request.uri().query().is_some_and(|query| query.split('&').any(|key| key == "verbose"));
    let (status, text) = match (request.method(), request.uri().path(), reloader.is_draining()) {
        (&Method::GET | &Method::HEAD, "/livez", _) => (StatusCode::OK, "ok\n"),
        (&Method::GET | &Method::HEAD, "/readyz", true) if verbose => {
            (StatusCode::SERVICE_UNAVAILABLE, "listeners: draining\nnot ready\n")
        }
        (&Method::GET | &Method::HEAD, "/readyz", true) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        (&Method::GET | &Method::HEAD, "/readyz", false) if verbose => {
            (StatusCode::OK, "listeners: accepting\nready\n")
        }
        (&Method::GET | &Method::HEAD, "/readyz", false) => (StatusCode::OK, "ready\n"),
        (&Method::GET | &Method::HEAD, _, _) => {
            (StatusCode::NOT_FOUND, "there is /livez, /readyz and /metrics\n")
        }
        (_, _, _) => (StatusCode::METHOD_NOT_ALLOWED, "GET only\n"),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

fn metrics(gateway: &Gateway, process: &ProcessState) -> Response<Full<Bytes>> {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match gateway.metrics.encode(&gauges::read(gateway, process)) {
        Ok(text) => {
            let mut response = Response::new(Full::from(text));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
            response
        }
        Err(_) => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

/// Opens the listener.
pub(crate) fn open(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
