//! Forwarding: the request goes to iMIS as it came, the response comes back as it was made.
//!
//! Only hop-by-hop headers, framing and the documented forwarding headers differ (`headers`).

pub(crate) mod connection;
pub(crate) mod exchange;
pub(crate) mod headers;
pub(crate) mod places;
mod pool;
pub(crate) mod upgrade;
mod websocket;
pub(crate) mod upstream;
pub(crate) mod windows;

use std::net::SocketAddr;

use crate::base::buffers::HeadBuffer;
use crate::codec::Length;

/// Interim responses to one request; servers send one or two.
pub(crate) const MOST_INTERIM: usize = 16;

/// A request as it goes to the upstream.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// The whole head, kept until there is an answer: an idle connection may turn out to be dead.
    pub(crate) head: HeadBuffer,
    pub(crate) length: Length,
    pub(crate) method: Kind,
    /// All of it is here: iMIS can work on it as soon as it has it.
    pub(crate) whole: bool,
    /// It asks for a WebSocket.
    pub(crate) tunnel: bool,
    /// It signs its connection in (Windows authentication).
    pub(crate) signs_in: bool,
    /// Whom it comes from.
    pub(crate) client: SocketAddr,
    /// The server that its session is on.
    pub(crate) session: Option<crate::upstream::servers::Session>,
}

/// What the method means for the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its response has no body.
    Head,
    /// GET and OPTIONS: changes nothing (RFC 9110 section 9.2.1).
    Safe,
    Other,
}

impl Kind {
    pub(crate) fn of(method: &str) -> Self {
        match method {
            "HEAD" => Self::Head,
            "GET" | "OPTIONS" => Self::Safe,
            _ => Self::Other,
        }
    }
}

impl Outgoing {
    /// Whether it may be sent a second time when the first may have arrived (RFC 9110 section 9.2.2).
    fn is_repeatable(&self) -> bool {
        self.method != Kind::Other && self.length == Length::Known(0) && !self.tunnel
    }
}
