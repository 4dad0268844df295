//! Certificates from a CA by ACME (RFC 8555): asked for when there is none, when it lacks a host, and when it is time.
//!
//! What the CA gives is kept as a file that the configuration reads, and taken up by a reload like any other change of a file: it is
//! checked, and swapped in whole. Whatever fails here leaves what runs alone.

pub(crate) mod challenges;
mod client;
mod order;
mod renewal;
mod store;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tracing::{error, info, warn};

use crate::ambient;
use crate::config::{Acme, Site};
use crate::metrics::Metrics;
use crate::reload::{By, Reloader};
use crate::telemetry::Chain;
use crate::tls::pem;
use challenges::Challenges;
use order::AcmeError;
use renewal::Renewal;

/// One certificate, from the first question to the last answer.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a site waits after it was refused, once, twice, and so on. CAs count failures: Let's Encrypt takes five an hour.
const AFTER_FAILURE: [i64; 5] = [60, 300, 900, 3600, 6 * 3600];
/// The least time between two certificates of a site, whatever becomes of the first.
const AFTER_SUCCESS: i64 = 3600;
/// Sites are looked at at least so often: a machine that slept has missed its timers.
const LOOK_EVERY: i64 = 3600;

/// What is under way with CAs and how it went, for as long as the process runs.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) challenges: Arc<Challenges>,
    standings: Mutex<HashMap<PathBuf, Standing>>,
}

/// How a site stands with its CA.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    /// When it is asked, or looked at, next; seconds since 1970.
    pub(crate) next: Option<i64>,
    /// Why it gave nothing when it was last asked.
    pub(crate) failed: Option<String>,
}

impl Progress {
    /// By the file of the certificate.
    pub(crate) fn standing(&self, file: &Path) -> Standing {
        let standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        standings.get(file).cloned().unwrap_or_default()
    }

    fn stands(&self, file: &Path, standing: Standing) {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner).insert(file.to_owned(), standing);
    }
}

/// What is known of a site between two looks.
#[derive(Default)]
struct Known {
    leaf: Option<CertificateDer<'static>>,
    renewal: Option<Renewal>,
    failures: usize,
    /// Not before this.
    not_before: i64,
    failed: Option<String>,
}

