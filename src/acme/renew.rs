//! Orders certificates when they are missing, lack a host, or are due for renewal.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use instant_acme::{CertificateIdentifier, Error, RenewalInfo};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::acme::error::{AcmeError, one_line};
use crate::acme::schedule::{Backoff, Renewal};
use crate::acme::state::{ManagedSite, State, Status};
use crate::acme::{client, order};
use crate::base::clock;
use crate::base::error_chain::Chain;
use crate::observe::metrics::Metrics;

/// For one order, or one question about renewal.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(300);
/// Timers do not run while a machine is suspended.
const MAX_SLEEP: Duration = Duration::from_secs(3600);

/// Keeps the certificates of these sites up to date. A reload replaces the list.
pub(crate) async fn run(
    state: Arc<State>,
    metrics: Metrics,
    mut sites: watch::Receiver<Vec<Arc<ManagedSite>>>,
) {
    let mut certificates: HashMap<PathBuf, Certificate> = HashMap::new();
    loop {
        let now = sites.borrow_and_update().clone();
        certificates.retain(|file, _| now.iter().any(|site| site.acme.certificate_file == *file));
        let mut wait = MAX_SLEEP;
        for site in &now {
            let file = &site.acme.certificate_file;
            let certificate = certificates.entry(file.clone()).or_default();
            let left = certificate.check(&state, &metrics, site).await.max(Duration::from_secs(1));
            wait = wait.min(left);
            certificate.status.next_check = clock::unix_now_signed().checked_add_unsigned(left.as_secs());
            let mut statuses = state.statuses.lock().unwrap_or_else(PoisonError::into_inner);
            statuses.insert(file.clone(), certificate.status.clone());
        }
        tokio::select! {
            () = sleep(wait) => {}
            changed = sites.changed() => match changed {
                Ok(()) => certificates.values_mut().for_each(Certificate::reloaded),
                Err(_) => return,
            }
        }
    }
}

/// What is known about one certificate between two checks.
#[derive(Default)]
struct Certificate {
    leaf: Option<CertificateDer<'static>>,
    renewal: Option<Renewal>,
    status: Status,
    waits_for_reload: bool,
    backoff: Backoff,
}

impl Certificate {
    /// Orders a certificate if it is time. Returns the time until the next check.
    async fn check(&mut self, state: &Arc<State>, metrics: &Metrics, site: &Arc<ManagedSite>) -> Duration {
        if self.leaf != site.leaf {
            (self.leaf, self.renewal, self.status) = (site.leaf.clone(), None, Status::default());
            self.backoff.reset_failures();
        }
        if self.waits_for_reload {
            return MAX_SLEEP;
        }
        if let (Some(leaf), false) = (&site.leaf, site.lacks_host) {
            let renewal = self.renewal(site, leaf.clone()).await;
            self.status.renewal = Some(renewal.at);
            if let Some(left) = renewal.left(clock::unix_now_signed()) {
                self.status.last_error = None;
                self.backoff.reset_failures();
                return left;
            }
        }
        let left = self.backoff.left(site.lacks_host);
        if left.is_zero() { self.order(state, metrics, site).await } else { left }
    }

    async fn order(&mut self, state: &Arc<State>, metrics: &Metrics, site: &Arc<ManagedSite>) -> Duration {
        let (host, acme) = (&site.hosts[0], &site.acme);
        let (directory, challenge) = (&acme.directory, acme.challenge.name());
        info!(site = host, %directory, challenge, "ordering a certificate");
        let outcome = attempt(order::issue(state.clone(), site.clone())).await;
        metrics.acme_order(host, outcome.is_ok());
        match outcome {
            Ok(until) => {
                let (expires, file) = (clock::rfc_3339_of(until), acme.certificate_file.display());
                info!(site = host, expires, %file, "the CA issued a certificate");
                self.backoff.succeeded(until - clock::unix_now_signed());
                self.status.last_error = Some("the new certificate waits for a reload".to_owned());
                self.waits_for_reload = true;
                state.wants_reload.notify_one();
                MAX_SLEEP
            }
            Err(error) => {
                let wait = self.backoff.failed(error.retry_after());
                let (error, retry_in_seconds) = (one_line(&Chain(&error).to_string()), wait.as_secs());
                error!(site = host, %directory, challenge, error, retry_in_seconds, "the certificate order failed");
                self.status.last_error = Some(error);
                wait
            }
        }
    }

    /// A reload has succeeded, which also uses what is in the file.
    fn reloaded(&mut self) {
        self.waits_for_reload = false;
        self.backoff.end_wait();
    }

    /// When the certificate is due: the CA is asked again if its last advice is old and the certificate is not due.
    async fn renewal(&mut self, site: &ManagedSite, leaf: CertificateDer<'static>) -> Renewal {
        let renewal = self.renewal.get_or_insert_with(|| Renewal::of(&leaf));
        if renewal.wants_advice(clock::unix_now_signed()) {
            let acme = site.acme.clone();
            let advice = attempt(async move {
                let id = CertificateIdentifier::try_from(&leaf).map_err(AcmeError::Unusable)?;
                Ok(client::account(&acme).await?.renewal_info(&id).await?)
            })
            .await;
            renewal.advise(advice.as_ref().ok());
            let (site, renewal) = (&site.hosts[0], clock::rfc_3339_of(renewal.at));
            match advice {
                Ok((RenewalInfo { explanation_url: Some(url), .. }, _)) => {
                    info!(site, renewal, explanation = one_line(&url), "the CA advises when to renew");
                }
                Ok(_) | Err(AcmeError::Ca(Error::Unsupported(_))) => {}
                Err(error) => {
                    let error = one_line(&Chain(&error).to_string());
                    warn!(site, renewal, error, "the CA gives no advice about renewal");
                }
            }
        }
        *renewal
    }
}

/// Runs in a task of its own: even a panic counts as a failure like any other.
async fn attempt<T: Send + 'static>(
    work: impl Future<Output = Result<T, AcmeError>> + Send + 'static,
) -> Result<T, AcmeError> {
    let done = timeout(ATTEMPT_TIMEOUT, AbortOnDropHandle::new(tokio::spawn(work))).await;
    done.map_err(|_| AcmeError::Timeout)?.unwrap_or(Err(AcmeError::Internal))
}
