//! HTTP/2. The h2 crate implements the protocol; each stream is a request.

mod connection;
mod coalescing_io;
mod response_progress;
mod request_body;
mod request_head;
mod response_head;
mod stream;
mod stream_windows;
mod flood_guard;

pub(crate) use connection::serve;
