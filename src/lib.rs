//! `imis-gateway` stands in front of an iMIS web site, forwards everything to it unchanged, and on its SSO paths signs
//! members in to Zendesk.
//!
//! Each directory is one layer. A layer imports only from the layers below it in this list. `docs/architecture.md`
//! follows a request through them.

pub mod cli;
pub mod server;
mod doctor;
mod acme;
mod edge;
mod request;
mod proxy;
mod sync;
mod sso;
mod imis;
mod zendesk;
mod upstream;
mod pages;
pub mod observe;
pub mod config;
mod codec;
mod base;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
#[path = "../fuzz/invariants/mod.rs"]
pub mod fuzzing;
