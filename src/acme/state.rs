//! What the parts of the ACME client share: the sites with certificates from a CA, and the state of each certificate.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use tokio::sync::Notify;

use crate::base::published::Published;
use crate::base::x509;
use crate::config::{Acme, Site};

/// What one process keeps over all reloads.
#[derive(Default)]
pub(crate) struct State {
    /// Answers to HTTP-01 challenges, by token.
    pub(crate) answers: Arc<Published<String>>,
    /// Certificates for TLS-ALPN-01 challenges, by host.
    pub(crate) certificates: Arc<Published<CertifiedKey>>,
    /// A new certificate waits for a reload.
    pub(crate) wants_reload: Notify,
    pub(super) statuses: Mutex<HashMap<PathBuf, Status>>,
}

/// The state of one certificate. Times in seconds since 1970.
#[derive(Clone, Default)]
pub(crate) struct Status {
    pub(crate) next_check: Option<i64>,
    pub(crate) renewal: Option<i64>,
    /// Why the last order failed, or why its certificate is not in use.
    pub(crate) last_error: Option<String>,
}

/// A site whose certificate comes from a CA.
pub(crate) struct ManagedSite {
    pub(super) hosts: Vec<String>,
    pub(super) acme: Arc<Acme>,
    /// The certificate in use.
    pub(super) leaf: Option<CertificateDer<'static>>,
    pub(super) lacks_host: bool,
}

impl State {
    /// The state of the certificate in this file.
    pub(crate) fn status(&self, file: &Path) -> Status {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).get(file).cloned().unwrap_or_default()
    }
}

impl ManagedSite {
    pub(crate) fn of(site: &Site) -> Option<Arc<Self>> {
        let (hosts, acme, certificate) = (site.hosts.clone(), site.acme.clone()?, site.certificate.as_ref());
        let lacks_host = certificate.is_some_and(|key| hosts.iter().any(|host| !x509::covers(key, host)));
        let leaf = certificate.and_then(|key| key.cert.first().cloned());
        Some(Arc::new(Self { hosts, acme, leaf, lacks_host }))
    }
}
