//! The control socket: `reload`, `status` and `upstream` as HTTP over a Unix socket.
//!
//! The file's permissions decide who may use it: the gateway's user and group.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::{info, warn};
use url::form_urlencoded;

use crate::base::paths::parent_directory;
use crate::server::reload::{ServerHandle, Trigger};
use crate::server::status;

/// Read and write for owner and group.
const MODE: u32 = 0o660;
/// Concurrent connections.
const MAX_CONNECTIONS: usize = 32;
/// How long a command waits for the gateway: a reload reads files and sets up clients.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// The socket file. It is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    inode: u64,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("there is no folder {}", .0.display())]
    NoFolder(PathBuf),
    #[error("another gateway listens on it")]
    Taken,
    #[error("there is a file that is not a socket")]
    NoSocket,
    #[error(transparent)]
    System(#[from] std::io::Error),
}

/// Opens the socket, within a runtime. A stale socket of a gateway that crashed is replaced.
pub(crate) fn open(path: &Path) -> Result<(UnixListener, Control), OpenError> {
    let folder = parent_directory(path);
    if !folder.is_dir() {
        return Err(OpenError::NoFolder(folder.to_owned()));
    }
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(OpenError::NoSocket);
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(OpenError::Taken),
            // A stale socket.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?
            }
            Err(error) => return Err(error.into()),
        }
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    let inode = std::fs::metadata(path)?.ino();
    Ok((listener, Control { path: path.to_owned(), inode }))
}

impl Drop for Control {
    fn drop(&mut self) {
        // Only our own: another gateway may have replaced it.
        if std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Serves until the process ends.
pub(crate) async fn serve(listener: UnixListener, server: Arc<ServerHandle>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Further connections wait in the backlog of the socket.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let server = server.clone();
                tokio::spawn(async move {
                    connection(stream, server).await;
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "the control socket does not accept");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, server: Arc<ServerHandle>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(answer(&request, &server).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(5));
    // An error means that the client has gone.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: &Request<Incoming>, server: &Arc<ServerHandle>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => json(StatusCode::OK, &status::read(server).await),
        (&Method::POST, "/reload") => {
            info!("reload requested on the control socket");
            let last = server.reload(Trigger::Command).await;
            let status = if last.good { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
            json(status, &serde_json::to_value(&*last).unwrap_or_default())
        }
        (&Method::POST, "/servers/drain") => drain(request, server, true),
        (&Method::POST, "/servers/restore") => drain(request, server, false),
        (_, "/status") => not_allowed("GET"),
        (_, "/reload" | "/servers/drain" | "/servers/restore") => not_allowed("POST"),
        (_, _) => {
            let there =
                "there is GET /status, POST /reload, /servers/drain?server= and /servers/restore?server=";
            json(StatusCode::NOT_FOUND, &Value::from(there))
        }
    }
}

/// Takes a server out of service, or puts it back, at every site that has it.
fn drain(request: &Request<Incoming>, server: &ServerHandle, drained: bool) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default();
    let named =
        form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "server").map(|(_, value)| value);
    let gateway = server.gateway();
    let sites: Vec<&str> = gateway
        .sites
        .iter()
        .filter(|site| named.as_ref().is_some_and(|url| site.upstream.servers.drain(url, drained)))
        .map(|site| site.config.hosts[0].as_str())
        .collect();
    let all = || gateway.sites.iter().flat_map(|site| &site.config.upstream.servers).map(ToString::to_string);
    if sites.is_empty() {
        return json(
            StatusCode::UNPROCESSABLE_ENTITY,
            &serde_json::json!({"servers": all().collect::<Vec<_>>()}),
        );
    }
    json(StatusCode::OK, &serde_json::json!({"sites": sites}))
}

fn not_allowed(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = json(StatusCode::METHOD_NOT_ALLOWED, &Value::from(methods));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn json(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{value}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Why a running gateway could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(
        "no gateway is listening on {0}. If `listen.control` or `listen.admin` changed since it started, pass `--socket`"
    )]
    Connect(String, #[source] std::io::Error),
    #[error("permission denied for {0}: run this as root, or as a member of the gateway's group")]
    NotAllowed(String),
    #[error("the gateway does not respond")]
    TimedOut,
    #[error("the gateway closed the connection")]
    Http(#[from] hyper::Error),
    #[error("the response is not from a gateway of this version")]
    Answer,
}

/// Sends a request to the gateway that listens on a socket.
pub(crate) fn ask(socket: &Path, method: Method, path: &str) -> Result<Value, AskError> {
    let shown = socket.display().to_string();
    let limit = if method == Method::GET { STATUS_TIMEOUT } else { RELOAD_TIMEOUT };
    within(limit, shown, UnixStream::connect(socket), async |stream| {
        let (status, body) = exchange(stream, method, path).await?;
        match status {
            StatusCode::OK | StatusCode::UNPROCESSABLE_ENTITY => {
                serde_json::from_slice(&body).map_err(|_| AskError::Answer)
            }
            _ => Err(AskError::Answer),
        }
    })
}

/// The status of the gateway that listens on a socket.
pub(crate) fn status(socket: &Path) -> Result<Value, AskError> {
    let status = ask(socket, Method::GET, "/status")?;
    // Another program may listen there.
    if status["pid"].is_u64() && status["last_reload"]["hash"].is_string() {
        Ok(status)
    } else {
        Err(AskError::Answer)
    }
}

/// Whether the gateway with this admin listener is ready.
pub(crate) fn is_ready(admin: SocketAddr) -> Result<bool, AskError> {
    within(READY_TIMEOUT, admin.to_string(), TcpStream::connect(admin), async |stream| {
        Ok(exchange(stream, Method::GET, "/readyz").await?.0 == StatusCode::OK)
    })
}

fn within<S, T>(
    limit: Duration,
    address: String,
    connecting: impl Future<Output = std::io::Result<S>>,
    asking: impl AsyncFnOnce(S) -> Result<T, AskError>,
) -> Result<T, AskError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| AskError::Connect(address.clone(), error))?;
    let asked = async {
        let stream = connecting.await.map_err(|error| {
            let not_allowed = error.kind() == std::io::ErrorKind::PermissionDenied;
            if not_allowed { AskError::NotAllowed(address) } else { AskError::Connect(address, error) }
        })?;
        asking(stream).await
    };
    runtime.block_on(async { tokio::time::timeout(limit, asked).await.unwrap_or(Err(AskError::TimedOut)) })
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    method: Method,
    path: &str,
) -> Result<(StatusCode, Bytes), AskError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| AskError::Answer)?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}
