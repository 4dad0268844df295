//! A request as it goes to the upstream.

use std::net::SocketAddr;

use crate::base::buffers::HeadBuffer;
use crate::codec::Length;
use crate::upstream::servers::Session;

/// Interim responses to one request; servers send one or two.
pub(crate) const MAX_INTERIM: usize = 16;

/// A request as it goes to the upstream.
#[derive(Debug)]
pub(crate) struct UpstreamRequest {
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
    pub(crate) session: Option<Session>,
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

impl UpstreamRequest {
    /// Whether it may be sent a second time when the first may have arrived (RFC 9110 section 9.2.2).
    pub(super) fn is_repeatable(&self) -> bool {
        self.method != Kind::Other && self.length == Length::Known(0) && !self.tunnel
    }
}
