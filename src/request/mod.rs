//! One request, whatever the protocol: routing, access log, error pages.

pub(crate) mod gateway;
pub(crate) mod worker;
pub(crate) mod connection;
pub(crate) mod decide;
pub(crate) mod route;
pub(crate) mod access_log;
pub(crate) mod error_page;
