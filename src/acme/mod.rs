//! Certificates from a CA by ACME (RFC 8555): ordered when missing, when they lack a host, and when due for renewal.
//!
//! The protocol is instant-acme's. A new certificate is written to the file that the configuration reads; a reload then
//! checks it and uses it. Until that succeeds the previous one stays. There is one order at a time.

mod renew;
mod order;
mod client;
mod schedule;
mod store;
mod state;
mod error;

pub(crate) use client::check_directory;
pub(crate) use renew::run;
pub(crate) use state::{ManagedSite, State};
