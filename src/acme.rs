//! Certificates from a CA by ACME (RFC 8555): asked for when there is none, when it lacks a host, and when it is time.
//!
//! What the CA gives is kept as a file that the configuration reads, and taken up by a reload like any other change of a file: it is
//! checked, and swapped in whole. Whatever fails here leaves what runs alone. Each certificate is tended by a task of its own: no CA keeps
//! another waiting, and none that misbehaves ends the tending.

mod account;
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
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::base::clock;
use crate::base::error_chain::Chain;
use crate::base::x509;
use crate::config::{Acme, Site};
use crate::request::gateway::Gateway;
use crate::server::reload::{By, Reloader};
use challenges::Challenges;
use order::{AcmeError, Granted};
use renewal::Renewal;

/// One certificate, from the first question to the last answer.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a site waits after it was refused, once, twice, and so on. CAs count failures: Let's Encrypt takes five an hour.
const AFTER_FAILURE: [u64; 5] = [60, 300, 900, 3600, 6 * 3600];
/// Whoever asks too often is not heard for a while.
const AFTER_TOO_MUCH: u64 = 3600;
/// The time between two certificates of a site, whatever becomes of the first; a quarter of its life, if that is less.
const AFTER_SUCCESS: u64 = 3600;
/// The least time between two tries, whatever an operator or a changed configuration wants.
const LEAST: Duration = Duration::from_secs(60);
/// The same after more than a few failures.
const LEAST_AFTER_SOME: Duration = Duration::from_secs(900);
const FEW_FAILURES: usize = 3;
/// Sites are looked at at least so often: a machine that slept has missed its timers.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

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
    /// When the certificate that there is is to be renewed, as far as that is known now.
    pub(crate) renewed: Option<i64>,
    /// Why there was no certificate when it was last asked, or why it is not used.
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

    fn forget(&self, file: &Path) {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner).remove(file);
    }
}

