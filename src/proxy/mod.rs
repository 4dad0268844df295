//! Forwarding: the request goes to iMIS as it came, the response comes back as it was made.
//!
//! Only hop-by-hop headers, framing and the documented forwarding headers differ (`headers`).

pub(crate) mod upstream_request;
pub(crate) mod error;
pub(crate) mod connection;
pub(crate) mod exchange;
pub(crate) mod headers;
pub(crate) mod places;
mod pool;
pub(crate) mod upgrade;
mod websocket;
pub(crate) mod upstream;
pub(crate) mod windows;
