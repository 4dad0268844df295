//! Accepting connections: the loop that must never end, the TLS handshake and its deadline.

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::http;
use crate::worker::Worker;

/// A browser needs far less; a silent client gets no more.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How long the loop rests when the machine has no descriptor or memory for another connection.
const REST_AFTER_ERROR: Duration = Duration::from_millis(100);
const BACKLOG: i32 = 4096;

/// Opens one listening socket per worker on `address`. Port 0 is chosen once and shared by all.
pub(crate) fn open(address: SocketAddr, workers: usize) -> std::io::Result<Vec<TcpListener>> {
    if address.port() != 0 {
        // SO_REUSEPORT would let two gateways share a port by mistake; a plain bind tells whether it is free.
        drop(bound(address, false)?);
    }
    let first = open_one(address)?;
    let chosen = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(open_one(chosen)?);
    }
    Ok(sockets)
}

fn open_one(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = bound(address, true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bound(address: SocketAddr, reuse_port: bool) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` serves IPv4, too.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

pub(crate) async fn accept_https(listener: tokio::net::TcpListener, worker: Rc<Worker>) {
    let acceptor = TlsAcceptor::from(worker.gateway.tls.clone());
    while let Some((stream, peer)) = accept(&listener, &worker).await {
        let (acceptor, connection_worker) = (acceptor.clone(), worker.clone());
        worker.connections.spawn_local(async move {
            match tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => http::serve_https(stream, peer, connection_worker).await,
                Ok(Err(error)) => info!(client = %peer.ip(), %error, "TLS handshake failed"),
                Err(_) => debug!(client = %peer.ip(), "TLS handshake took too long"),
            }
        });
    }
}

pub(crate) async fn accept_http(listener: tokio::net::TcpListener, worker: Rc<Worker>) {
    while let Some((stream, peer)) = accept(&listener, &worker).await {
        worker.connections.spawn_local(http::serve_redirects(stream, peer, worker.clone()));
    }
}

/// The next connection; none once draining.
async fn accept(listener: &tokio::net::TcpListener, worker: &Worker) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = worker.drain.cancelled() => return None,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Fails only when the client has gone already, which the next read will tell.
                let _ = stream.set_nodelay(true);
                return Some((stream, SocketAddr::new(peer.ip().to_canonical(), peer.port())));
            }
            // The client gave up between its handshake and our accept.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                warn!(%error, "cannot accept connections");
                tokio::time::sleep(REST_AFTER_ERROR).await;
            }
        }
    }
}
