//! Forwarding: the request goes to iMIS as it came, the response comes back as it was made.
//!
//! Only hop-by-hop headers, framing and the documented forwarding headers differ (`headers`).

pub(crate) mod upstream_request;
pub(crate) mod error;
pub(crate) mod connection;
pub(crate) mod exchange;
pub(crate) mod headers;
pub(crate) mod concurrency_limit;
mod pool;
pub(crate) mod websocket_tunnel;
mod websocket_frames;
pub(crate) mod upstream;
pub(crate) mod connection_auth;
