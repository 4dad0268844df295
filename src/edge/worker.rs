//! One worker a core: a thread with its own runtime, its own listening sockets and its own upstream connections.
//!
//! A request locks nothing but the count of places at iMIS (`proxy/places.rs`), a connection the count of connections. What waits on iMIS for a sign-in runs on the control runtime instead.

use std::cell::{Cell, RefCell};
use std::net::TcpListener;
use std::rc::{Rc, Weak};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::base::buffers::Buffers;
use crate::base::clock;
use crate::base::drain::Drain;
use crate::base::request_id::Incident;
use crate::edge::accept;
use crate::edge::balance::{HandedOn, Seat};
use crate::observe::traffic::{OfSite, OfWorker};
use crate::proxy::upstream::Upstream;
use crate::server::gateway::{Gateway, Site};
use crate::server::systemd::Pulse;

/// How long WebSockets have for a last frame once the grace is over.
const LAST_FRAMES: Duration = Duration::from_secs(3);
/// How often what is under way at iMIS is looked over, and every so many times what is idle.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const PRUNE_EVERY: u32 = 5;

/// What the connections of one worker have at hand, under one configuration. A reload makes another, and what is not the configuration's
/// they share; a request keeps the one that it began with.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) gateway: Arc<Gateway>,
    /// One per site, in the order of the sites.
    pub(crate) upstreams: Vec<Rc<Upstream>>,
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
    pub(crate) turned_away: Rc<Cell<u64>>,
    /// Its number among the others.
    index: usize,
    /// What it counts: one per site, in the order of the sites, and of what is none's.
    traffic: Vec<Arc<OfSite>>,
    of_no_site: Arc<OfSite>,
    pub(crate) of_worker: Arc<OfWorker>,
    incident_prefix: u64,
    incident_counter: Rc<Cell<u64>>,
    newest: Rc<Newest>,
}

/// The worker under the configuration of now, and what older ones still have under way at iMIS.
#[derive(Default)]
pub(crate) struct Newest {
    worker: RefCell<Option<Rc<Worker>>>,
    retired: RefCell<Vec<Weak<Upstream>>>,
}

impl Worker {
    /// A number that names one request in logs, on pages and towards iMIS.
    pub(crate) fn next_incident(&self) -> Incident {
        let count = self.incident_counter.get();
        self.incident_counter.set(count + 1);
        Incident::new(self.incident_prefix, count)
    }

    /// What is counted of a site, or of none.
    pub(crate) fn traffic_of(&self, site: Option<usize>) -> &OfSite {
        site.map_or(&self.of_no_site, |site| &self.traffic[site])
    }

    /// The worker under the configuration of now, if that is another.
    pub(crate) fn newer(&self) -> Option<Rc<Worker>> {
        let newest = self.newest.worker.borrow();
        newest.as_ref().filter(|newest| !Arc::ptr_eq(&newest.gateway, &self.gateway)).cloned()
    }

    /// The worker under another configuration. Connections to servers that are used as before are kept.
    fn under(&self, gateway: Arc<Gateway>) -> Self {
        let upstreams = gateway.sites.iter().map(|site| {
            let same = |upstream: &&Rc<Upstream>| upstream.serves(site, gateway.limits);
            let kept = self.upstreams.iter().find(same).cloned();
            kept.unwrap_or_else(|| Rc::new(upstream(site, &gateway, self.index, &self.buffers)))
        });
        let traffic = traffic(&gateway, self.index);
        Self { upstreams: upstreams.collect(), traffic, gateway: gateway.clone(), ..self.clone() }
    }

    fn take_up(&self, renewal: Renewal) {
        let next = Rc::new(self.under(renewal.gateway));
        let mut retired = self.newest.retired.borrow_mut();
        retired.retain(|upstream| upstream.strong_count() > 0);
        let is_kept = |upstream: &&Rc<Upstream>| next.upstreams.iter().any(|kept| Rc::ptr_eq(kept, upstream));
        retired.extend(self.upstreams.iter().filter(|upstream| !is_kept(upstream)).map(Rc::downgrade));
        self.newest.become_of(Some(next));
        // Whoever reloads may have given up.
        let _ = renewal.taken_up.send(());
    }
}

/// The sockets of one worker.
pub(crate) struct Sockets {
    pub(crate) https: Vec<TcpListener>,
    pub(crate) http: Vec<TcpListener>,
}

/// Another configuration, for a worker to take up.
pub(crate) struct Renewal {
    pub(crate) gateway: Arc<Gateway>,
    /// Told once every request that begins is served under it.
    pub(crate) taken_up: oneshot::Sender<()>,
}

/// What a worker is started with.
pub(crate) struct Start {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) sockets: Sockets,
    pub(crate) control: Handle,
    pub(crate) drain: CancellationToken,
    /// Its place among the others, and what they hand on to it.
    pub(crate) seat: (Seat, UnboundedReceiver<HandedOn>),
    pub(crate) renewals: UnboundedReceiver<Renewal>,
    pub(crate) pulse: Pulse,
}

