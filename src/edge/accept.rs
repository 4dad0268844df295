//! Accepts connections. Errors of `accept` never end the loop: they concern one connection or are temporary.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::edge::admission::{Admission, Admitted, Full};
use crate::edge::balance::{HandedOver, Occupied, WorkerHandle};
use crate::edge::handshake::{self, Accepted};
use crate::edge::listen::BACKLOG;
use crate::request::worker::{CurrentWorker, Worker};

/// How long the loop waits when no file descriptor or memory is left for another connection.
const ERROR_BACKOFF: Duration = Duration::from_millis(100);
/// How many idle connections are closed at once when a limit is reached.
const MAX_EVICTED_AT_ONCE: usize = 16;
/// Rejected connections are logged at most this often.
const REJECTED_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Accepts the connections of one worker.
pub(crate) struct Acceptor {
    pub(crate) current: Rc<CurrentWorker>,
    pub(crate) admission: Arc<Admission>,
    /// All client connections of the worker, WebSockets included.
    pub(crate) connections: TaskTracker,
    /// The worker's handle in the registry of workers.
    pub(crate) handle: WorkerHandle,
    /// Connections that were rejected since the last log line about them.
    pub(crate) rejected: Cell<u64>,
}

/// Accepts connections until the gateway stops. `tls`: the listener is an HTTPS listener.
pub(crate) async fn accept(
    listener: tokio::net::TcpListener,
    acceptor: Rc<Acceptor>,
    stop: CancellationToken,
    tls: bool,
) {
    let mut stopping = std::pin::pin!(stop.cancelled());
    let mut accepted_after_stop = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = &mut stopping => return,
        };
        if stop.is_cancelled() {
            // Connections that were in the backlog are still served, and no more than that.
            accepted_after_stop += 1;
            if accepted_after_stop > BACKLOG {
                return;
            }
        }
        let Some(worker) = acceptor.current.worker() else { return };
        match accepted {
            Ok((stream, peer)) => {
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                let Some(admitted) = acceptor.admit(peer, &worker) else { continue };
                worker.counters.connections_accepted.inc();
                let connection = Accepted { stream, peer, tls, admitted };
                match acceptor.handle.elsewhere() {
                    None => acceptor.serve(connection, acceptor.handle.occupy(), worker),
                    Some(other) => acceptor.hand_over(connection, &other, worker),
                }
            }
            // The client gave up before the connection was accepted.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            // The next process accepts the connections that are left in the backlog.
            Err(_) if stop.is_cancelled() => return,
            Err(error) => {
                // Most likely no descriptors or memory are left: closing idle connections frees some.
                let evicted = worker.drain.evict(MAX_EVICTED_AT_ONCE);
                warn!(%error, evicted, "cannot accept connections");
                tokio::time::sleep(ERROR_BACKOFF).await;
            }
        }
    }
}

/// Serves the connections that other workers hand over, until the worker stops and the channel is empty.
pub(crate) async fn receive_handed_over(
    mut incoming: UnboundedReceiver<HandedOver>,
    acceptor: Rc<Acceptor>,
    stop: CancellationToken,
) {
    loop {
        let received = tokio::select! {
            biased;
            received = incoming.recv() => received,
            () = stop.cancelled(), if !incoming.is_closed() => {
                // From now on the other workers keep their connections.
                incoming.close();
                continue;
            }
        };
        let Some(connection) = received else { return };
        let Some(worker) = acceptor.current.worker() else { return };
        let occupied = acceptor.handle.occupied();
        match connection.with_stream(TcpStream::from_std) {
            Ok(connection) => acceptor.serve(connection, occupied, worker),
            Err(error) => warn!(%error, "cannot serve a connection that another worker has accepted"),
        }
    }
}

impl Acceptor {
    /// Counts a connection against the limits. When the total limit is reached, idle connections are closed to make
    /// room.
    fn admit(self: &Rc<Self>, peer: SocketAddr, worker: &Worker) -> Option<Admitted> {
        let trusted = worker.gateway.trusts(peer.ip());
        let admit = |leaving| self.admission.admit(peer.ip(), trusted, leaving);
        let admitted = match admit(0) {
            // Connections that are being evicted no longer count.
            Err(Full::All) => admit(worker.drain.evicted()).or_else(|_| {
                worker.drain.evict(MAX_EVICTED_AT_ONCE);
                admit(worker.drain.evicted())
            }),
            admitted => admitted,
        };
        admitted.inspect_err(|full| self.reject(peer, *full, worker)).ok()
    }

    fn reject(self: &Rc<Self>, peer: SocketAddr, full: Full, worker: &Worker) {
        debug!(client = %peer.ip(), limit = full.name(), "a connection was turned away");
        worker.counters.connections_rejected.inc();
        let before = self.rejected.replace(self.rejected.get() + 1);
        if before == 0 {
            tokio::task::spawn_local(self.clone().log_rejected(full));
        }
    }

    async fn log_rejected(self: Rc<Self>, full: Full) {
        tokio::time::sleep(REJECTED_LOG_INTERVAL).await;
        let count = self.rejected.take();
        warn!(count, limit = full.name(), "connections were turned away");
    }

    /// Hands a connection over to another worker, or serves it here when that worker has ended.
    fn hand_over(self: &Rc<Self>, connection: Accepted, other: &WorkerHandle, worker: Rc<Worker>) {
        let handed_over =
            connection.with_stream(TcpStream::into_std).map(|connection| other.take_over(connection));
        let returned = match handed_over {
            Ok(Ok(())) => return,
            Ok(Err(returned)) => returned.with_stream(TcpStream::from_std),
            Err(error) => Err(error),
        };
        match returned {
            Ok(connection) => self.serve(connection, self.handle.occupy(), worker),
            Err(error) => warn!(%error, "cannot hand a connection over to another worker"),
        }
    }

    /// Serves a connection in a task of its own.
    fn serve(self: &Rc<Self>, connection: Accepted, occupied: Occupied, worker: Rc<Worker>) {
        let acceptor = self.clone();
        self.connections.spawn_local(async move {
            let _occupied = occupied;
            let peer = connection.peer;
            if let Err(full) = handshake::serve(connection, &worker).await {
                acceptor.reject(peer, full, &worker);
            }
        });
    }
}
