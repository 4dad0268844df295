//! Spreading connections over the workers.
//!
//! The system gives a new connection to a worker by a hash of its addresses. With few connections that live long that
//! can leave one worker with all of them, so a worker that has clearly more than another hands a new one on. It costs
//! something only when it happens; requests know nothing of it.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::edge::admission::Admitted;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A connection on its way to another worker.
#[derive(Debug)]
pub(crate) struct HandedOver {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) tls: bool,
    pub(crate) admitted: Admitted,
}

/// All workers, as each of them sees the others.
#[derive(Debug)]
pub(crate) struct WorkerRegistry(Vec<Place>);

#[derive(Debug)]
struct Place {
    open: AtomicUsize,
    sender: UnboundedSender<HandedOver>,
}

/// One worker's view of the table.
#[derive(Debug, Clone)]
pub(crate) struct WorkerHandle {
    table: Arc<WorkerRegistry>,
    index: usize,
}

impl WorkerRegistry {
    /// A seat for each worker, with what the others will hand on to it.
    pub(crate) fn set(workers: usize) -> Vec<(WorkerHandle, UnboundedReceiver<HandedOver>)> {
        let (places, incoming): (Vec<_>, Vec<_>) = (0..workers)
            .map(|_| {
                let (sender, incoming) = unbounded_channel();
                (Place { open: AtomicUsize::new(0), sender }, incoming)
            })
            .unzip();
        let table = Arc::new(Self(places));
        incoming
            .into_iter()
            .enumerate()
            .map(|(index, incoming)| (WorkerHandle { table: table.clone(), index }, incoming))
            .collect()
    }
}

impl WorkerHandle {
    fn place(&self) -> &Place {
        &self.table.0[self.index]
    }

    /// The worker with the fewest connections, if this one has clearly more.
    pub(crate) fn elsewhere(&self) -> Option<WorkerHandle> {
        let open = |place: &Place| place.open.load(Ordering::Relaxed);
        let own = open(self.place());
        let (index, fewest) = self.table.0.iter().map(open).enumerate().min_by_key(|(_, open)| *open)?;
        // An eighth is chance; with few connections one is much.
        (own > fewest + own / 8).then(|| WorkerHandle { table: self.table.clone(), index })
    }

    /// Takes a connection that another worker has accepted; back comes what an ended worker cannot take.
    pub(crate) fn take_over(&self, connection: HandedOver) -> Result<(), HandedOver> {
        // It counts from now on, so that many at once do not all go to the same worker.
        self.place().open.fetch_add(1, Ordering::Relaxed);
        self.place().sender.send(connection).map_err(|returned| {
            // The worker has ended: no connection is handed over to it again.
            self.place().open.store(usize::MAX / 2, Ordering::Relaxed);
            returned.0
        })
    }

    /// A connection of this worker's, until it is dropped.
    pub(crate) fn occupy(&self) -> Occupied {
        self.place().open.fetch_add(1, Ordering::Relaxed);
        self.occupied()
    }

    /// One that `take_over` has counted.
    pub(crate) fn occupied(&self) -> Occupied {
        Occupied(self.clone())
    }
}

/// Counts one connection of a worker.
#[derive(Debug)]
pub(crate) struct Occupied(WorkerHandle);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.place().open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::edge::admission::Admission;

    fn seats(workers: usize) -> Vec<WorkerHandle> {
        WorkerRegistry::set(workers).into_iter().map(|(seat, _)| seat).collect()
    }

    fn better(seat: &WorkerHandle) -> Option<usize> {
        seat.elsewhere().map(|seat| seat.index)
    }

    #[test]
    fn a_connection_goes_elsewhere_when_that_evens_things_out() {
        let seats = seats(3);
        assert_eq!(better(&seats[0]), None, "all are idle");
        let held: Vec<_> = (0..4).map(|_| seats[0].occupy()).collect();
        assert_eq!(better(&seats[0]), Some(1));
        assert_eq!(better(&seats[1]), None, "it has fewer itself");
        let _more: Vec<_> = (0..4).flat_map(|_| [seats[1].occupy(), seats[2].occupy()]).collect();
        assert_eq!(better(&seats[0]), None, "four each");
        drop(held);
        assert_eq!(better(&seats[1]), Some(0), "connections that end count no more");
    }

    #[test]
    fn among_many_connections_a_few_more_are_let_be() {
        let seats = seats(2);
        let _there: Vec<_> = (0..100).map(|_| seats[1].occupy()).collect();
        let mut here: Vec<_> = (0..110).map(|_| seats[0].occupy()).collect();
        assert_eq!(better(&seats[0]), None);
        here.extend((0..20).map(|_| seats[0].occupy()));
        assert_eq!(better(&seats[0]), Some(1));
    }

    #[test]
    fn an_ended_worker_gives_back_what_it_is_handed_and_is_asked_no_more() {
        // The receivers are gone, as with the threads that had them.
        let seats = seats(2);
        let _held: Vec<_> = (0..4).map(|_| seats[0].occupy()).collect();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap();
        let stream = TcpStream::connect(peer).unwrap();
        let other = seats[0].elsewhere().unwrap();
        let limits = Limits { connections: 1, connections_per_address: 1, min_body_rate: 0 };
        let admitted = Admission::new(limits).admit(peer.ip(), false, 0).unwrap();
        assert!(other.take_over(HandedOver { stream, peer, tls: true, admitted }).is_err());
        assert_eq!(better(&seats[0]), None);
    }
}
