//! The state of one worker thread with one configuration.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::base::buffers::Buffers;
use crate::base::drain::Drain;
use crate::base::request_id::RequestId;
use crate::observe::metrics::{SiteCounters, UpstreamCounters, WorkerCounters};
use crate::proxy::upstream::Upstream;
use crate::request::gateway::{Gateway, Site};

/// Shared by the requests of one worker thread. A reload creates a new one, which shares everything that does not
/// depend on the configuration. A request keeps the one that it started with.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) gateway: Arc<Gateway>,
    /// One per site, in the order of the sites.
    pub(crate) upstreams: Vec<Rc<Upstream>>,
    pub(crate) buffers: Rc<Buffers>,
    /// The runtime that sign-ins run on.
    pub(crate) control: Handle,
    /// Begins when the gateway stops accepting connections and finishes the requests in flight.
    pub(crate) drain: Rc<Drain>,
    /// The index of the worker thread.
    index: usize,
    /// One per site, in the order of the sites.
    site_counters: Vec<Rc<SiteCounters>>,
    /// For requests that belong to no site.
    no_site_counters: Rc<SiteCounters>,
    pub(crate) counters: Rc<WorkerCounters>,
    request_id_prefix: u64,
    request_id_counter: Rc<Cell<u64>>,
    current: Rc<CurrentWorker>,
}

/// The worker with the newest configuration, and the upstreams of older ones that still have requests in flight.
#[derive(Default)]
pub(crate) struct CurrentWorker {
    worker: RefCell<Option<Rc<Worker>>>,
    retired: RefCell<Vec<Weak<Upstream>>>,
}

impl Worker {
    /// `index`: of the worker thread. `request_id_prefix`: random.
    pub(crate) fn new(gateway: Arc<Gateway>, control: Handle, index: usize, request_id_prefix: u64) -> Self {
        let buffers = Rc::new(Buffers::default());
        let upstreams =
            gateway.sites.iter().map(|site| Rc::new(upstream(site, &gateway, index, &buffers))).collect();
        Self {
            upstreams,
            index,
            site_counters: site_counters(&gateway, index),
            no_site_counters: Rc::new(SiteCounters::new(&gateway.metrics, "", index)),
            counters: Rc::new(WorkerCounters::new(&gateway.metrics, index)),
            buffers,
            control,
            drain: Rc::default(),
            request_id_prefix,
            request_id_counter: Rc::default(),
            current: Rc::default(),
            gateway,
        }
    }

    /// The ID of the next request, for logs, pages and `X-Request-Id`.
    pub(crate) fn next_request_id(&self) -> RequestId {
        let count = self.request_id_counter.get();
        self.request_id_counter.set(count + 1);
        RequestId::new(self.request_id_prefix, count)
    }

    /// The counters of a site, or of requests that belong to none.
    pub(crate) fn counters_of(&self, site: Option<usize>) -> &SiteCounters {
        site.map_or(&self.no_site_counters, |site| &self.site_counters[site])
    }

    /// The worker with the newest configuration, if this one is outdated.
    pub(crate) fn newer(&self) -> Option<Rc<Worker>> {
        let current = self.current.worker.borrow();
        current.as_ref().filter(|current| !Arc::ptr_eq(&current.gateway, &self.gateway)).cloned()
    }

    /// Makes this worker serve new requests.
    pub(crate) fn publish(self) -> Rc<CurrentWorker> {
        let current = self.current.clone();
        current.replace(Some(Rc::new(self)));
        current
    }

    /// The worker with another configuration. Connections of unchanged upstreams are kept.
    fn with_gateway(&self, gateway: Arc<Gateway>) -> Self {
        let upstreams = gateway.sites.iter().map(|site| {
            let same = |upstream: &&Rc<Upstream>| upstream.serves(&site.concurrency_limit, gateway.limits);
            let kept = self.upstreams.iter().find(same).cloned();
            kept.unwrap_or_else(|| Rc::new(upstream(site, &gateway, self.index, &self.buffers)))
        });
        let site_counters = site_counters(&gateway, self.index);
        Self { upstreams: upstreams.collect(), site_counters, gateway: gateway.clone(), ..self.clone() }
    }
}

impl CurrentWorker {
    /// None once the worker has ended.
    pub(crate) fn worker(&self) -> Option<Rc<Worker>> {
        self.worker.borrow().clone()
    }

    /// Serves new requests with another configuration.
    pub(crate) fn apply(&self, gateway: Arc<Gateway>) {
        let Some(previous) = self.worker() else { return };
        let next = Rc::new(previous.with_gateway(gateway));
        let mut retired = self.retired.borrow_mut();
        retired.retain(|upstream| upstream.strong_count() > 0);
        let is_kept = |upstream: &&Rc<Upstream>| next.upstreams.iter().any(|kept| Rc::ptr_eq(kept, upstream));
        retired.extend(previous.upstreams.iter().filter(|upstream| !is_kept(upstream)).map(Rc::downgrade));
        drop(retired);
        self.replace(Some(next));
    }

    /// Stops serving new requests.
    pub(crate) fn end(&self) {
        self.replace(None);
    }

    /// The upstreams of the newest configuration, and those of older ones that still have requests in flight.
    pub(crate) fn upstreams(&self) -> Vec<Rc<Upstream>> {
        let retired = self.retired.borrow();
        let retired = retired.iter().filter_map(Weak::upgrade);
        let current = self.worker.borrow();
        retired.chain(current.iter().flat_map(|worker| worker.upstreams.iter().cloned())).collect()
    }

    fn replace(&self, worker: Option<Rc<Worker>>) {
        // Dropped after the borrow has ended, because it may be the last reference.
        let previous = self.worker.replace(worker);
        drop(previous);
    }
}

fn upstream(site: &Site, gateway: &Gateway, index: usize, buffers: &Rc<Buffers>) -> Upstream {
    let counters = UpstreamCounters::new(&gateway.metrics, site.name(), index);
    Upstream::new(&site.upstream, &site.concurrency_limit, buffers.clone(), gateway.limits, counters)
}

fn site_counters(gateway: &Gateway, index: usize) -> Vec<Rc<SiteCounters>> {
    let counters = |site: &Site| Rc::new(SiteCounters::new(&gateway.metrics, site.name(), index));
    gateway.sites.iter().map(counters).collect()
}
