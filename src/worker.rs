//! One worker a core: a thread with its own runtime, its own listening sockets and its own upstream connections.
//!
//! A request locks nothing but the count of places at iMIS (`proxy/places.rs`), a connection the count of connections. What waits on iMIS for a sign-in runs on the control runtime instead.

use std::cell::Cell;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::balance::{HandedOn, Seat};
use crate::buffers::Buffers;
use crate::drain::Drain;
use crate::gateway::Gateway;
use crate::incident::Incident;
use crate::proxy::upstream::Upstream;
use crate::{ambient, listener};

/// How often what is under way at iMIS is looked over, and every so many times what is idle.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const PRUNE_EVERY: u32 = 5;

/// What the connections of one worker have at hand.
pub(crate) struct Worker {
    pub(crate) gateway: Arc<Gateway>,
    /// One per site, in the order of the sites.
    pub(crate) upstreams: Vec<Upstream>,
    pub(crate) buffers: Rc<Buffers>,
    /// Where sign-ins run.
    pub(crate) control: Handle,
    /// Begins when the gateway stops accepting and finishes what it has.
    pub(crate) drain: Rc<Drain>,
    /// Connections of browsers, WebSockets included.
    pub(crate) connections: TaskTracker,
    /// Its place among the others.
    pub(crate) seat: Seat,
    /// Connections that were turned away since somebody was last told.
    pub(crate) turned_away: Cell<u64>,
    incident_prefix: u64,
    incident_counter: Cell<u64>,
}

impl Worker {
    /// A number that names one request in logs, on pages and towards iMIS.
    pub(crate) fn next_incident(&self) -> Incident {
        let count = self.incident_counter.get();
        self.incident_counter.set(count + 1);
        Incident::new(self.incident_prefix, count)
    }
}

/// The sockets of one worker.
pub(crate) struct Sockets {
    pub(crate) https: Vec<TcpListener>,
    pub(crate) http: Vec<TcpListener>,
}

/// What a worker is started with.
pub(crate) struct Start {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) sockets: Sockets,
    pub(crate) control: Handle,
    pub(crate) drain: CancellationToken,
    /// Its place among the others, and what they hand on to it.
    pub(crate) seat: (Seat, UnboundedReceiver<HandedOn>),
}

/// Starts a worker. Its thread ends once it is drained, or when the grace is over; `true` means nothing was cut off.
pub(crate) fn spawn(index: usize, start: Start) -> std::io::Result<std::thread::JoinHandle<bool>> {
    let random = ambient::random_u64().map_err(std::io::Error::other)?;
    let (started, starting) = mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        // A runtime for tasks that never leave their thread; it cannot be made elsewhere and brought here.
        let runtime = match Builder::new_current_thread().enable_all().build_local(Default::default()) {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = started.send(Err(error));
                return false;
            }
        };
        runtime.block_on(run(start, random, started))
    })?;
    match starting.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(std::io::Error::other("a worker ended at its start")),
    }
}

async fn run(start: Start, incident_prefix: u64, started: mpsc::Sender<std::io::Result<()>>) -> bool {
    let Start { gateway, sockets, control, drain: stop, seat: (seat, incoming) } = start;
    let buffers = Rc::new(Buffers::default());
    let worker = Rc::new(Worker {
        upstreams: gateway
            .sites
            .iter()
            .map(|site| Upstream::new(site, buffers.clone(), gateway.limits))
            .collect(),
        buffers,
        control,
        drain: Rc::default(),
        connections: TaskTracker::new(),
        seat,
        turned_away: Cell::new(0),
        incident_prefix,
        incident_counter: Cell::new(0),
        gateway,
    });
    let adopted = (adopt(sockets.https), adopt(sockets.http));
    let (https, http) = match adopted {
        (Ok(https), Ok(http)) => (https, http),
        (Err(error), _) | (_, Err(error)) => {
            let _ = started.send(Err(error));
            return false;
        }
    };
    for socket in https {
        tokio::task::spawn_local(listener::accept_https(socket, worker.clone(), stop.clone()));
    }
    for socket in http {
        tokio::task::spawn_local(listener::accept_http(socket, worker.clone(), stop.clone()));
    }
    tokio::task::spawn_local(listener::take_over(incoming, worker.clone()));
    tokio::task::spawn_local(prune(worker.clone()));
    let _ = started.send(Ok(()));
    stop.cancelled().await;
    worker.drain.begin();
    worker.connections.close();
    let grace = worker.gateway.timeouts.drain;
    tokio::time::timeout(grace, worker.connections.wait()).await.is_ok()
}

async fn prune(worker: Rc<Worker>) {
    for look in (1..=PRUNE_EVERY).cycle() {
        tokio::time::sleep(LOOK_EVERY).await;
        worker.upstreams.iter().for_each(Upstream::release_long);
        if look == PRUNE_EVERY {
            worker.upstreams.iter().for_each(Upstream::prune);
        }
    }
}

fn adopt(sockets: Vec<TcpListener>) -> std::io::Result<Vec<tokio::net::TcpListener>> {
    sockets.into_iter().map(tokio::net::TcpListener::from_std).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn a_panic_ends_what_panicked_and_nothing_else() {
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
