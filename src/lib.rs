//! `imis-gateway` stands in front of an iMIS web site, forwards everything to it unchanged, and on its SSO paths signs
//! members in to Zendesk.
//!
//! Read from top to bottom, the modules are a request going by. `docs/architecture.md` tells the same as a story.

pub mod cli;
pub mod config;
mod gateway;
pub mod lifecycle;
mod reload;
mod control;
mod status;
mod systemd;
mod worker;
mod listener;
mod admission;
mod balance;
mod drain;
mod buffers;
mod deadline;
mod pace;
mod acknowledged;
mod tls;
mod acme;
mod http;
mod http1;
mod route;
mod proxy;
mod sso;
mod imis;
mod zendesk;
mod pages;
mod doctor;
mod admin;
mod metrics;
mod traffic;
mod audit;
pub mod telemetry;
mod expression;
mod query;
mod incident;
mod trace;
mod spans;
mod ambient;
#[cfg(any(test, feature = "workbench"))]
#[doc(hidden)]
pub mod workbench;
