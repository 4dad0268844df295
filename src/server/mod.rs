//! The process: start, signals, reload, drain, and the composition of everything that answers requests.

pub mod lifecycle;
pub(crate) mod admin;
mod gauges;
pub(crate) mod control_socket;
pub(crate) mod reload;
pub(crate) mod file_watch;
pub(crate) mod status;
pub(crate) mod systemd;
pub(crate) mod process_state;
pub(crate) mod build;
