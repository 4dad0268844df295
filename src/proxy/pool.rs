//! Idle upstream connections of one worker and one site, the most recently used first.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;

use super::upload::Upload;

/// More idle connections than this are closed.
const MOST_IDLE: usize = 64;

/// See the module.
pub(super) struct Pool {
    idle: RefCell<Vec<(SendRequest<Upload>, Instant)>>,
    keep: Duration,
}

impl Pool {
    pub(super) fn new(keep: Duration) -> Self {
        Self { idle: RefCell::default(), keep }
    }

    /// A connection that was alive when last seen.
    pub(super) fn take(&self) -> Option<SendRequest<Upload>> {
        let mut idle = self.idle.borrow_mut();
        while let Some((connection, since)) = idle.pop() {
            if connection.is_ready() && since.elapsed() < self.keep {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose last response is over.
    pub(super) fn put(&self, connection: SendRequest<Upload>) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(connection, since)| !connection.is_closed() && since.elapsed() < self.keep);
        if idle.len() < MOST_IDLE {
            idle.push((connection, Instant::now()));
        }
    }
}
