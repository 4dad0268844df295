//! What one process keeps, however often it reloads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::server::ProducesTickets;

use crate::acme;
use crate::base::clock;
use crate::config::{Config, Secret, ShownSecret};
use crate::edge::admission::Admission;
use crate::edge::session_tickets;
use crate::observe::metrics::Metrics;
use crate::observe::trace_export::TraceExporter;
use crate::server::build_error::BuildError;
use crate::sso::state_cookie::UsedNonces;

/// What one process keeps.
pub(crate) struct ProcessState {
    pub(crate) metrics: Metrics,
    pub(crate) admission: Arc<Admission>,
    /// The port that plain HTTP redirects to.
    pub(crate) https_port: u16,
    pub(crate) tickets: Arc<dyn ProducesTickets>,
    /// Signs where no `state_key` is configured.
    pub(crate) own_key: Secret,
    pub(crate) used_states: Arc<UsedNonces>,
    /// Exports traces to a collector, if one is configured.
    pub(crate) trace_exporter: Option<Arc<TraceExporter>>,
    /// The certificates from CAs.
    pub(crate) acme: Arc<acme::State>,
    /// When each secret was first seen, by its fingerprint; seconds since 1970.
    secrets: Mutex<HashMap<String, u64>>,
}

impl ProcessState {
    pub(crate) fn new(
        config: &Config,
        https_port: u16,
        trace_exporter: Option<Arc<TraceExporter>>,
    ) -> Result<Arc<Self>, BuildError> {
        let own_key = clock::random_hex().and_then(|half| Ok(half + &clock::random_hex()?));
        Ok(Arc::new(Self {
            metrics: Metrics::new(),
            admission: Admission::new(config.limits),
            https_port,
            tickets: session_tickets::own()?,
            own_key: Secret::new(&own_key.map_err(BuildError::Random)?),
            used_states: Arc::default(),
            trace_exporter,
            acme: Arc::default(),
            secrets: Mutex::default(),
        }))
    }

    /// The age of a secret in seconds, as far as it is known.
    pub(crate) fn age(&self, secret: &ShownSecret) -> u64 {
        let now = clock::unix_now();
        let mut known = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let since = secret.changed.unwrap_or_else(|| *known.entry(secret.fingerprint.clone()).or_insert(now));
        now.saturating_sub(since)
    }
}
