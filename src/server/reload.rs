//! Reloads the configuration: everything is built first, then swapped in. If anything is wrong, the gateway keeps the
//! previous configuration, and the log, the metrics and the status say so.
//!
//! A request keeps the configuration that it started with. Connections, including WebSockets, stay open.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch::Sender;
use tokio::sync::{Mutex, oneshot};
use tracing::{error, info, warn};

use crate::acme::{self, ManagedSite};
use crate::base::clock;
use crate::base::error_chain::Chain;
use crate::config::{Config, Fixed, Problem, Problems, Watched};
use crate::edge::worker::ConfigUpdate;
use crate::request::gateway::Gateway;
use crate::server::build;
use crate::server::process_state::ProcessState;
use crate::server::systemd;
use crate::upstream::health;

/// How long it may take to read the configuration and all files that it names, and to set up clients.
const BUILD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to read the configuration file for the status.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// A worker applies a configuration between two events. When that takes longer than this, the log says so.
const APPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// A handle to the running server: its current configuration, and how to replace it.
pub(crate) struct ServerHandle {
    pub(crate) process: Arc<ProcessState>,
    gateway: ArcSwap<Gateway>,
    workers: Vec<UnboundedSender<ConfigUpdate>>,
    control: Handle,
    /// One reload at a time.
    pub(crate) running: Mutex<Running>,
    /// Where the current configuration came from.
    source: ArcSwap<Source>,
    /// The last reload, successful or not.
    last: ArcSwap<ReloadResult>,
    failed: std::sync::Mutex<FailedReloads>,
    /// Notifies about each reload, successful or not.
    pub(crate) reloads: Sender<()>,
    /// The sites with certificates from a CA.
    acme_sites: Sender<Vec<Arc<ManagedSite>>>,
    /// A reload by signal waits for its turn. Further signals are covered by it.
    signal_waits: AtomicBool,
    draining: AtomicBool,
    started: Instant,
}

/// What a reload compares with and replaces.
pub(crate) struct Running {
    /// The settings that only a restart changes.
    fixed: Fixed,
    /// The files that the configuration names, as they were read.
    pub(crate) watched: Watched,
    /// How often they are checked for changes.
    pub(crate) watch_interval: Option<Duration>,
}

/// The configuration file, and its text when it was read.
#[derive(Clone)]
struct Source {
    file: PathBuf,
    text: String,
}

/// Failed reloads whose cause has not been fixed. A successful reload of changed files says nothing about the
/// configuration's text.
#[derive(Default)]
struct FailedReloads {
    text: Option<Arc<ReloadResult>>,
    files: Option<Arc<ReloadResult>>,
}

/// What triggers a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// The start of the program counts as the first reload.
    Start,
    Command,
    Signal,
    /// A file that the configuration names has changed. The configuration's text is not read again.
    Files,
}

impl Trigger {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Command => "command",
            Self::Signal => "signal",
            Self::Files => "files",
        }
    }
}

/// The result of a reload. `status` shows it as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReloadResult {
    pub(crate) at: String,
    pub(crate) by: String,
    pub(crate) file: PathBuf,
    pub(crate) good: bool,
    /// Why it failed: the first problems, and the number of further ones.
    pub(crate) problems: Vec<Problem>,
    #[serde(default)]
    pub(crate) omitted_problems: usize,
    pub(crate) warnings: Vec<String>,
    /// Changed keys that take effect after a restart.
    pub(crate) needs_restart: Vec<String>,
    /// The hash of the configuration in use.
    pub(crate) hash: String,
    pub(crate) summary: String,
}

impl ReloadResult {
    fn applied(by: Trigger, config: &Config, needs_restart: Vec<String>) -> Self {
        Self {
            at: clock::rfc_3339(),
            by: by.name().to_owned(),
            file: config.file.clone(),
            good: true,
            problems: Vec::new(),
            omitted_problems: 0,
            warnings: config.warnings(),
            needs_restart,
            hash: config.hash.clone(),
            summary: config.summary(),
        }
    }
}

