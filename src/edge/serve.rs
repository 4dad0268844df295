//! Serves a connection by the protocol that ALPN chose.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::base::corked_socket::CorkedSocket;
use crate::edge::tls::ACME_TLS;
use crate::edge::{http1, http2};
use crate::request::connection::{Connection, Entry};
use crate::request::worker::Worker;

/// Serves a client until it leaves or the worker drains.
pub(crate) async fn https(stream: Box<TlsStream<CorkedSocket>>, peer: SocketAddr, worker: Rc<Worker>) {
    let (_, tls) = stream.get_ref();
    if tls.alpn_protocol() == Some(ACME_TLS) {
        // The CA needs only the handshake.
        let mut stream = stream;
        let _ = stream.shutdown().await;
        return;
    }
    let speaks_h2 = tls.alpn_protocol() == Some(b"h2");
    // A client without SNI got the certificate of the first site.
    let first = || worker.gateway.sites[0].config.hosts[0].as_str();
    let name: Rc<str> = tls.server_name().unwrap_or_else(first).into();
    let site = worker.gateway.site_of(&name);
    let connection = Connection::new(worker, peer, Entry::Https { name, site });
    if speaks_h2 {
        http2::serve(stream, connection).await;
    } else {
        http1::serve(stream, connection).await;
    }
}

/// Serves a connection to the plain-HTTP port.
pub(crate) async fn plain_http(stream: TcpStream, peer: SocketAddr, worker: Rc<Worker>) {
    http1::serve(stream, Connection::new(worker, peer, Entry::Http)).await;
}
