//! Another configuration while the gateway runs: all of it is built, then it is swapped in. Whatever is wrong with it, the old one goes
//! on, and the log, the metrics and the status say so.
//!
//! A request keeps the configuration that it began with; connections, WebSockets among them, are left alone.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch::{Receiver, Sender};
use tokio::sync::{Mutex, oneshot};
use tracing::{error, info, warn};

use crate::base::clock;
use crate::base::error_chain::Chain;
use crate::config::{Config, Fixed, Problem, Problems, Watched};
use crate::edge::worker::ConfigUpdate;
use crate::request::gateway::Gateway;
use crate::server::build::{self, BuildError};
use crate::server::process_state::ProcessState;
use crate::server::systemd;
use crate::upstream::health;

/// Reading all that a configuration names, and setting clients up.
const BUILT_IN: Duration = Duration::from_secs(30);
const LOOKED_AT_IN: Duration = Duration::from_secs(5);
/// A worker takes a configuration up between two events; one that does not in this time is told of.
const TAKEN_UP_IN: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Reloader {
    pub(crate) process: Arc<ProcessState>,
    gateway: ArcSwap<Gateway>,
    workers: Vec<UnboundedSender<ConfigUpdate>>,
    control: Handle,
    /// One reload at a time.
    pub(crate) running: Mutex<Running>,
    /// What runs, for those who do not wait for a reload.
    source: ArcSwap<Source>,
    last: ArcSwap<Last>,
    failed: std::sync::Mutex<Failed>,
    /// Changes when a reload has gone through, well or not: how many an operator has wanted.
    pub(crate) taken_up: Sender<u64>,
    draining: AtomicBool,
    started: Instant,
}

/// What is running.
pub(crate) struct Running {
    fixed: Fixed,
    pub(crate) watched: Watched,
    pub(crate) watch: Option<Duration>,
}

/// Where a configuration comes from.
#[derive(Clone)]
struct Source {
    file: PathBuf,
    text: String,
}

/// Reloads that failed, as long as what they were about is not mended. A good one by files says nothing of the file's text.
#[derive(Default)]
struct Failed {
    text: Option<Arc<Last>>,
    files: Option<Arc<Last>>,
}

/// Who asks for a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The start of the program, which is the first.
    Start,
    Command,
    Signal,
    /// Contents that have changed: the text is the one that runs.
    Files,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Command => "command",
            Self::Signal => "signal",
            Self::Files => "files",
        }
    }
}

/// How the last one went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Last {
    pub(crate) at: String,
    pub(crate) by: String,
    pub(crate) file: PathBuf,
    pub(crate) good: bool,
    /// What was wrong.
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<String>,
    /// Keys that have changed and wait for a restart.
    pub(crate) needs_restart: Vec<String>,
    /// Of what runs now.
    pub(crate) hash: String,
    pub(crate) summary: String,
}

/// Why a configuration was not taken up.
enum Refused {
    Problems(Problems),
    Build(BuildError),
    /// Something it names keeps whoever reads it waiting.
    Late,
    /// The gateway is about to end.
    Draining,
    /// A thread of ours has ended.
    Internal,
}

impl Reloader {
    pub(crate) fn new(
        config: &Config,
        process: Arc<ProcessState>,
        gateway: Arc<Gateway>,
        workers: Vec<UnboundedSender<ConfigUpdate>>,
        control: Handle,
    ) -> Arc<Self> {
        let first = Last {
            at: clock::rfc_3339(),
            by: By::Start.name().to_owned(),
            file: config.file.clone(),
            good: true,
            problems: Vec::new(),
            warnings: config.warnings(),
            needs_restart: Vec::new(),
            hash: config.hash.clone(),
            summary: config.summary(),
        };
        gateway.metrics.reloaded(None, true, true);
        Arc::new(Self {
            process,
            gateway: ArcSwap::new(gateway),
            workers,
            control,
            source: ArcSwap::from_pointee(Source { file: config.file.clone(), text: config.text.clone() }),
            failed: std::sync::Mutex::default(),
            taken_up: Sender::default(),
            running: Mutex::new(Running {
                fixed: config.fixed(),
                watched: config.watched.clone(),
                watch: config.watch,
            }),
            last: ArcSwap::from_pointee(first),
            draining: AtomicBool::new(false),
            started: Instant::now(),
        })
    }