/// Starts a worker. Its thread ends once it is drained, or when the grace is over; `true` means nothing was cut off.
pub(crate) fn spawn(index: usize, start: Start) -> std::io::Result<std::thread::JoinHandle<bool>> {
    let random = clock::random_u64().map_err(std::io::Error::other)?;
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
        runtime.block_on(run(index, start, random, started))
    })?;
    match starting.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(std::io::Error::other("a worker ended at its start")),
    }
}

fn upstream(site: &Site, gateway: &Gateway, index: usize, buffers: &Rc<Buffers>) -> Upstream {
    let traffic = gateway.metrics.traffic.of_site(&site.config.hosts[0], index);
    Upstream::new(site, buffers.clone(), gateway.limits, traffic)
}

fn traffic(gateway: &Gateway, index: usize) -> Vec<Arc<OfSite>> {
    let names = gateway.sites.iter().map(|site| &site.config.hosts[0]);
    names.map(|name| gateway.metrics.traffic.of_site(name, index)).collect()
}

async fn run(
    index: usize,
    start: Start,
    incident_prefix: u64,
    started: mpsc::Sender<std::io::Result<()>>,
) -> bool {
    let Start { gateway, sockets, control, drain: stop, seat: (seat, incoming), renewals, pulse } = start;
    let buffers = Rc::new(Buffers::default());
    let worker = Rc::new(Worker {
        upstreams: gateway
            .sites
            .iter()
            .map(|site| Rc::new(upstream(site, &gateway, index, &buffers)))
            .collect(),
        index,
        traffic: traffic(&gateway, index),
        of_no_site: gateway.metrics.traffic.of_site("", index),
        of_worker: gateway.metrics.traffic.of_worker(index),
        buffers,
        control,
        drain: Rc::default(),
        connections: TaskTracker::new(),
        seat,
        turned_away: Rc::default(),
        incident_prefix,
        incident_counter: Rc::default(),
        newest: Rc::default(),
        gateway,
    });
    let (newest, drain, connections) =
        (worker.newest.clone(), worker.drain.clone(), worker.connections.clone());
    // From here on nothing holds the first configuration but what is served under it.
    newest.become_of(Some(worker));
    let adopted = (adopt(sockets.https), adopt(sockets.http));
    let (https, http) = match adopted {
        (Ok(https), Ok(http)) => (https, http),
        (Err(error), _) | (_, Err(error)) => {
            let _ = started.send(Err(error));
            return false;
        }
    };
    let arriving = TaskTracker::new();
    for socket in https {
        arriving.spawn_local(accept::accept_https(socket, newest.clone(), stop.clone()));
    }
    for socket in http {
        arriving.spawn_local(accept::accept_http(socket, newest.clone(), stop.clone()));
    }
    arriving.spawn_local(accept::take_over(incoming, newest.clone(), stop.clone()));
    arriving.close();
    tokio::task::spawn_local(prune(newest.clone(), pulse));
    tokio::task::spawn_local(take_up_all(renewals, newest.clone()));
    let _ = started.send(Ok(()));
    stop.cancelled().await;
    drain.begin();
    let grace = newest.worker().map_or(Duration::ZERO, |worker| worker.gateway.timeouts.drain);
    let ending = async {
        arriving.wait().await;
        connections.close();
        connections.wait().await;
    };
    let mut all_ended = tokio::time::timeout(grace, ending).await.is_ok();
    if !all_ended {
        // WebSockets have no end of their own.
        drain.close();
        connections.close();
        all_ended = tokio::time::timeout(LAST_FRAMES, connections.wait()).await.is_ok();
    }
    newest.become_of(None);
    all_ended && !drain.has_cut()
}

async fn prune(newest: Rc<Newest>, pulse: Pulse) {
    for look in (1..=PRUNE_EVERY).cycle() {
        pulse.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(LOOK_EVERY).await;
        for upstream in newest.upstreams() {
            upstream.release_long();
            if look == PRUNE_EVERY {
                upstream.prune();
            }
        }
    }
}

impl Newest {
    /// None once the worker has ended.
    pub(crate) fn worker(&self) -> Option<Rc<Worker>> {
        self.worker.borrow().clone()
    }

    fn become_of(&self, worker: Option<Rc<Worker>>) {
        // Dropped when nothing is borrowed: it may be the last of its kind.
        let before = self.worker.replace(worker);
        drop(before);
    }

    /// Those of now and those that still have something under way.
    fn upstreams(&self) -> Vec<Rc<Upstream>> {
        let retired = self.retired.borrow();
        let retired = retired.iter().filter_map(Weak::upgrade);
        let current = self.worker.borrow();
        retired.chain(current.iter().flat_map(|worker| worker.upstreams.iter().cloned())).collect()
    }
}

/// Takes up one configuration after the other, as long as the worker runs.
async fn take_up_all(mut renewals: UnboundedReceiver<Renewal>, newest: Rc<Newest>) {
    while let Some(renewal) = renewals.recv().await {
        if let Some(worker) = newest.worker() {
            worker.take_up(renewal);
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