impl ServerHandle {
    pub(crate) fn new(
        config: &Config,
        process: Arc<ProcessState>,
        gateway: Arc<Gateway>,
        workers: Vec<UnboundedSender<ConfigUpdate>>,
        control: Handle,
    ) -> Arc<Self> {
        let first = ReloadResult::applied(Trigger::Start, config, Vec::new());
        gateway.metrics.reloaded(None, true, true);
        let acme_sites = Sender::new(acme_sites(&gateway));
        Arc::new(Self {
            process,
            gateway: ArcSwap::new(gateway),
            workers,
            control,
            source: ArcSwap::from_pointee(Source { file: config.file.clone(), text: config.text.clone() }),
            failed: std::sync::Mutex::default(),
            reloads: Sender::default(),
            acme_sites,
            signal_waits: AtomicBool::new(false),
            running: Mutex::new(Running {
                fixed: config.fixed(),
                watched: config.watched.clone(),
                watch_interval: config.watch_interval,
            }),
            last: ArcSwap::from_pointee(first),
            draining: AtomicBool::new(false),
            started: Instant::now(),
        })
    }

    /// The gateway under the current configuration.
    pub(crate) fn gateway(&self) -> Arc<Gateway> {
        self.gateway.load_full()
    }

    pub(crate) fn last(&self) -> Arc<ReloadResult> {
        self.last.load_full()
    }

    /// A short summary for `systemctl status`.
    pub(crate) fn summary(&self) -> String {
        let last = self.last.load();
        let serves = format!("serves {} (configuration {})", last.summary, last.hash);
        match self.failed().first() {
            None => serves,
            Some(failed) => format!("the reload of {} failed; still {serves}", failed.at),
        }
    }