    /// The one of now.
    pub(crate) fn gateway(&self) -> Arc<Gateway> {
        self.gateway.load_full()
    }

    pub(crate) fn last(&self) -> Arc<Last> {
        self.last.load_full()
    }

    /// In a few words, for whoever looks at the service.
    pub(crate) fn state(&self) -> String {
        let last = self.last.load();
        let serves = format!("serves {} (configuration {})", last.summary, last.hash);
        match self.failed().first() {
            None => serves,
            Some(failed) => format!("the reload of {} failed; still {serves}", failed.at),
        }
    }

    /// Reloads that failed and are not mended.
    pub(crate) fn failed(&self) -> Vec<Arc<Last>> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.text.iter().chain(&failed.files).cloned().collect()
    }

    /// Changes with every reload.
    pub(crate) fn changes(&self) -> Receiver<u64> {
        self.taken_up.subscribe()
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// From now on nothing is taken up any more.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the file says something else than what runs.
    pub(crate) async fn differs_from_file(&self) -> bool {
        let Source { file, text } = (**self.source.load()).clone();
        let read = tokio::task::spawn_blocking(move || crate::config::read_text(&file));
        !matches!(tokio::time::timeout(LOOKED_AT_IN, read).await, Ok(Ok(Ok(now))) if now == text)
    }

    /// Takes another configuration up, or says why not. It is done whether somebody waits for it or not: half of it would be neither
    /// one nor the other.
    pub(crate) async fn reload(self: &Arc<Self>, by: By) -> Arc<Last> {
        let own = self.clone();
        let reload = self.control.spawn(async move { own.reload_now(by).await });
        reload.await.unwrap_or_else(|_| Arc::new(Last { good: false, ..(*self.last()).clone() }))
    }

    async fn reload_now(&self, by: By) -> Arc<Last> {
        let mut running = self.running.lock().await;
        if !self.is_draining() {
            systemd::reloading();
        }
        let outcome = self.take_up(by, &mut running).await;
        let good = outcome.is_ok();
        let source = self.source.load_full();
        let last = Arc::new(match outcome {
            Ok(taken) => taken,
            Err(refused) => Last {
                problems: refused.problems(&source.file),
                at: clock::rfc_3339(),
                by: by.name().to_owned(),
                good: false,
                warnings: Vec::new(),
                ..(**self.last.load()).clone()
            },
        });
        self.last.store(last.clone());
        {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            match (good, by) {
                (true, By::Files) => failed.files = None,
                (true, By::Start | By::Command | By::Signal) => *failed = Failed::default(),
                (false, By::Files) => failed.files = Some(last.clone()),
                (false, By::Start | By::Command | By::Signal) => failed.text = Some(last.clone()),
            }
        }
        self.process.metrics.reloaded(Some(by.name()), good, self.failed().is_empty());
        tell(&last);
        if !self.is_draining() {
            systemd::ready(&self.state());
        }
        self.taken_up.send_modify(|wanted| *wanted += u64::from(matches!(by, By::Command | By::Signal)));
        last
    }

    /// The files are again what runs.
    pub(crate) fn files_are_mended(&self) {
        let before = self.failed.lock().unwrap_or_else(PoisonError::into_inner).files.take();
        if before.is_some() {
            info!("the files that the configuration names are again as they were when they were taken up");
            self.process.metrics.reloaded(None, true, self.failed().is_empty());
            systemd::ready(&self.state());
        }
    }

    async fn take_up(&self, by: By, running: &mut Running) -> Result<Last, Refused> {
        if self.is_draining() {
            return Err(Refused::Draining);
        }
        let source = (**self.source.load()).clone();
        let before = self.gateway();
        let process = self.process.clone();
        let built = tokio::task::spawn_blocking(move || {
            let config = match by {
                By::Files => Config::resolve(&source.file, &source.text),
                By::Start | By::Command | By::Signal => Config::load(&source.file),
            };
            let config = config.map_err(Refused::Problems)?;
            let gateway = build::gateway(&config, &process, Some(&before)).map_err(Refused::Build)?;
            Ok((config, gateway))
        });
        let built = tokio::time::timeout(BUILT_IN, built).await.map_err(|_| Refused::Late)?;
        let (config, gateway) = built.map_err(|_| Refused::Internal)??;
        if self.is_draining() {
            return Err(Refused::Draining);
        }
        let gateway = Arc::new(gateway);
        keep_informed(&gateway, &self.control);
        self.process.admission.limit(config.limits);
        self.publish(&gateway).await;
        let before = self.gateway.swap(gateway.clone());
        // A sign-in under way has the list it began with, as it is.
        for staff in before.staff().filter(|staff| !gateway.staff().any(|kept| Arc::ptr_eq(kept, staff))) {
            staff.stop_refresh();
        }
        let needs_restart = running.fixed.differing(&config.fixed()).into_iter().map(str::to_owned).collect();
        self.source.store(Arc::new(Source { file: config.file.clone(), text: config.text.clone() }));
        running.watched = config.watched.clone();
        running.watch = config.watch;
        Ok(Last {
            at: clock::rfc_3339(),
            by: by.name().to_owned(),
            file: config.file.clone(),
            good: true,
            problems: Vec::new(),
            warnings: config.warnings(),
            needs_restart,
            hash: config.hash.clone(),
            summary: config.summary(),
        })
    }

    /// Hands it to all workers, and waits until each serves every new request under it.
    async fn publish(&self, gateway: &Arc<Gateway>) {
        let mut waiting = Vec::new();
        for worker in &self.workers {
            let (applied, answer) = oneshot::channel();
            // A worker that has ended serves nobody.
            if worker.send(ConfigUpdate { gateway: gateway.clone(), applied }).is_ok() {
                waiting.push(answer);
            }
        }
        let all = async {
            for answer in waiting {
                let _ = answer.await;
            }
        };
        if tokio::time::timeout(TAKEN_UP_IN, all).await.is_err() {
            warn!("a worker has not taken the configuration up yet; it will when it gets to it");
        }
    }
}

