//! Client connections, from `accept` to the HTTP protocol that ALPN chose.

pub(crate) mod worker;
pub(crate) mod listen;
pub(crate) mod inherited_sockets;
pub(crate) mod accept;
pub(crate) mod admission;
pub(crate) mod balance;
pub(crate) mod proxy_protocol;
pub(crate) mod handshake;
pub(crate) mod tls;
pub(crate) mod session_tickets;
pub(crate) mod client_socket;
pub(crate) mod http1;
pub(crate) mod http2;
