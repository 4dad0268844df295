//! Spreading connections over the workers.
//!
//! The system gives a new connection to a worker by a hash of its addresses. With few connections that live long that can
//! leave one worker with all of them, so a worker that has clearly more than another hands a new one on. It costs something
//! only when it happens; requests know nothing of it.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A connection on its way to another worker.
#[derive(Debug)]
pub(crate) struct HandedOn {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) tls: bool,
}

/// All workers, as each of them sees the others.
#[derive(Debug)]
pub(crate) struct Table {
    seats: Vec<Chair>,
}

#[derive(Debug)]
struct Chair {
    open: AtomicUsize,
    door: UnboundedSender<HandedOn>,
    incoming: std::sync::Mutex<Option<UnboundedReceiver<HandedOn>>>,
}

/// One worker's place.
#[derive(Debug)]
pub(crate) struct Seat {
    table: Arc<Table>,
    index: usize,
}

impl Table {
    pub(crate) fn new(workers: usize) -> Arc<Self> {
        let seats = (0..workers)
            .map(|_| {
                let (door, incoming) = unbounded_channel();
                Chair { open: AtomicUsize::new(0), door, incoming: std::sync::Mutex::new(Some(incoming)) }
            })
            .collect();
        Arc::new(Self { seats })
    }

    pub(crate) fn seat(self: &Arc<Self>, index: usize) -> Seat {
        Seat { table: self.clone(), index }
    }

    /// The worker with the fewest connections, if `index` has clearly more.
    fn better_than(&self, index: usize) -> Option<usize> {
        let open = |chair: &Chair| chair.open.load(Ordering::Relaxed);
        let own = open(&self.seats[index]);
        let (least, fewest) = self.seats.iter().map(open).enumerate().min_by_key(|(_, open)| *open)?;
        // An eighth is chance; with few connections one is much.
        (own > fewest + own / 8).then_some(least)
    }
}

impl Seat {
    /// What others hand on to this worker; once.
    pub(crate) fn incoming(&self) -> Option<UnboundedReceiver<HandedOn>> {
        self.table.seats[self.index].incoming.lock().ok()?.take()
    }

    /// Where a new connection had better go; none: it stays.
    pub(crate) fn elsewhere(&self) -> Option<usize> {
        self.table.better_than(self.index)
    }

    /// Hands a connection on.
    pub(crate) fn hand_on(&self, to: usize, connection: HandedOn) {
        // It counts there from now on, so that many at once do not all go to the same worker.
        self.table.seats[to].open.fetch_add(1, Ordering::Relaxed);
        // A worker that has ended takes nothing; its end is the gateway's.
        let _ = self.table.seats[to].door.send(connection);
    }

    /// A connection of this worker's, until it is dropped.
    pub(crate) fn occupy(&self) -> Occupied {
        self.table.seats[self.index].open.fetch_add(1, Ordering::Relaxed);
        self.occupied()
    }

    /// One that `hand_on` has counted.
    pub(crate) fn occupied(&self) -> Occupied {
        Occupied(Seat { table: self.table.clone(), index: self.index })
    }
}

/// Counts one connection of a worker.
#[derive(Debug)]
pub(crate) struct Occupied(Seat);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.table.seats[self.0.index].open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_goes_elsewhere_when_that_evens_things_out() {
        let table = Table::new(3);
        let seats = [table.seat(0), table.seat(1), table.seat(2)];
        assert_eq!(seats[0].elsewhere(), None, "all are idle");
        let held: Vec<_> = (0..4).map(|_| seats[0].occupy()).collect();
        assert_eq!(seats[0].elsewhere(), Some(1));
        assert_eq!(seats[1].elsewhere(), None, "it has fewer itself");
        let _more: Vec<_> = (0..4).flat_map(|_| [seats[1].occupy(), seats[2].occupy()]).collect();
        assert_eq!(seats[0].elsewhere(), None, "four each");
        drop(held);
        assert_eq!(seats[1].elsewhere(), Some(0), "connections that end count no more");
    }

    #[test]
    fn among_many_connections_a_few_more_are_let_be() {
        let table = Table::new(2);
        let seats = [table.seat(0), table.seat(1)];
        let _there: Vec<_> = (0..100).map(|_| seats[1].occupy()).collect();
        let mut here: Vec<_> = (0..110).map(|_| seats[0].occupy()).collect();
        assert_eq!(seats[0].elsewhere(), None);
        here.extend((0..20).map(|_| seats[0].occupy()));
        assert_eq!(seats[0].elsewhere(), Some(1));
    }
}
