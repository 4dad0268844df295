//! A small HTTP/1.1 server on a free loopback port that ends when it is dropped.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The response of a handler; `None` closes the connection.
pub type Answer = Option<Response<Full<Bytes>>>;

/// A request with its body read.
pub struct Received {
    /// Everything but the body.
    pub head: http::request::Parts,
    /// At most 64 MiB.
    pub body: Bytes,
}

impl Received {
    /// The `Host` header, or nothing.
    pub fn host(&self) -> &str {
        self.header("host")
    }

    /// A header as text; empty when absent or not text.
    pub fn header(&self, name: &str) -> &str {
        self.head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The first value of a parameter of the query.
    pub fn query(&self, name: &str) -> Option<String> {
        parameter(self.head.uri.query().unwrap_or_default().as_bytes(), name)
    }

    /// The first value of a field of a posted form.
    pub fn field(&self, name: &str) -> Option<String> {
        parameter(&self.body, name)
    }

    /// The value of a cookie, names compared without case; empty values are none.
    pub fn cookie(&self, name: &str) -> Option<String> {
        let header = self.header("cookie");
        let mut cookies = cookie::Cookie::split_parse(header).flatten();
        let found =
            cookies.find(|cookie| cookie.name().eq_ignore_ascii_case(name) && !cookie.value().is_empty());
        found.map(|cookie| cookie.value().to_owned())
    }
}

fn parameter(form: &[u8], wanted: &str) -> Option<String> {
    url::form_urlencoded::parse(form).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
}

/// A server that runs until it is dropped.
pub struct Running {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves `handler` on `address` (port 0: a free one), with TLS if there is a configuration for it.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve<H, F>(
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    handler: H,
) -> std::io::Result<Running>
where
    H: Fn(Received) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let acceptor = tls.map(TlsAcceptor::from);
    let task = tokio::spawn(async move {
        // Dropped with this task, and with it every connection.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(connection(stream, acceptor.clone(), handler.clone()));
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        }
    });
    Ok(Running { address, task })
}

async fn connection<H, F>(stream: TcpStream, acceptor: Option<TlsAcceptor>, handler: H)
where
    H: Fn(Received) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let _ = stream.set_nodelay(true);
    match acceptor {
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                http1(TokioIo::new(stream), handler).await;
            }
        }
        None => http1(TokioIo::new(stream), handler).await,
    }
}

async fn http1<I, H, F>(io: I, handler: H)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send,
    H: Fn(Received) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let handler = handler.clone();
        async move {
            let (head, body) = request.into_parts();
            let Ok(body) = Limited::new(body, 64 * 1024 * 1024).collect().await else { return Err(Dropped) };
            handler(Received { head, body: body.to_bytes() }).await.ok_or(Dropped)
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
}

/// The handler wants the connection dropped.
#[derive(Debug)]
struct Dropped;

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("dropped")
    }
}

impl std::error::Error for Dropped {}

impl From<Infallible> for Dropped {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// A response with a type and a body.
pub fn respond(status: u16, media_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// An HTML page.
pub fn html(status: u16, page: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, "text/html; charset=utf-8", page)
}

/// A JSON answer.
pub fn json(status: u16, value: &serde_json::Value) -> Response<Full<Bytes>> {
    respond(status, "application/json; charset=utf-8", value.to_string())
}

/// 302 to `location`; 500 when that cannot be a header.
pub fn redirect(location: &str) -> Response<Full<Bytes>> {
    let mut response = respond(302, "text/html", "");
    match HeaderValue::try_from(location) {
        Ok(location) => drop(response.headers_mut().insert(LOCATION, location)),
        Err(_) => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
    }
    response
}

/// Adds a header; names and values are the simulators' own.
pub fn with(mut response: Response<Full<Bytes>>, name: &'static str, value: &str) -> Response<Full<Bytes>> {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().append(HeaderName::from_static(name), value);
    }
    response
}

/// Text for HTML, double-quoted attributes included.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// A query value, encoded once.
pub fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Random hexadecimal digits, two a byte.
pub fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0_u8; bytes];
    // Without randomness the simulators are of no use; zeros make that plain.
    let _ = getrandom_fill(&mut buffer);
    buffer.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[expect(clippy::disallowed_methods, reason = "the simulators' one home of randomness")]
fn getrandom_fill(buffer: &mut [u8]) -> Result<(), getrandom::Error> {
    getrandom::fill(buffer)
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the simulators' one home of the clock")]
pub fn unix_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
