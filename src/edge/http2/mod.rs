//! HTTP/2: the h2 crate speaks the protocol, each stream is a request.

mod connection;
mod gather;
mod milestones;
mod request_body;
mod request_head;
mod stream;
mod watch;

pub(crate) use connection::serve;
