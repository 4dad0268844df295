//! iMIS and Zendesk, played on loopback for the demo and the tests of `imis-gateway`.
//!
//! Each plays what is publicly known of the real system, faults included, and shares no code with the gateway: what
//! the gateway mints is verified here by other means. Neither is fit for anything but playing.

pub mod certificates;
pub mod imis;
pub mod members;
pub mod server;
pub mod zendesk;
