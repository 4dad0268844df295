//! The log: its level, its format and where it goes.
//!
//! The configured level applies to our own lines. Libraries log at `info` at most: at `trace` some of them log headers,
//! and with them cookies and tokens.

use std::io::IsTerminal;
use std::time::Duration;

use tracing::Level;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

/// Lines that wait for the reader of the log. Further ones are dropped, so that a stuck reader does not block requests.
const MAX_QUEUED: usize = 8192;
const DROPPED_LINES_INTERVAL: Duration = Duration::from_secs(5);

/// Keeps the log open. Dropping it writes the queued lines.
#[derive(Debug)]
pub struct LogGuard {
    _worker: WorkerGuard,
    errors: ErrorCounter,
}

impl LogGuard {
    /// Warns about dropped lines at intervals. Never ends.
    pub(crate) fn watch_dropped_lines(&self) -> impl Future<Output = ()> + use<> {
        let errors = self.errors.clone();
        async move {
            let mut reported = 0;
            loop {
                tokio::time::sleep(DROPPED_LINES_INTERVAL).await;
                let total = errors.dropped_lines();
                if total > reported {
                    tracing::warn!(
                        dropped_lines = total - reported,
                        total_dropped_lines = total,
                        "the log was not read in time; lines are missing"
                    );
                    reported = total;
                }
            }
        }
    }
}

/// Sends the log to standard error, from a thread of its own. The program calls it once; the library never does.
pub fn init(log: &Log) -> LogGuard {
    let (writer, worker) = NonBlockingBuilder::default()
        .buffered_lines_limit(MAX_QUEUED)
        .thread_name("log")
        .finish(std::io::stderr());
    let guard = LogGuard { _worker: worker, errors: writer.error_counter() };
    let filter =
        Targets::new().with_default(log.level.min(Level::INFO)).with_target("imis_gateway", log.level);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    let started = match log.format {
        LogFormat::Json => {
            registry.with(layer.json().flatten_event(true).with_current_span(false)).try_init()
        }
        LogFormat::Journald => match tracing_journald::layer() {
            Ok(journal) => registry.with(journal).try_init(),
            Err(_) => registry.with(layer.json().flatten_event(true).with_current_span(false)).try_init(),
        },
        LogFormat::Pretty => {
            registry.with(layer.with_ansi(std::io::stderr().is_terminal()).with_target(false)).try_init()
        }
    };
    // The message of a panic could quote user data, so only its location is logged.
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, "panic");
    }));
    // A second call keeps the first log; a program that embeds the library (the demo) relies on that.
    drop(started);
    guard
}
