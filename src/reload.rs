//! Another configuration while the gateway runs: all of it is built, then it is swapped in. Whatever is wrong with it, the old one goes
//! on, and the log, the metrics and the status say so.
//!
//! A request keeps the configuration that it began with; connections, WebSockets among them, are left alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Mutex, oneshot};
use tracing::{error, info, warn};

use crate::ambient;
use crate::config::{Config, Fixed, Problem, Problems, Watched};
use crate::gateway::{BuildError, Gateway, Lasting};
use crate::systemd;
use crate::telemetry::Chain;
use crate::worker::Renewal;
use crate::zendesk::staff::Staff;

/// How long files have to stay as they are before they are taken up: whoever changes several does so one after the other.
const SETTLED: Duration = Duration::from_secs(1);
/// A worker takes a configuration up between two events; one that does not in this time is told of.
const TAKEN_UP_IN: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Reloader {
    lasting: Arc<Lasting>,
    gateway: ArcSwap<Gateway>,
    workers: Vec<UnboundedSender<Renewal>>,
    control: Handle,
    /// One reload at a time.
    running: Mutex<Running>,
    last: ArcSwap<Last>,
    draining: AtomicBool,
    started: Instant,
}

/// What is running.
struct Running {
    config: Source,
    fixed: Fixed,
    watched: Watched,
    watch: Option<Duration>,
}

/// Where a configuration comes from.
#[derive(Clone)]
struct Source {
    file: PathBuf,
    text: String,
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
    /// A thread of ours has ended.
    Internal,
}

impl Reloader {
    pub(crate) fn new(
        config: &Config,
        gateway: Arc<Gateway>,
        workers: Vec<UnboundedSender<Renewal>>,
        control: Handle,
    ) -> Arc<Self> {
        let first = Last {
            at: ambient::rfc_3339(),
            by: By::Start.name().to_owned(),
            file: config.file.clone(),
            good: true,
            problems: Vec::new(),
            warnings: config.warnings(),
            needs_restart: Vec::new(),
            hash: config.hash.clone(),
            summary: config.summary(),
        };
        gateway.metrics.reloaded(None, true);
        Arc::new(Self {
            lasting: gateway.lasting.clone(),
            gateway: ArcSwap::new(gateway),
            workers,
            control,
            running: Mutex::new(Running {
                config: Source { file: config.file.clone(), text: config.text.clone() },
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
        if last.good { serves } else { format!("the reload of {} failed; still {serves}", last.at) }
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
        let Source { file, text } = self.running.lock().await.config.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(file)).await;
        !matches!(read, Ok(Ok(now)) if now == text)
    }

    /// Takes another configuration up, or says why not.
    pub(crate) async fn reload(&self, by: By) -> Arc<Last> {
        let mut running = self.running.lock().await;
        systemd::reloading();
        let outcome = self.take_up(by, &mut running).await;
        let good = outcome.is_ok();
        let last = Arc::new(match outcome {
            Ok(taken) => taken,
            Err(refused) => Last {
                problems: refused.problems(&running.config.file),
                at: ambient::rfc_3339(),
                by: by.name().to_owned(),
                good: false,
                warnings: Vec::new(),
                ..(**self.last.load()).clone()
            },
        });
        self.lasting.metrics.reloaded(Some(by.name()), good);
        self.last.store(last.clone());
        tell(&last);
        systemd::ready(&self.state());
        last
    }

    async fn take_up(&self, by: By, running: &mut Running) -> Result<Last, Refused> {
        let source = running.config.clone();
        let before = self.gateway();
        let lasting = self.lasting.clone();
        let built = tokio::task::spawn_blocking(move || {
            let config = match by {
                By::Files => Config::resolve(&source.file, &source.text),
                By::Start | By::Command | By::Signal => Config::load(&source.file),
            };
            let config = config.map_err(Refused::Problems)?;
            let gateway = Gateway::build(&config, &lasting, Some(&before)).map_err(Refused::Build)?;
            Ok((config, gateway))
        });
        let (config, gateway) = built.await.map_err(|_| Refused::Internal)??;
        let gateway = Arc::new(gateway);
        keep_staff_fresh(&gateway, &self.control);
        self.lasting.admission.limit(config.limits);
        self.publish(&gateway).await;
        self.gateway.store(gateway);
        let needs_restart = running.fixed.differing(&config.fixed()).into_iter().map(str::to_owned).collect();
        running.config = Source { file: config.file.clone(), text: config.text.clone() };
        running.watched = config.watched.clone();
        running.watch = config.watch;
        Ok(Last {
            at: ambient::rfc_3339(),
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
            let (taken_up, answer) = oneshot::channel();
            // A worker that has ended serves nobody.
            if worker.send(Renewal { gateway: gateway.clone(), taken_up }).is_ok() {
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

    /// Looks at the files that the configuration names, and takes them up when they have changed.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut in_vain = None;
        loop {
            let (watched, every) = {
                let running = self.running.lock().await;
                (running.watched.clone(), running.watch)
            };
            let Some(every) = every else {
                // A reload may switch it on.
                tokio::time::sleep(SETTLED).await;
                continue;
            };
            tokio::time::sleep(every).await;
            let now = look(&watched).await;
            if now == watched || in_vain.as_ref() == Some(&now) {
                continue;
            }
            tokio::time::sleep(SETTLED.min(every)).await;
            if look(&watched).await != now || self.running.lock().await.watched != watched {
                continue;
            }
            for file in watched.differing(&now) {
                info!(file = %file.display(), "a file that the configuration names has changed");
            }
            in_vain = (!self.reload(By::Files).await.good).then_some(now);
        }
    }
}

async fn look(watched: &Watched) -> Watched {
    let before = watched.clone();
    tokio::task::spawn_blocking(move || before.now()).await.unwrap_or_else(|_| watched.clone())
}

/// Fetches the staff of each account for as long as this gateway, or a request under way, needs it.
pub(crate) fn keep_staff_fresh(gateway: &Gateway, control: &Handle) {
    let sites = gateway.sites.iter().flat_map(|site| &site.sign_on);
    for staff in sites.flat_map(|sign_on| sign_on.staff.values()) {
        control.spawn(Staff::keep_fresh(Arc::downgrade(staff)));
    }
}

impl Refused {
    fn problems(&self, file: &Path) -> Vec<Problem> {
        match self {
            Self::Problems(problems) => problems.list.clone(),
            Self::Build(error) => Problems::of_file(file.to_owned(), Chain(error).to_string()).list,
            Self::Internal => Problems::of_file(file.to_owned(), "the reload broke off".to_owned()).list,
        }
    }
}

fn tell(last: &Last) {
    let by = &last.by;
    if !last.good {
        for problem in &last.problems {
            error!(by, problem = %problem.shown(&last.file), "not reloaded");
        }
        error!(by, problems = last.problems.len(), runs = last.hash, "not reloaded: what ran before goes on");
        return;
    }
    for warning in &last.warnings {
        warn!("{warning}");
    }
    for key in &last.needs_restart {
        warn!(key, "this change waits for a restart");
    }
    info!(by, configuration = last.hash, "reloaded: {}", last.summary);
}