    /// Failed reloads whose cause has not been fixed.
    pub(crate) fn failed(&self) -> Vec<Arc<ReloadResult>> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.text.iter().chain(&failed.files).cloned().collect()
    }

    /// Keeps the certificates from CAs up to date.
    pub(crate) async fn keep_certificates(self: Arc<Self>) {
        let acme = &self.process.acme;
        let orders = acme::run(acme.clone(), self.process.metrics.clone(), self.acme_sites.subscribe());
        let reloads = async {
            loop {
                acme.wants_reload.notified().await;
                self.reload(Trigger::Files).await;
            }
        };
        tokio::join!(orders, reloads);
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Rejects further reloads: the gateway is shutting down.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the configuration file has changed since it was read.
    pub(crate) async fn differs_from_file(&self) -> bool {
        let Source { file, text } = (**self.source.load()).clone();
        let read = tokio::task::spawn_blocking(move || crate::config::read_text(&file));
        !matches!(tokio::time::timeout(READ_TIMEOUT, read).await, Ok(Ok(Ok(now))) if now == text)
    }

    /// Reloads. The reload runs to its end even if the caller stops waiting.
    pub(crate) async fn reload(self: &Arc<Self>, by: Trigger) -> Arc<ReloadResult> {
        let own = self.clone();
        let reload = self.control.spawn(async move { own.reload_now(by).await });
        reload.await.unwrap_or_else(|_| Arc::new(ReloadResult { good: false, ..(*self.last()).clone() }))
    }

    /// Reloads in a task of its own. However many signals come, at most one reload runs and one more waits.
    pub(crate) fn reload_by_signal(self: &Arc<Self>) {
        if !self.signal_waits.swap(true, Ordering::AcqRel) {
            let own = self.clone();
            drop(self.control.spawn(async move { own.reload_now(Trigger::Signal).await }));
        }
    }

    async fn reload_now(&self, by: Trigger) -> Arc<ReloadResult> {
        let mut running = self.running.lock().await;
        if by == Trigger::Signal {
            self.signal_waits.store(false, Ordering::Release);
        }
        if !self.is_draining() {
            systemd::reloading();
        }
        let outcome = self.replace(by, &mut running).await;
        let good = outcome.is_ok();
        let last = Arc::new(outcome.unwrap_or_else(|problems| ReloadResult {
            omitted_problems: problems.omitted,
            problems: problems.list,
            at: clock::rfc_3339(),
            by: by.name().to_owned(),
            good: false,
            warnings: Vec::new(),
            ..(**self.last.load()).clone()
        }));
        self.last.store(last.clone());
        {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            match (good, by == Trigger::Files) {
                (true, true) => failed.files = None,
                (true, false) => *failed = FailedReloads::default(),
                (false, true) => failed.files = Some(last.clone()),
                (false, false) => failed.text = Some(last.clone()),
            }
        }
        self.process.metrics.reloaded(Some(by.name()), good, self.failed().is_empty());
        log(&last);
        if !self.is_draining() {
            systemd::ready(&self.summary());
        }
        self.reloads.send_modify(|()| {});
        if good {
            self.acme_sites.send_replace(acme_sites(&self.gateway()));
        }
        last
    }

    /// Notes that the files are again as they were when they were last read successfully.
    pub(crate) fn clear_failed_files(&self) {
        let before = self.failed.lock().unwrap_or_else(PoisonError::into_inner).files.take();
        if before.is_some() {
            info!("the files that the configuration names are unchanged again");
            self.process.metrics.reloaded(None, true, self.failed().is_empty());
            systemd::ready(&self.summary());
        }
    }

    async fn replace(&self, by: Trigger, running: &mut Running) -> Result<ReloadResult, Problems> {
        let source = (**self.source.load()).clone();
        let file = source.file.clone();
        let failed = |reason: String| Problems::of_file(file.clone(), reason);
        let shutting_down = || failed("the gateway is shutting down".to_owned());
        if self.is_draining() {
            return Err(shutting_down());
        }
        let before = self.gateway();
        let process = self.process.clone();
        let built = tokio::task::spawn_blocking(move || {
            let config = match by {
                Trigger::Files => Config::resolve(&source.file, &source.text)?,
                Trigger::Start | Trigger::Command | Trigger::Signal => Config::load(&source.file)?,
            };
            let gateway = build::gateway(&config, &process, Some(&before))
                .map_err(|error| Problems::of_file(source.file, Chain(&error).to_string()))?;
            Ok((config, gateway))
        });
        let built = tokio::time::timeout(BUILD_TIMEOUT, built).await.map_err(|_| {
            failed(format!("the files that it names could not be read within {} s", BUILD_TIMEOUT.as_secs()))
        })?;
        let (config, gateway) = built.map_err(|_| failed("the reload ended abnormally".to_owned()))??;
        if self.is_draining() {
            return Err(shutting_down());
        }
        let gateway = Arc::new(gateway);
        start_background_tasks(&gateway, &self.control);
        self.process.admission.limit(config.limits);
        self.publish(&gateway).await;
        let before = self.gateway.swap(gateway.clone());
        // A sign-in under way keeps the list that it started with.
        for staff in before.staff().filter(|staff| !gateway.staff().any(|kept| Arc::ptr_eq(kept, staff))) {
            staff.stop_refresh();
        }
        let needs_restart = running.fixed.differing(&config.fixed()).into_iter().map(str::to_owned).collect();
        self.source.store(Arc::new(Source { file: config.file.clone(), text: config.text.clone() }));
        running.watched = config.watched.clone();
        running.watch_interval = config.watch_interval;
        Ok(ReloadResult::applied(by, &config, needs_restart))
    }

    /// Sends a gateway to all workers, and waits until each serves new requests with it.
    async fn publish(&self, gateway: &Arc<Gateway>) {
        let mut waiting = Vec::new();
        for worker in &self.workers {
            let (applied, answer) = oneshot::channel();
            // A worker that has ended needs no configuration.
            if worker.send(ConfigUpdate { gateway: gateway.clone(), applied }).is_ok() {
                waiting.push(answer);
            }
        }
        let all = async {
            for answer in waiting {
                let _ = answer.await;
            }
        };
        if tokio::time::timeout(APPLY_TIMEOUT, all).await.is_err() {
            warn!("a worker has not applied the new configuration yet; it will as soon as it is free");
        }
    }
}

fn acme_sites(gateway: &Gateway) -> Vec<Arc<ManagedSite>> {
    gateway.sites.iter().filter_map(|site| ManagedSite::of(&site.config)).collect()
}

/// Starts the tasks of a configuration: fetching the staff lists of Zendesk accounts, and health checks.
pub(crate) fn start_background_tasks(gateway: &Gateway, control: &Handle) {
    for staff in gateway.staff() {
        staff.keep_fresh(control);
    }
    for site in &gateway.sites {
        health::watch(&site.upstream, control);
    }
}

fn log(last: &ReloadResult) {
    let by = &last.by;
    if !last.good {
        for problem in &last.problems {
            error!(trigger = by, problem = %problem.shown(&last.file), "reload failed");
        }
        error!(
            trigger = by,
            problems = last.problems.len() + last.omitted_problems,
            config_hash = last.hash,
            "reload failed; keeping the previous configuration"
        );
        return;
    }
    for warning in &last.warnings {
        warn!("{warning}");
    }
    for key in &last.needs_restart {
        warn!(key, "this change takes effect after a restart");
    }
    info!(trigger = by, config_hash = last.hash, "reloaded: {}", last.summary);
}
