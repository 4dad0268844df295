//! One request, from its head to the end of its response, independent of the protocol.

pub(crate) mod serve;
pub(crate) mod client_stream;
pub(crate) mod client_address;
pub(crate) mod connection;
pub(crate) mod access_log;
pub(crate) mod route;
pub(crate) mod app_path;
pub(crate) mod endpoint;
pub(crate) mod forward;
pub(crate) mod session_changes;
pub(crate) mod error_page;
pub(crate) mod worker;
pub(crate) mod gateway;
