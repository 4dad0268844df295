//! Balances connections between the workers.
//!
//! The kernel assigns a new connection to a worker by a hash of its addresses. With few long-lived connections, that
//! can leave one worker with all of them. A worker that has clearly more connections than another therefore hands a
//! new one over.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::edge::handshake::Accepted;

/// A connection that one worker has accepted and another one serves.
pub(crate) type HandedOver = Accepted<TcpStream>;

/// The load of all workers, and a channel to each of them.
#[derive(Debug)]
pub(crate) struct WorkerRegistry(Vec<WorkerEntry>);

#[derive(Debug)]
struct WorkerEntry {
    /// The number of open connections.
    open: AtomicUsize,
    sender: UnboundedSender<HandedOver>,
}

/// The entry of one worker.
#[derive(Debug, Clone)]
pub(crate) struct WorkerHandle {
    registry: Arc<WorkerRegistry>,
    index: usize,
}

impl WorkerRegistry {
    /// A handle for each worker, and the channel on which it receives connections.
    pub(crate) fn set(workers: usize) -> Vec<(WorkerHandle, UnboundedReceiver<HandedOver>)> {
        let (entries, incoming): (Vec<_>, Vec<_>) = (0..workers)
            .map(|_| {
                let (sender, incoming) = unbounded_channel();
                (WorkerEntry { open: AtomicUsize::new(0), sender }, incoming)
            })
            .unzip();
        let registry = Arc::new(Self(entries));
        incoming
            .into_iter()
            .enumerate()
            .map(|(index, incoming)| (WorkerHandle { registry: registry.clone(), index }, incoming))
            .collect()
    }
}

impl WorkerHandle {
    fn entry(&self) -> &WorkerEntry {
        &self.registry.0[self.index]
    }

    /// The worker with the fewest connections, if this one has clearly more.
    pub(crate) fn elsewhere(&self) -> Option<WorkerHandle> {
        let open = |entry: &WorkerEntry| entry.open.load(Ordering::Relaxed);
        let own = open(self.entry());
        let (index, fewest) = self.registry.0.iter().map(open).enumerate().min_by_key(|(_, open)| *open)?;
        // A difference of an eighth or less is not worth a hand-over.
        (own > fewest + own / 8).then(|| WorkerHandle { registry: self.registry.clone(), index })
    }

    /// Sends a connection to this worker. Returns it if the worker has ended.
    pub(crate) fn take_over(&self, connection: HandedOver) -> Result<(), HandedOver> {
        // It counts from now on, so that a burst of connections does not go to the same worker.
        self.entry().open.fetch_add(1, Ordering::Relaxed);
        self.entry().sender.send(connection).map_err(|returned| {
            // The worker has ended: no connection is handed over to it again.
            self.entry().open.store(usize::MAX / 2, Ordering::Relaxed);
            returned.0
        })
    }

    /// Counts a connection that this worker has accepted.
    pub(crate) fn occupy(&self) -> Occupied {
        self.entry().open.fetch_add(1, Ordering::Relaxed);
        self.occupied()
    }

    /// The guard of a connection that `take_over` has counted.
    pub(crate) fn occupied(&self) -> Occupied {
        Occupied(self.clone())
    }
}

/// Counts one connection of a worker until it is dropped.
#[derive(Debug)]
pub(crate) struct Occupied(WorkerHandle);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.entry().open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::edge::admission::Admission;

    /// Handles whose receivers have been dropped, as when the workers have ended.
    fn handles(workers: usize) -> Vec<WorkerHandle> {
        WorkerRegistry::set(workers).into_iter().map(|(handle, _)| handle).collect()
    }

    fn target(handle: &WorkerHandle) -> Option<usize> {
        handle.elsewhere().map(|other| other.index)
    }

    #[test]
    fn a_worker_with_more_connections_hands_new_ones_over() {
        let workers = handles(3);
        assert_eq!(target(&workers[0]), None, "all are idle");
        let held: Vec<_> = (0..4).map(|_| workers[0].occupy()).collect();
        assert_eq!(target(&workers[0]), Some(1));
        assert_eq!(target(&workers[1]), None, "it has fewer connections itself");
        let _more: Vec<_> = (0..4).flat_map(|_| [workers[1].occupy(), workers[2].occupy()]).collect();
        assert_eq!(target(&workers[0]), None, "each has four");
        drop(held);
        assert_eq!(target(&workers[1]), Some(0), "closed connections do not count");
    }

    #[test]
    fn a_small_difference_between_many_connections_is_ignored() {
        let workers = handles(2);
        let _other: Vec<_> = (0..100).map(|_| workers[1].occupy()).collect();
        let mut own: Vec<_> = (0..110).map(|_| workers[0].occupy()).collect();
        assert_eq!(target(&workers[0]), None);
        own.extend((0..20).map(|_| workers[0].occupy()));
        assert_eq!(target(&workers[0]), Some(1));
    }

    #[test]
    fn an_ended_worker_returns_the_connection_and_gets_no_more() {
        let workers = handles(2);
        let _held: Vec<_> = (0..4).map(|_| workers[0].occupy()).collect();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap();
        let stream = TcpStream::connect(peer).unwrap();
        let other = workers[0].elsewhere().unwrap();
        let limits = Limits { connections: 1, connections_per_address: 1, min_body_rate: 0 };
        let admitted = Admission::new(limits).admit(peer.ip(), false, 0).unwrap();
        assert!(other.take_over(HandedOver { stream, peer, tls: true, admitted }).is_err());
        assert_eq!(target(&workers[0]), None);
    }
}
