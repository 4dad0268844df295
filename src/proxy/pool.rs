//! Idle upstream connections of one worker and one site, the most recently used first.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::proxy::connection::Connection;

/// More idle connections than this are closed.
const MAX_IDLE: usize = 512;

pub(super) struct Pool {
    idle: RefCell<Vec<(Box<Connection>, Instant)>>,
    keep: Duration,
}

impl Pool {
    pub(super) fn new(keep: Duration) -> Self {
        Self { idle: RefCell::default(), keep }
    }

    /// An idle connection that has not been closed.
    pub(super) fn take(&self) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        while let Some((mut connection, since)) = idle.pop() {
            if since.elapsed() < self.keep && connection.check_idle() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection after a response. Closes it if the pool is full.
    pub(super) fn put(&self, connection: Box<Connection>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_IDLE {
            idle.push((connection, Instant::now()));
        }
    }

    /// Closes connections that have been idle for too long or that the server has closed.
    pub(super) fn prune(&self) {
        self.idle
            .borrow_mut()
            .retain_mut(|(connection, since)| since.elapsed() < self.keep && connection.check_idle());
    }
}