/// Keeps the certificates of all sites that have a CA, for as long as the program runs.
pub(crate) async fn keep(reloader: Arc<Reloader>) {
    let mut changes = reloader.changes();
    let mut tended: HashMap<PathBuf, AbortOnDropHandle<()>> = HashMap::new();
    loop {
        if reloader.is_draining() {
            // What is under way goes on for as long as the process does.
            return std::future::pending().await;
        }
        changes.mark_unchanged();
        let gateway = reloader.gateway();
        let files: Vec<PathBuf> = gateway
            .sites
            .iter()
            .filter_map(|site| Some(site.config.acme.as_ref()?.certificate_file.clone()))
            .collect();
        tended.retain(|file, tending| {
            if !files.contains(file) {
                reloader.process.acme.forget(file);
                return false;
            }
            // One whose site was gone for a moment has ended, and is begun anew.
            !tending.is_finished()
        });
        for file in files {
            tended
                .entry(file.clone())
                .or_insert_with(|| AbortOnDropHandle::new(tokio::spawn(tend(reloader.clone(), file))));
        }
        drop(gateway);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// What is known of a certificate between two looks.
#[derive(Clone, Default)]
struct Known {
    leaf: Option<CertificateDer<'static>>,
    renewal: Option<Renewal>,
    failures: usize,
    failed: Option<String>,
    tried: Option<Instant>,
    /// Not before this, unless somebody wants it,
    not_before: Option<Instant>,
    /// or whatever anybody wants.
    is_firm: bool,
    /// What the CA has agreed to, and did not come.
    granted: Option<Granted>,
    /// What came and could not be written.
    unsaved: Option<String>,
    /// What was written and has not been taken up.
    waits: Option<CertificateDer<'static>>,
}

impl Known {
    /// Whoever reloads may have mended what was wrong.
    fn is_wanted(&mut self) {
        self.not_before = self.not_before.filter(|_| self.is_firm);
    }

    /// When the CA may be asked; none is at once. A host that the certificate lacks waits for no pause after a success.
    fn earliest(&self, lacks_host: bool) -> Option<Instant> {
        let not_before = self.not_before.filter(|_| !lacks_host || self.failures > 0);
        let least = if self.failures > FEW_FAILURES { LEAST_AFTER_SOME } else { LEAST };
        self.tried.map(|tried| tried + least).max(not_before)
    }
}

/// What a look came to.
enum Looked {
    /// Look again after so long.
    Again(Duration),
    /// There is another file to take up.
    TakeUp,
}

async fn tend(reloader: Arc<Reloader>, file: PathBuf) {
    let mut changes = reloader.changes();
    let mut known = Known::default();
    let mut wanted = *changes.borrow();
    while !reloader.is_draining() {
        let now_wanted = *changes.borrow_and_update();
        if now_wanted != wanted {
            known.is_wanted();
            wanted = now_wanted;
        }
        let gateway = reloader.gateway();
        let at = |site: &crate::request::gateway::Site| {
            site.config.acme.as_ref().is_some_and(|acme| acme.certificate_file == file)
        };
        let Some(index) = gateway.sites.iter().position(at) else { return };
        let lasting = reloader.process.clone();
        let host = gateway.sites[index].config.hosts[0].clone();
        let metrics = gateway.metrics.clone();
        // A task of its own: whatever a CA's answer does to whoever reads it ends one look.
        let looking =
            AbortOnDropHandle::new(tokio::spawn(look(reloader.clone(), gateway, index, known.clone())));
        let looked = match looking.await {
            Ok((after, looked)) => {
                known = after;
                looked
            }
            Err(_) => {
                error!(site = host, "asking the CA ended abnormally");
                metrics.acme_order(&host, false);
                refused(
                    &mut known,
                    "asking the CA ended abnormally: this is a fault of the gateway's".to_owned(),
                    None,
                );
                Looked::Again(LEAST)
            }
        };
        let left = match looked {
            Looked::Again(left) => left,
            Looked::TakeUp if reloader.is_draining() => return,
            Looked::TakeUp => {
                // It says in the log how that goes.
                if reloader.reload(By::Files).await.good {
                    // It is used, or somebody has put another in its place.
                    known.waits = None;
                    continue;
                }
                known.failed =
                    Some("a certificate has come, and is not used: the reload failed, see above".to_owned());
                LEAST
            }
        };
        let next = clock::unix_now_signed() + i64::try_from(left.as_secs()).unwrap_or(0);
        lasting.acme.stands(
            &file,
            Standing {
                next: Some(next),
                renewed: known.renewal.map(|renewal| renewal.at),
                failed: known.failed.clone(),
            },
        );
        drop(lasting);
        tokio::select! {
            () = tokio::time::sleep(left.clamp(Duration::from_secs(1), LOOK_EVERY)) => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Looks at one site, and asks its CA if it is time.
async fn look(
    reloader: Arc<Reloader>,
    gateway: Arc<Gateway>,
    index: usize,
    mut known: Known,
) -> (Known, Looked) {
    let site = &gateway.sites[index].config;
    let Some(acme) = &site.acme else { return (known, Looked::Again(LOOK_EVERY)) };
    let given = site.certificate.as_ref();
    let leaf = given.and_then(|pair| pair.cert.first());
    if known.leaf.as_ref() != leaf {
        known.leaf = leaf.cloned();
        (known.renewal, known.granted) = (None, None);
        (known.failures, known.failed) = (0, None);
    }
    if known.waits.is_some() {
        if known.waits.as_ref() == leaf {
            known.waits = None;
        } else {
            return (known, Looked::TakeUp);
        }
    }
    if let Some(kept) = known.unsaved.take() {
        return save(acme, kept, known).await;
    }
    let lacks_host = given.is_some_and(|pair| site.hosts.iter().any(|host| !x509::covers(pair, host)));
    let now = clock::unix_now_signed();
    let due = match leaf {
        Some(leaf) if !lacks_host => {
            let renewal = advised((acme, &site.hosts[0]), leaf, known.renewal, now).await;
            known.renewal = Some(renewal);
            let left = renewal.at.min(renewal.ask_at.max(now)) - now;
            if renewal.at > now {
                // Whatever it was refused for, or agreed to, is not wanted any more.
                (known.failures, known.failed, known.granted) = (0, None, None);
                return (known, Looked::Again(Duration::from_secs(u64::try_from(left).unwrap_or(0).max(1))));
            }
            renewal.at
        }
        Some(_) | None => now,
    };
    let earliest = known.earliest(lacks_host);
    let left = earliest.map_or(Duration::ZERO, |earliest| earliest.saturating_duration_since(Instant::now()));
    if !left.is_zero() {
        return (known, Looked::Again(left));
    }
    if reloader.is_draining() {
        // The CA would find nobody here, or another.
        return (known, Looked::Again(LOOK_EVERY));
    }
    known.tried = Some(Instant::now());
    let host = &site.hosts[0];
    info!(site = host, directory = %acme.directory, challenge = acme.challenge.name(), overdue_seconds = now - due, "asking the CA for a certificate");
    let replaced = leaf.filter(|_| !lacks_host);
    let with = (&gateway.challenges, &mut known.granted);
    let asked = tokio::time::timeout(PATIENCE, ask(site, acme, replaced, with));
    let outcome = asked.await.unwrap_or(Err(AcmeError::Late(PATIENCE.as_secs())));
    gateway.metrics.acme_order(host, outcome.is_ok());
    match outcome {
        Ok(kept) => {
            (known.failures, known.failed) = (0, None);
            let until =
                x509::parse_bundle(kept.as_bytes()).ok().and_then(|pair| x509::validity(pair.cert.first()?));
            let until = until.map_or(0, |(_, until)| until);
            let life = u64::try_from(until - now).unwrap_or(0);
            known.not_before = Some(Instant::now() + Duration::from_secs(AFTER_SUCCESS.min(life / 4)));
            known.is_firm = true;
            info!(site = host, expires = %clock::rfc_3339_of(until), file = %acme.certificate_file.display(), "the CA has given a certificate");
            save(acme, kept, known).await
        }
        Err(error) => {
            let least = error.is_about_how_often().then_some(AFTER_TOO_MUCH);
            let why = Chain(&error).to_string();
            let pause = refused(&mut known, why.clone(), least);
            error!(site = host, directory = %acme.directory, challenge = acme.challenge.name(), error = why,
                retry_in_seconds = pause.as_secs(),
                "the CA has given no certificate"
            );
            (known, Looked::Again(pause))
        }
    }
}

/// Notes that there is none, and says how long to wait.
fn refused(known: &mut Known, why: String, least: Option<u64>) -> Duration {
    let pause = AFTER_FAILURE[known.failures.min(AFTER_FAILURE.len() - 1)].max(least.unwrap_or(0));
    let pause = Duration::from_secs(pause);
    known.failures += 1;
    known.failed = Some(why);
    known.is_firm = least.is_some();
    known.not_before = Some(Instant::now() + pause);
    pause
}

/// Keeps what has come. Where that fails it is not asked for again, but kept until it can be written.
async fn save(acme: &Acme, kept: String, mut known: Known) -> (Known, Looked) {
    let leaf = x509::parse_bundle(kept.as_bytes()).ok().and_then(|pair| pair.cert.first().cloned());
    match store::write(&acme.certificate_file, kept.clone().into_bytes()).await {
        Ok(()) => {
            known.failed = None;
            known.waits = leaf;
            (known, Looked::TakeUp)
        }
        Err(error) => {
            let path = acme.certificate_file.display();
            error!(file = %path, %error, "the certificate that has come cannot be written; it is kept in memory, and tried again");
            known.failed = Some(format!("a certificate has come, and {path} cannot be written: {error}"));
            known.unsaved = Some(kept);
            (known, Looked::Again(LEAST))
        }
    }
}

/// When a certificate is to be renewed, as far as that is known.
async fn advised(
    (acme, host): (&Acme, &str),
    leaf: &CertificateDer<'_>,
    before: Option<Renewal>,
    now: i64,
) -> Renewal {
    let renewal = before.unwrap_or_else(|| Renewal::of(leaf, now));
    // RFC 9773 section 4.3: not about one that has ended.
    let has_ended = x509::validity(leaf).is_none_or(|(_, until)| until <= now);
    if has_ended || !renewal.is_to_be_asked(now) {
        return renewal;
    }
    let asking = async {
        let account = account::account(acme).await?;
        Ok::<_, AcmeError>(renewal.advised(&account, leaf, now).await?)
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok((advised, explanation))) => {
            if let Some(explanation) = explanation {
                let (explanation, at) = (order::clean(&explanation), clock::rfc_3339_of(advised.at));
                info!(site = host, renewal = %at, explanation, "the CA explains its advice about renewal");
            }
            advised
        }
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

/// Asks for a certificate: key and chain, as they are kept.
async fn ask(
    site: &Site,
    acme: &Acme,
    replaced: Option<&CertificateDer<'_>>,
    with: (&Arc<Challenges>, &mut Option<Granted>),
) -> Result<String, AcmeError> {
    let path = &acme.certificate_file;
    for file in [&acme.account_file, path] {
        store::remove_left_behind(file.clone()).await;
    }
    // Before anything is asked for: what could not be kept would be lost, and CAs count.
    store::try_to_write(path).await.map_err(|source| AcmeError::Store {
        path: path.display().to_string(),
        what: "written",
        source,
    })?;
    let account = account::account(acme).await?;
    order::obtain(&account, (acme, &site.hosts), replaced, with).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reload_shortens_pauses_and_not_those_that_the_ca_wants() {
        let now = Instant::now();
        let seconds = |known: &Known| known.earliest(false).map(|at| (at - now).as_secs());
        let mut known = Known::default();
        assert_eq!(seconds(&known), None);
        for (failure, (pause, wanted)) in
            [(60, 60), (300, 60), (900, 60), (3600, 900), (21_600, 900), (21_600, 900)]
                .into_iter()
                .enumerate()
        {
            known.tried = Some(now);
            refused(&mut known, String::new(), None);
            assert_eq!(seconds(&known), Some(pause), "{failure}");
            known.is_wanted();
            assert_eq!(seconds(&known), Some(wanted), "{failure}, after a reload");
        }
        let mut known = Known { tried: Some(now), ..Known::default() };
        refused(&mut known, String::new(), Some(AFTER_TOO_MUCH));
        known.is_wanted();
        assert_eq!(seconds(&known), Some(AFTER_TOO_MUCH), "it was asked too often");
    }
}
