//! The iMIS web servers of one site: connecting, TLS under the right name, sending, and one safe retry.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::UPGRADE;
use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::bound::{self, Bound};
use super::pool::Pool;
use super::upload::{Sent, Upload};
use crate::config::{Server, Timeouts};
use crate::gateway::Site;

/// IIS sends response heads of up to 64 KiB.
const MAX_HEAD_BYTES: usize = 128 * 1024;
const MAX_HEADERS: usize = 256;

/// Why iMIS gave no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// No server accepted a connection in time.
    #[error("no upstream server accepts a connection")]
    Unreachable(#[source] ConnectError),
    /// The connection was lost or spoke nonsense before the head of the response.
    #[error("the upstream connection failed")]
    Broken(#[source] hyper::Error),
    /// The browser broke off its upload, or sent a malformed body.
    #[error("the request's body broke off")]
    UploadBroke(#[source] hyper::Error),
    /// No response head within the time allowed.
    #[error("no response head from the upstream in time")]
    Silent,
    /// Both Content-Length and Transfer-Encoding.
    #[error("the response says in two ways where it ends")]
    AmbiguousLength,
    /// 101 without being asked, or to something else than was asked for.
    #[error("the upstream switched protocols unasked")]
    UnexpectedUpgrade,
    /// The request cannot be forwarded without changing its meaning.
    #[error("the request cannot be forwarded as it is")]
    InvalidRequest,
}

/// Why one server could not be connected to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("TCP connection")]
    Tcp(#[source] std::io::Error),
    #[error("TLS handshake")]
    Tls(#[source] std::io::Error),
    #[error("HTTP handshake")]
    Http(#[source] hyper::Error),
    #[error("took too long")]
    TimedOut,
    #[error("`{0}` is not a name for TLS")]
    Name(String),
}

/// Connections of one worker to the servers of one site.
pub(crate) struct Upstream {
    servers: Vec<Server>,
    server_names: Vec<String>,
    tls: TlsConnector,
    timeouts: Timeouts,
    pool: Rc<Pool>,
}

impl Upstream {
    pub(crate) fn new(site: &Site) -> Self {
        let upstream = &site.config.upstream;
        Self {
            servers: upstream.servers.clone(),
            server_names: upstream.servers.iter().map(|server| server_name(server, site)).collect(),
            tls: TlsConnector::from(Arc::clone(&site.upstream_tls)),
            timeouts: upstream.timeouts,
            pool: Rc::new(Pool::new(upstream.timeouts.idle)),
        }
    }

    /// Sends a request and waits for the head of the response.
    pub(crate) async fn send(
        &self,
        request: Request<Incoming>,
        own: Option<&Bound>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let signs_in = bound::used_by(request.headers());
        let (head, body) = request.into_parts();
        let (body, mut sent) = Upload::of(body);
        let mut request = Request::from_parts(head, body);
        let of_client = match own {
            Some(own) => own.take().await,
            None => None,
        };
        let belongs_to_client = of_client.is_some();
        // A connection that may be signed in starts anew: nobody else has used it, nobody else will.
        let kept = of_client.or_else(|| if signs_in { None } else { self.pool.take() });
        if let Some(mut connection) = kept {
            let again = repeatable(&request);
            match self.exchange(&mut connection, request, &sent).await {
                Ok(Exchange::Done(response)) => {
                    self.keep(connection, &response, own, belongs_to_client);
                    return Ok(response);
                }
                // The connection died idle and nothing of the request was sent: once more, on a new one.
                Ok(Exchange::NotSent(returned, error)) => {
                    debug!(%error, "an idle upstream connection had died");
                    request = *returned;
                }
                // It died as the request went out. One that changes nothing may be sent again (RFC 9110 section 9.2.2).
                Err(UpstreamError::Broken(error)) => {
                    // A malformed answer is one; asking again would not mend it.
                    let again = again.filter(|_| !error.is_parse());
                    let Some(head) = again else { return Err(UpstreamError::Broken(error)) };
                    debug!(%error, "an idle upstream connection died; asking once more");
                    let (body, none) = Upload::empty();
                    sent = none;
                    request = Request::from_parts(head, body);
                }
                Err(error) => return Err(error),
            }
        }
        let mut connection = self.connect().await?;
        match self.exchange(&mut connection, request, &sent).await? {
            Exchange::Done(response) => {
                self.keep(connection, &response, own, signs_in);
                Ok(response)
            }
            Exchange::NotSent(_, error) => Err(UpstreamError::Broken(error)),
        }
    }

    /// Keeps the connection for this client alone, or for everybody once its response has been read to the end.
    fn keep(
        &self,
        mut connection: SendRequest<Upload>,
        response: &Response<Incoming>,
        own: Option<&Bound>,
        belongs_to_client: bool,
    ) {
        if belongs_to_client || bound::asked_for_by(response.headers()) {
            // Without a place to keep it, it closes behind its response.
            if let Some(own) = own {
                own.put(connection);
            }
            return;
        }
        let pool = self.pool.clone();
        tokio::task::spawn_local(async move {
            if connection.ready().await.is_ok() {
                pool.put(connection);
            }
        });
    }

    async fn exchange(
        &self,
        connection: &mut SendRequest<Upload>,
        request: Request<Upload>,
        sent: &Sent,
    ) -> Result<Exchange, UpstreamError> {
        let deadline = async {
            sent.wait().await;
            tokio::time::sleep(self.timeouts.response_head).await;
        };
        let answered = tokio::select! {
            answered = connection.try_send_request(request) => answered,
            () = deadline => return Err(UpstreamError::Silent),
        };
        match answered {
            Ok(response) => Ok(Exchange::Done(response)),
            Err(mut refused) => match refused.take_message() {
                Some(request) => Ok(Exchange::NotSent(Box::new(request), refused.into_error())),
                None if sent.broke() => Err(UpstreamError::UploadBroke(refused.into_error())),
                None => Err(UpstreamError::Broken(refused.into_error())),
            },
        }
    }

    async fn connect(&self) -> Result<SendRequest<Upload>, UpstreamError> {
        let mut last = ConnectError::TimedOut;
        for (server, name) in self.servers.iter().zip(&self.server_names) {
            match self.connect_to(server, name).await {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    debug!(%server, %error, "cannot connect");
                    last = error;
                }
            }
        }
        Err(UpstreamError::Unreachable(last))
    }

    async fn connect_to(&self, server: &Server, name: &str) -> Result<SendRequest<Upload>, ConnectError> {
        let stream = within(self.timeouts.connect, TcpStream::connect((server.host.as_str(), server.port)))
            .await?
            .map_err(ConnectError::Tcp)?;
        // Fails only when the server has gone already, which the handshake will tell.
        let _ = stream.set_nodelay(true);
        if !server.tls {
            return handshake(stream).await;
        }
        let name = ServerName::try_from(name.to_owned()).map_err(|_| ConnectError::Name(name.to_owned()))?;
        let stream = within(self.timeouts.connect, self.tls.connect(name, stream))
            .await?
            .map_err(ConnectError::Tls)?;
        handshake(stream).await
    }
}

/// The head of a request that may be sent twice: a method that changes nothing, and no body.
fn repeatable(request: &Request<Upload>) -> Option<Parts> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let plain =
        safe && http_body::Body::is_end_stream(request.body()) && !request.headers().contains_key(UPGRADE);
    plain.then(|| {
        let mut head = Request::new(()).into_parts().0;
        head.method = request.method().clone();
        head.uri = request.uri().clone();
        head.headers = request.headers().clone();
        head
    })
}

enum Exchange {
    Done(Response<Incoming>),
    NotSent(Box<Request<Upload>>, hyper::Error),
}

async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, ConnectError> {
    timeout(limit, future).await.map_err(|_| ConnectError::TimedOut)
}

/// The name for SNI and the certificate: the server's own if it has one, else the host that iMIS is asked for.
fn server_name(server: &Server, site: &Site) -> String {
    if server.host.parse::<std::net::IpAddr>().is_err() {
        return server.host.clone();
    }
    match &site.config.upstream.host {
        Some(authority) => authority.host.clone(),
        None => site.config.hosts[0].clone(),
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Upload>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Http)?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "an upstream connection ended");
        }
    });
    Ok(sender)
}