/// Keeps the certificates of all sites that have a CA, for as long as the program runs.
pub(crate) async fn keep(reloader: Arc<Reloader>) {
    let mut changes = reloader.changes();
    let mut known: HashMap<PathBuf, Known> = HashMap::new();
    while !reloader.is_draining() {
        changes.mark_unchanged();
        let gateway = reloader.gateway();
        let sites = gateway.sites.iter().map(|site| &site.config);
        let mut next = ambient::unix_now_signed() + LOOK_EVERY;
        let mut obtained = false;
        for (site, acme) in sites.filter_map(|site| Some((site, site.acme.as_ref()?))) {
            let file = &acme.certificate_file;
            let of_site = known.entry(file.clone()).or_default();
            let progress = &gateway.lasting.acme;
            let at = look(site, acme, of_site, (progress, &gateway.metrics), &mut obtained).await;
            progress.stands(file, Standing { next: Some(at), failed: of_site.failed.clone() });
            next = next.min(at);
        }
        drop(gateway);
        if obtained {
            // It says in the log how that goes.
            reloader.reload(By::Files).await;
            continue;
        }
        let left = u64::try_from(next - ambient::unix_now_signed()).unwrap_or(0).max(1);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(left)) => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Looks at one site, and asks its CA if it is time. When to look again.
async fn look(
    site: &Site,
    acme: &Acme,
    known: &mut Known,
    (progress, metrics): (&Progress, &Metrics),
    obtained: &mut bool,
) -> i64 {
    let now = ambient::unix_now_signed();
    let leaf = site.certificate.as_ref().and_then(|pair| pair.cert.first());
    if known.leaf.as_ref() != leaf {
        // A CA whose advice is never satisfied is not asked in a circle.
        let not_before = if known.failures == 0 { known.not_before } else { 0 };
        *known = Known { leaf: leaf.cloned(), not_before, ..Known::default() };
    }
    let lacks_host =
        site.certificate.as_ref().is_some_and(|pair| site.hosts.iter().any(|host| !pem::covers(pair, host)));
    let due = match leaf {
        Some(leaf) if !lacks_host => {
            let renewal = advised(acme, leaf, known.renewal, now).await;
            known.renewal = Some(renewal);
            if renewal.at > now {
                return renewal.at.min(renewal.ask_at).max(known.not_before).max(now + 1);
            }
            renewal.at
        }
        Some(_) | None => now,
    };
    if known.not_before > now {
        return known.not_before;
    }
    let host = &site.hosts[0];
    let overdue = now - due;
    info!(site = host, directory = %acme.directory, challenge = acme.challenge.name(), overdue_seconds = overdue, "asking the CA for a certificate");
    let asked =
        tokio::time::timeout(PATIENCE, ask(site, acme, leaf.filter(|_| !lacks_host), &progress.challenges));
    let outcome = match asked.await {
        Ok(Ok(until)) => Ok(until),
        Ok(Err(error)) => Err(Chain(&error).to_string()),
        Err(_) => Err(format!("it was not done within {} s", PATIENCE.as_secs())),
    };
    let now = ambient::unix_now_signed();
    metrics.acme_order(host, outcome.is_ok());
    match outcome {
        Ok(until) => {
            info!(site = host, expires = %ambient::rfc_3339_of(until), file = %acme.certificate_file.display(), "the CA has given a certificate");
            *obtained = true;
            (known.failures, known.failed) = (0, None);
            known.not_before = now + AFTER_SUCCESS;
        }
        Err(why) => {
            let pause = AFTER_FAILURE[known.failures.min(AFTER_FAILURE.len() - 1)];
            error!(site = host, error = why, again_in_seconds = pause, "the CA has given no certificate");
            known.failures += 1;
            known.failed = Some(why);
            known.not_before = now + pause;
        }
    }
    known.not_before
}

/// When a certificate is to be renewed, as far as that is known.
async fn advised(acme: &Acme, leaf: &CertificateDer<'_>, before: Option<Renewal>, now: i64) -> Renewal {
    let renewal = before.unwrap_or_else(|| Renewal::of(leaf, now));
    if renewal.ask_at > now {
        return renewal;
    }
    let asking = async {
        let account = order::account(acme).await?;
        Ok::<_, AcmeError>(renewal.advised(&account, leaf, now).await?)
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(advised)) => advised,
        Ok(Err(error)) => {
            warn!(directory = %acme.directory, error = %Chain(&error), "the CA gives no advice about renewal; it goes by the certificate's time");
            renewal.unadvised(now)
        }
        Err(_) => renewal.unadvised(now),
    }
}

/// Whether a CA answers with a directory; nothing is asked for.
pub(crate) async fn answers(acme: &Acme) -> Result<(), String> {
    client::directory(&acme.directory, acme.roots.0.clone()).await.map_err(|error| Chain(&error).to_string())
}

/// Asks for a certificate and keeps it. Until when it is good.
async fn ask(
    site: &Site,
    acme: &Acme,
    replaced: Option<&CertificateDer<'_>>,
    challenges: &Arc<Challenges>,
) -> Result<i64, AcmeError> {
    let account = order::account(acme).await?;
    let (kept, pair) = order::obtain(&account, (acme, &site.hosts), replaced, challenges).await?;
    let path = &acme.certificate_file;
    store::write(path, kept.into_bytes()).await.map_err(|source| AcmeError::Store {
        path: path.display().to_string(),
        what: "written",
        source,
    })?;
    let until = pair.cert.first().and_then(pem::validity).map(|(_, until)| until);
    until.ok_or_else(|| AcmeError::Useless("it does not say how long it is good".to_owned()))
}
