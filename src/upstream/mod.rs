//! The iMIS web servers of a site: their order, their health, and which session is on which server.

pub(crate) mod site;
pub(crate) mod servers;
pub(crate) mod sessions;
mod affinity;
pub(crate) mod health;
pub(crate) mod proxy_header;
pub(crate) mod forwarded;
