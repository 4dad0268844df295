//! Forwarding. Requests and responses are passed on unchanged, except for hop-by-hop headers, framing and the
//! documented forwarding headers (`headers`).

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
