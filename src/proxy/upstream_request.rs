//! A request for the upstream.

use std::net::SocketAddr;

use crate::base::buffers::HeadBuffer;
use crate::codec::Length;
use crate::upstream::servers::Session;

/// The maximum number of interim responses to one request. Servers send one or two.
pub(crate) const MAX_INTERIM: usize = 16;

/// A request for the upstream.
#[derive(Debug)]
pub(crate) struct UpstreamRequest {
    /// The request head, kept for a retry until the response begins.
    pub(crate) head: HeadBuffer,
    pub(crate) length: Length,
    pub(crate) method: Kind,
    /// The whole request has been received, so iMIS can begin to work on it at once.
    pub(crate) whole: bool,
    /// The request asks for a WebSocket.
    pub(crate) tunnel: bool,
    /// The request authenticates its connection (Windows authentication).
    pub(crate) signs_in: bool,
    /// The client's address.
    pub(crate) client: SocketAddr,
    /// The server that its session is on.
    pub(crate) session: Option<Session>,
}

/// The kind of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its response has no body.
    Head,
    /// GET and OPTIONS, which are safe (RFC 9110 section 9.2.1).
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
    /// Whether it may be sent again although the upstream may have received it (RFC 9110 section 9.2.2).
    pub(super) fn is_repeatable(&self) -> bool {
        self.method != Kind::Other && self.length == Length::Known(0) && !self.tunnel
    }
}
