//! Serves a connection: first the PROXY header of a trusted proxy and the TLS handshake, within one time-out, then
//! HTTP/1 or HTTP/2.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rustls::HandshakeKind;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use crate::base::corked_socket::CorkedSocket;
use crate::base::drain::DrainWatch;
use crate::base::error_chain::Chain;
use crate::edge::admission::{Admitted, Full};
use crate::edge::proxy_protocol::{self, HeaderError};
use crate::edge::tls::ACME_TLS;
use crate::edge::{http1, http2};
use crate::request::connection::{Connection, Entry};
use crate::request::worker::Worker;

/// How long a handshake may continue once the worker drains.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that has been accepted.
#[derive(Debug)]
pub(crate) struct Accepted<S = TcpStream> {
    pub(crate) stream: S,
    pub(crate) peer: SocketAddr,
    /// Accepted by an HTTPS listener.
    pub(crate) tls: bool,
    pub(crate) admitted: Admitted,
}

impl<S> Accepted<S> {
    /// Converts the stream, for example between the types of `std` and `tokio`.
    pub(crate) fn with_stream<T>(
        self,
        convert: impl FnOnce(S) -> std::io::Result<T>,
    ) -> std::io::Result<Accepted<T>> {
        let Self { stream, peer, tls, admitted } = self;
        Ok(Accepted { stream: convert(stream)?, peer, tls, admitted })
    }
}

/// A connection that is ready for requests.
struct Ready {
    stream: Stream,
    /// The peer, or the client that a trusted proxy named.
    client: SocketAddr,
    /// Held while the connection is open.
    _admitted: Admitted,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<CorkedSocket>>),
}

/// Why a connection ends before its first request.
enum HandshakeError {
    ProxyHeader(HeaderError),
    Full(Full),
    Tls(std::io::Error),
}

/// Serves a connection until it ends.
///
/// # Errors
/// The client behind a trusted proxy has reached the limit of connections per address.
pub(crate) async fn serve(connection: Accepted, worker: &Rc<Worker>) -> Result<(), Full> {
    let peer = connection.peer.ip();
    let timeout = worker.gateway.timeouts.handshake;
    // Boxed, so that the memory is freed at the end of the handshake, not of the connection.
    let handshake = Box::pin(tokio::time::timeout(timeout, accept(connection, worker)));
    let mut draining = DrainWatch::new(worker.drain.clone());
    let outcome = tokio::select! {
        outcome = handshake => outcome,
        () = draining.drained_for(DRAIN_TIMEOUT) => return Ok(()),
    };
    drop(draining);
    match outcome {
        Ok(Ok(Ready { stream: Stream::Tls(stream), client, _admitted })) => {
            let is_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            let counters = &worker.counters;
            let handshakes =
                if is_resumed { &counters.resumed_handshakes } else { &counters.full_handshakes };
            handshakes.inc();
            serve_https(stream, client, worker.clone()).await;
        }
        Ok(Ok(Ready { stream: Stream::Plain(stream), client, _admitted })) => {
            http1::serve(stream, Connection::new(worker.clone(), client, Entry::Http)).await;
        }
        Ok(Err(HandshakeError::Tls(error))) => {
            worker.counters.failed_handshakes.inc();
            info!(client = %peer, %error, "TLS handshake failed");
        }
        Ok(Err(HandshakeError::ProxyHeader(error))) => {
            warn!(proxy = %peer, error = %Chain(&error), "closed the connection of a trusted proxy");
        }
        Ok(Err(HandshakeError::Full(full))) => return Err(full),
        Err(_) => {
            worker.counters.timed_out_handshakes.inc();
            debug!(client = %peer, "TLS handshake timed out");
        }
    }
    Ok(())
}

/// Serves a connection with the protocol that ALPN chose.
async fn serve_https(mut stream: Box<TlsStream<CorkedSocket>>, client: SocketAddr, worker: Rc<Worker>) {
    let (_, tls) = stream.get_ref();
    if tls.alpn_protocol() == Some(ACME_TLS) {
        // The CA needs only the handshake.
        let _ = stream.shutdown().await;
        return;
    }
    let is_http2 = tls.alpn_protocol() == Some(b"h2");
    // A client without SNI got the certificate of the first site.
    let first = || worker.gateway.sites[0].config.hosts[0].as_str();
    let name: Rc<str> = tls.server_name().unwrap_or_else(first).into();
    let site = worker.gateway.site_of(&name);
    let connection = Connection::new(worker, client, Entry::Https { name, site });
    if is_http2 {
        http2::serve(stream, connection).await;
    } else {
        http1::serve(stream, connection).await;
    }
}

async fn accept(connection: Accepted, worker: &Worker) -> Result<Ready, HandshakeError> {
    let Accepted { mut stream, peer, tls, mut admitted } = connection;
    let gateway = &worker.gateway;
    let mut client = peer;
    if gateway.proxy_protocol
        && gateway.trusts(peer.ip())
        && let Some(source) =
            proxy_protocol::receive(&mut stream).await.map_err(HandshakeError::ProxyHeader)?
    {
        client = source;
        if !gateway.trusts(client.ip()) {
            admitted.belongs_to(client.ip()).map_err(HandshakeError::Full)?;
        }
    }
    let stream = if tls {
        let acceptor = TlsAcceptor::from(gateway.tls.clone());
        let accepted = acceptor.accept(CorkedSocket::new(stream, worker.buffers.clone())).await;
        Stream::Tls(Box::new(accepted.map_err(HandshakeError::Tls)?))
    } else {
        Stream::Plain(stream)
    };
    Ok(Ready { stream, client, _admitted: admitted })
}
