//! Accepting connections: the loop that must never end, the TLS handshake and its deadline, and which worker serves it.

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use rustls::HandshakeKind;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::base::corked_socket::Wire;
use crate::base::drain::Watching;
use crate::edge::admission::{Admitted, Full};
use crate::edge::balance::{HandedOn, Occupied, Seat};
use crate::edge::proxy_protocol::HeaderError;
use crate::edge::worker::{Newest, Worker};
use crate::observe::log::Chain;
use crate::observe::traffic::Handshake;
use crate::request::connection;

/// How long the loop rests when the machine has no descriptor or memory for another connection.
const REST_AFTER_ERROR: Duration = Duration::from_millis(100);
/// How long a handshake may go on once the worker drains.
const HANDSHAKE_IN_DRAIN: Duration = Duration::from_secs(2);
const BACKLOG: i32 = 4096;
/// How many connections that only wait make room at once, when there is none.
const EVICTED_AT_ONCE: usize = 16;
/// After so much silence the system asks whether a peer is still there, every `KEEPALIVE_EVERY`, `KEEPALIVE_TIMES` times.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMES: u32 = 3;

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
    tuned(socket.into())
}

/// Linux gives these on to accepted connections, which saves system calls for each.
pub(crate) fn tuned(listener: TcpListener) -> std::io::Result<TcpListener> {
    let socket = SockRef::from(&listener);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_TIMES))?;
    Ok(listener)
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

pub(crate) async fn accept_https(
    listener: tokio::net::TcpListener,
    newest: Rc<Newest>,
    stop: CancellationToken,
) {
    accept(&listener, &newest, &stop, true).await;
}

pub(crate) async fn accept_http(
    listener: tokio::net::TcpListener,
    newest: Rc<Newest>,
    stop: CancellationToken,
) {
    accept(&listener, &newest, &stop, false).await;
}

/// Serves what other workers hand on, until the worker stops; what is on its way then is served, too.
pub(crate) async fn take_over(
    mut incoming: UnboundedReceiver<HandedOn>,
    newest: Rc<Newest>,
    stop: CancellationToken,
) {
    loop {
        let handed_on = tokio::select! {
            biased;
            handed_on = incoming.recv() => handed_on,
            () = stop.cancelled(), if !incoming.is_closed() => {
                // From now on the others keep what they have.
                incoming.close();
                continue;
            }
        };
        let Some(HandedOn { stream, peer, tls, admitted }) = handed_on else { return };
        let Some(worker) = newest.worker() else { return };
        let occupied = worker.seat.occupied();
        match TcpStream::from_std(stream) {
            Ok(stream) => serve(stream, peer, &worker, tls, (admitted, occupied)),
            Err(error) => warn!(%error, "cannot take a connection over"),
        }
    }
}

/// Accepts connections until the gateway stops.
async fn accept(listener: &tokio::net::TcpListener, newest: &Newest, stop: &CancellationToken, tls: bool) {
    let mut stopping = std::pin::pin!(stop.cancelled());
    let mut after_the_end = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = &mut stopping => return,
        };
        if stop.is_cancelled() {
            // Whoever has connected already is served, and no crowd beyond that.
            after_the_end += 1;
            if after_the_end > BACKLOG {
                return;
            }
        }
        let Some(worker) = newest.worker() else { return };
        let worker = &worker;
        match accepted {
            Ok((stream, peer)) => {
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                let Some(admitted) = admitted(peer, worker) else { continue };
                worker.of_worker.accepted();
                match worker.seat.elsewhere() {
                    None => serve(stream, peer, worker, tls, (admitted, worker.seat.occupy())),
                    Some(other) => hand_on(stream, peer, (tls, admitted), worker, &other),
                }
            }
            // The client gave up between its handshake and our accept.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            // Nobody else is let in then; what waits is the next process's, or nobody's.
            Err(_) if stop.is_cancelled() => return,
            Err(error) => {
                // Out of descriptors or memory, most likely: whoever only waits gives some back.
                let evicted = worker.drain.evict(EVICTED_AT_ONCE);
                warn!(%error, evicted, "cannot accept connections");
                tokio::time::sleep(REST_AFTER_ERROR).await;
            }
        }
    }
}

/// A place for a connection, if there is one or another connection gives up its own.
fn admitted(peer: SocketAddr, worker: &Rc<Worker>) -> Option<Admitted> {
    let admission = &worker.gateway.admission;
    let trusted = worker.gateway.trusts(peer.ip());
    let admit = |leaving| admission.admit(peer.ip(), trusted, leaving);
    let admitted = match admit(0) {
        // Only when none is about to end are others asked to.
        Err(Full::All) => admit(worker.drain.leaving()).or_else(|_| {
            worker.drain.evict(EVICTED_AT_ONCE);
            admit(worker.drain.leaving())
        }),
        admitted => admitted,
    };
    admitted.inspect_err(|full| turned_away(peer, *full, worker)).ok()
}

