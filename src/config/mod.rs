//! The configuration file, read and resolved: files read, secrets fetched, certificates loaded, every value of its
//! final type.
//!
//! `Config::load` returns either a configuration that can run, or every problem of the file at once. It opens no
//! socket. Nothing here imports from a layer that uses the configuration.
//!
//! - `keys` is the table of every key: what it takes, its default and its description. `schema` prints it.
//! - `tree` parses YAML; `section` reads the tree by the table and collects problems.
//! - Every other file has the types of one section, and the function that reads it.

mod app;
mod certificate;
pub(crate) mod claims;
mod document;
pub(crate) mod expression;
mod files;
mod imis;
pub(crate) mod key;
pub(crate) mod keys;
mod listen;
mod machine;
pub(crate) mod machine_keys;
mod pem;
mod problem;
mod process;
mod recognise;
mod rules;
pub(crate) mod schema;
mod secret;
mod section;
mod site;
pub(crate) mod sync;
mod tree;
mod upstream;
mod values;
mod warnings;
mod zendesk;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use app::app_at;
#[cfg(test)]
pub(crate) use app::test_app;
pub(crate) use app::{App, FromZendesk, Messaging, OnBehalfOf, ShownSecret};
pub(crate) use certificate::{Acme, Challenge};
pub(crate) use claims::{Claims, Source};
pub use document::Config;
pub(crate) use document::Fixed;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use document::read;
pub(crate) use files::{Watched, read_text};
pub(crate) use imis::{Imis, ServiceAccount};
pub(crate) use listen::{Listen, glance};
pub use problem::{Problem, Problems};
pub use process::Log;
pub(crate) use process::{AuditConfig, ClientTimeouts, Emails, Limits, LogFormat, Otlp, SignInLimits};
pub(crate) use recognise::{ClientApplication, FormsTicket, Method, MethodKind, ProfileColumns, WhoamiQuery};
#[cfg(test)]
pub(crate) use rules::Guards;
pub(crate) use rules::{Effect, OnDuplicate, Rule};
pub use secret::Secret;
pub(crate) use secret::fingerprint;
pub(crate) use site::Site;
#[cfg(test)]
pub(crate) use upstream::test_upstream;
pub(crate) use upstream::{Affinity, Balance, ProxyHeader, Upstream, UpstreamLimits};
pub(crate) use values::{Authority, Server, server as server_of};
pub(crate) use zendesk::{Zendesk, ZendeskApi, ZendeskCredentials};

/// Where to look for the configuration without `--config`: the first of these that exists.
pub const DEFAULT_PATHS: [&str; 2] = ["/etc/imis-gateway/config.yaml", "./config.yaml"];

/// The default of `listen.control`: in the RuntimeDirectory= of the systemd unit.
pub(crate) const DEFAULT_CONTROL: &str = "/run/imis-gateway/control.sock";
