//! Basic parts that all layers use. Nothing here imports from another directory.

pub(crate) mod error_chain;
pub(crate) mod escaped;
pub(crate) mod paths;
pub(crate) mod clock;
pub(crate) mod deadline;
pub(crate) mod min_rate;
pub(crate) mod acked_bytes;
pub(crate) mod buffers;
pub(crate) mod drain;
pub(crate) mod corked_socket;
pub(crate) mod tls_client;
pub(crate) mod x509;
pub(crate) mod request_id;
pub(crate) mod trace_context;
pub(crate) mod http_client;
pub(crate) mod phone;
pub(crate) mod hex;
pub(crate) mod query;
pub(crate) mod published;
pub(crate) mod header_rules;
pub(crate) mod cookies;
pub(crate) mod single_line;
