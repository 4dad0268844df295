//! One worker a core: a thread with its own runtime, its own listening sockets and its own upstream connections.
//!
//! Workers share nothing that is locked. What waits on iMIS for a sign-in runs on the control runtime instead.

use std::cell::Cell;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ambient;
use crate::gateway::Gateway;
use crate::listener;
use crate::proxy::upstream::Upstream;

/// What the connections of one worker have at hand.
pub(crate) struct Worker {
    pub(crate) gateway: Arc<Gateway>,
    /// One per site, in the order of the sites.
    pub(crate) upstreams: Vec<Upstream>,
    /// Where sign-ins run.
    pub(crate) control: Handle,
    /// Cancelled when the gateway stops accepting and finishes what it has.
    pub(crate) drain: CancellationToken,
    /// Connections of browsers, WebSockets included.
    pub(crate) connections: TaskTracker,
    incident_prefix: String,
    incident_counter: Cell<u64>,
}

impl Worker {
    /// A number that names one request in logs, on pages and towards iMIS.
    pub(crate) fn next_incident(&self) -> String {
        let count = self.incident_counter.get();
        self.incident_counter.set(count + 1);
        format!("{}-{count:x}", self.incident_prefix)
    }
}

/// The sockets of one worker.
pub(crate) struct Sockets {
    pub(crate) https: Vec<TcpListener>,
    pub(crate) http: Vec<TcpListener>,
}

/// Starts a worker. Its thread ends once it is drained, or when `grace` is over; `true` means nothing was cut off.
pub(crate) fn spawn(
    index: usize,
    gateway: Arc<Gateway>,
    sockets: Sockets,
    control: Handle,
    drain: CancellationToken,
    grace: Duration,
) -> std::io::Result<std::thread::JoinHandle<bool>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let random = ambient::random_hex().map_err(std::io::Error::other)?;
    let https =
        sockets.https.into_iter().map(|socket| adopt(&runtime, socket)).collect::<Result<Vec<_>, _>>()?;
    let http =
        sockets.http.into_iter().map(|socket| adopt(&runtime, socket)).collect::<Result<Vec<_>, _>>()?;
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let worker = Rc::new(Worker {
            upstreams: gateway.sites.iter().map(Upstream::new).collect(),
            gateway,
            control,
            drain,
            connections: TaskTracker::new(),
            incident_prefix: random[..10].to_owned(),
            incident_counter: Cell::new(0),
        });
        LocalSet::new().block_on(&runtime, async move {
            for socket in https {
                tokio::task::spawn_local(listener::accept_https(socket, worker.clone()));
            }
            for socket in http {
                tokio::task::spawn_local(listener::accept_http(socket, worker.clone()));
            }
            worker.drain.cancelled().await;
            worker.connections.close();
            tokio::time::timeout(grace, worker.connections.wait()).await.is_ok()
        })
    })
}

fn adopt(runtime: &runtime::Runtime, socket: TcpListener) -> std::io::Result<tokio::net::TcpListener> {
    let _context = runtime.enter();
    tokio::net::TcpListener::from_std(socket)
}