/// Fetches the staff of each account, and asks servers after their health, for as long as this gateway needs to know.
pub(crate) fn keep_informed(gateway: &Gateway, control: &Handle) {
    for staff in gateway.staff() {
        staff.keep_fresh(control);
    }
    for site in &gateway.sites {
        health::watch(&site.upstream, control);
    }
}

impl Refused {
    fn problems(&self, file: &Path) -> Vec<Problem> {
        match self {
            Self::Problems(problems) => problems.list.clone(),
            Self::Build(error) => Problems::of_file(file.to_owned(), Chain(error).to_string()).list,
            Self::Late => {
                let seconds = BUILT_IN.as_secs();
                let why = format!("what it names could not be read within {seconds} s");
                Problems::of_file(file.to_owned(), why).list
            }
            Self::Draining => {
                Problems::of_file(file.to_owned(), "the gateway is about to end".to_owned()).list
            }
            Self::Internal => Problems::of_file(file.to_owned(), "the reload broke off".to_owned()).list,
        }
    }
}

fn tell(last: &Last) {
    let by = &last.by;
    if !last.good {
        for problem in &last.problems {
            error!(trigger = by, problem = %problem.shown(&last.file), "not reloaded");
        }
        error!(
            trigger = by,
            problems = last.problems.len(),
            config_hash = last.hash,
            "not reloaded: what ran before goes on"
        );
        return;
    }
    for warning in &last.warnings {
        warn!("{warning}");
    }
    for key in &last.needs_restart {
        warn!(key, "this change waits for a restart");
    }
    info!(trigger = by, config_hash = last.hash, "reloaded: {}", last.summary);
}