fn turned_away(peer: SocketAddr, full: Full, worker: &Rc<Worker>) {
    debug!(client = %peer.ip(), limit = full.name(), "a connection was turned away");
    worker.of_worker.turned_away();
    let before = worker.turned_away.replace(worker.turned_away.get() + 1);
    if before == 0 {
        // The first of a second speaks for all.
        tokio::task::spawn_local(tell_turned_away(worker.clone(), full));
    }
}

async fn tell_turned_away(worker: Rc<Worker>, full: Full) {
    tokio::time::sleep(Duration::from_secs(1)).await;
    let count = worker.turned_away.take();
    warn!(count, limit = full.name(), "connections were turned away");
}

/// Hands a connection on to another worker, or serves it here when that has ended.
fn hand_on(
    stream: TcpStream,
    peer: SocketAddr,
    (tls, admitted): (bool, Admitted),
    worker: &Rc<Worker>,
    other: &Seat,
) {
    let returned = stream.into_std().and_then(|stream| {
        match other.take_over(HandedOn { stream, peer, tls, admitted }) {
            Ok(()) => Ok(None),
            Err(HandedOn { stream, admitted, .. }) => Ok(Some((TcpStream::from_std(stream)?, admitted))),
        }
    });
    match returned {
        Ok(None) => {}
        Ok(Some((stream, admitted))) => serve(stream, peer, worker, tls, (admitted, worker.seat.occupy())),
        Err(error) => warn!(%error, "cannot hand a connection on"),
    }
}

fn serve(stream: TcpStream, peer: SocketAddr, worker: &Rc<Worker>, tls: bool, counted: (Admitted, Occupied)) {
    let worker = worker.clone();
    worker.clone().connections.spawn_local(async move {
        let (admitted, _occupied) = counted;
        let limit = worker.gateway.timeouts.handshake;
        // In a box of its own: what a handshake needs is not kept as long as the connection.
        let opening =
            Box::pin(tokio::time::timeout(limit, open_up(stream, peer, admitted, worker.clone(), tls)));
        let mut draining = Watching::new(worker.drain.clone());
        let opened = tokio::select! {
            opened = opening => opened,
            () = draining.begun_for(HANDSHAKE_IN_DRAIN) => return,
        };
        drop(draining);
        match opened {
            Ok(Ok(Opened { stream: Stream::Tls(stream), client, _admitted })) => {
                let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                worker.of_worker.handshake(if resumed { Handshake::Resumed } else { Handshake::Full });
                connection::serve_https(stream, client, worker).await;
            }
            Ok(Ok(Opened { stream: Stream::Plain(stream), client, _admitted })) => {
                connection::serve_redirects(stream, client, worker).await;
            }
            Ok(Err(OpenError::Tls(error))) => {
                worker.of_worker.handshake(Handshake::Failed);
                info!(client = %peer.ip(), %error, "TLS handshake failed");
            }
            Ok(Err(OpenError::Header(error))) => {
                warn!(proxy = %peer.ip(), error = %Chain(&error), "a trusted proxy's connection was closed");
            }
            Ok(Err(OpenError::Full(full))) => turned_away(peer, full, &worker),
            Err(_) => {
                worker.of_worker.handshake(Handshake::TimedOut);
                debug!(client = %peer.ip(), "TLS handshake took too long");
            }
        }
    });
}

/// A connection of which it is known whose it is, ready for requests.
struct Opened {
    stream: Stream,
    /// Who connected to us or to the trusted proxy before us.
    client: SocketAddr,
    _admitted: Admitted,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<Wire>>),
}

/// Why a connection comes to nothing before its first request.
enum OpenError {
    Header(HeaderError),
    Full(Full),
    Tls(std::io::Error),
}

async fn open_up(
    mut stream: TcpStream,
    peer: SocketAddr,
    mut admitted: Admitted,
    worker: Rc<Worker>,
    tls: bool,
) -> Result<Opened, OpenError> {
    let gateway = &worker.gateway;
    let mut client = peer;
    if gateway.proxy_protocol
        && gateway.trusts(peer.ip())
        && let Some(named) =
            crate::edge::proxy_protocol::receive(&mut stream).await.map_err(OpenError::Header)?
    {
        client = named;
        if !gateway.trusts(client.ip()) {
            admitted.belongs_to(client.ip()).map_err(OpenError::Full)?;
        }
    }
    let stream = if tls {
        let acceptor = TlsAcceptor::from(gateway.tls.clone());
        let accepted = acceptor.accept(Wire::new(stream, worker.buffers.clone())).await;
        Stream::Tls(Box::new(accepted.map_err(OpenError::Tls)?))
    } else {
        Stream::Plain(stream)
    };
    Ok(Opened { stream, client, _admitted: admitted })
}
