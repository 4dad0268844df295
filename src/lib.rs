//! `imis-gateway` stands in front of an iMIS web site, forwards everything to it unchanged, and on its SSO paths signs
//! members in to Zendesk.
//!
//! Read from top to bottom, the modules are a request going by. `docs/architecture.md` tells the same as a story.

mod admin;
mod ambient;
pub mod cli;
pub mod config;
mod gateway;
mod http;
mod imis;
pub mod lifecycle;
mod listener;
mod pages;
mod proxy;
mod query;
mod route;
mod sso;
pub mod telemetry;
mod tls;
mod worker;
mod zendesk;
