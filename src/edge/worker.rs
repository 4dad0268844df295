//! One worker thread per core, with its own runtime, its own listening sockets and its own upstream connections.
//!
//! A request takes no lock except that of the concurrency limit of iMIS. A connection takes the lock that counts
//! connections. Sign-ins wait for iMIS, so they run on the control runtime.

use std::cell::Cell;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::base::clock;
use crate::edge::accept::{Acceptor, accept, receive_handed_over};
use crate::edge::admission::Admission;
use crate::edge::balance::{HandedOver, WorkerHandle};
use crate::request::gateway::Gateway;
use crate::request::worker::{CurrentWorker, Worker};

/// How long WebSockets have to send a close frame once the drain timeout has expired.
const CLOSE_FRAME_TIMEOUT: Duration = Duration::from_secs(3);
/// How often long requests to iMIS release their slots.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);
/// Idle upstream connections are closed in every this many maintenance rounds.
const PRUNE_EVERY: u32 = 5;

/// The listening sockets of one worker.
pub(crate) struct Sockets {
    pub(crate) https: Vec<TcpListener>,
    pub(crate) http: Vec<TcpListener>,
}

/// A new configuration for a running worker.
pub(crate) struct ConfigUpdate {
    pub(crate) gateway: Arc<Gateway>,
    /// Notified once all new requests use it.
    pub(crate) applied: oneshot::Sender<()>,
}

/// The arguments of a worker.
pub(crate) struct Start {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) sockets: Sockets,
    pub(crate) control: Handle,
    pub(crate) drain: CancellationToken,
    /// Its handle in the registry of workers, and the connections that others hand over to it.
    pub(crate) handle: (WorkerHandle, UnboundedReceiver<HandedOver>),
    pub(crate) updates: UnboundedReceiver<ConfigUpdate>,
    /// Incremented every second, for the watchdog.
    pub(crate) heartbeat: Arc<AtomicU64>,
}

/// Starts a worker. Its thread ends once it is drained or the drain timeout has expired, and returns whether every
/// request finished.
pub(crate) fn spawn(index: usize, start: Start) -> std::io::Result<std::thread::JoinHandle<bool>> {
    let random = clock::random_u64().map_err(std::io::Error::other)?;
    let (started, starting) = mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        // A local runtime has to be built on its thread.
        let runtime = match Builder::new_current_thread().enable_all().build_local(Default::default()) {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = started.send(Err(error));
                return false;
            }
        };
        runtime.block_on(run(index, start, random, started))
    })?;
    match starting.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(std::io::Error::other("a worker ended while it started")),
    }
}

async fn run(
    index: usize,
    start: Start,
    request_id_prefix: u64,
    started: mpsc::Sender<std::io::Result<()>>,
) -> bool {
    let Start { gateway, admission, sockets, control, drain: stop, handle, updates, heartbeat } = start;
    let (handle, incoming) = handle;
    let worker = Worker::new(gateway, control, index, request_id_prefix);
    let (drain, connections) = (worker.drain.clone(), TaskTracker::new());
    let acceptor = Rc::new(Acceptor {
        current: worker.publish(),
        admission,
        connections: connections.clone(),
        handle,
        rejected: Cell::new(0),
    });
    let current = acceptor.current.clone();
    let arriving = TaskTracker::new();
    for (sockets, tls) in [(sockets.https, true), (sockets.http, false)] {
        for socket in sockets {
            match tokio::net::TcpListener::from_std(socket) {
                Ok(socket) => arriving.spawn_local(accept(socket, acceptor.clone(), stop.clone(), tls)),
                Err(error) => {
                    let _ = started.send(Err(error));
                    return false;
                }
            };
        }
    }
    arriving.spawn_local(receive_handed_over(incoming, acceptor, stop.clone()));
    arriving.close();
    tokio::task::spawn_local(maintain(current.clone(), heartbeat));
    tokio::task::spawn_local(apply_updates(updates, current.clone()));
    let _ = started.send(Ok(()));
    stop.cancelled().await;
    drain.begin();
    let timeout = current.worker().map_or(Duration::ZERO, |worker| worker.gateway.timeouts.drain);
    let ending = async {
        arriving.wait().await;
        connections.close();
        connections.wait().await;
    };
    let mut all_ended = tokio::time::timeout(timeout, ending).await.is_ok();
    if !all_ended {
        // WebSockets do not end by themselves.
        drain.close();
        connections.close();
        all_ended = tokio::time::timeout(CLOSE_FRAME_TIMEOUT, connections.wait()).await.is_ok();
    }
    current.end();
    all_ended && !drain.has_aborted()
}

async fn maintain(current: Rc<CurrentWorker>, heartbeat: Arc<AtomicU64>) {
    for round in (1..=PRUNE_EVERY).cycle() {
        heartbeat.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(MAINTENANCE_INTERVAL).await;
        for upstream in current.upstreams() {
            upstream.held.release_long();
            if round == PRUNE_EVERY {
                upstream.prune();
            }
        }
    }
}

/// Applies new configurations until the worker ends.
async fn apply_updates(mut updates: UnboundedReceiver<ConfigUpdate>, current: Rc<CurrentWorker>) {
    while let Some(update) = updates.recv().await {
        current.apply(update.gateway);
        // Fails if the reload no longer waits.
        let _ = update.applied.send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn a_panic_ends_only_the_task_that_panicked() {
        let runtime = Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
        let connections = TaskTracker::new();
        let served = Rc::new(Cell::new(0));
        runtime.block_on(async {
            for number in 0..10 {
                let served = served.clone();
                connections.spawn_local(async move {
                    tokio::task::yield_now().await;
                    assert_ne!(number, 3, "as a request might");
                    served.set(served.get() + 1);
                });
            }
            connections.close();
            connections.wait().await;
        });
        assert_eq!(served.get(), 9);
    }
}
