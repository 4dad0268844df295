//! The log: what is written, how, and what never is.
//!
//! The level of the configuration is for our own lines. Libraries are held at `info`, whatever it says: at `trace` some
//! of them write headers, and with them cookies and tokens.

use std::io::IsTerminal;
use std::time::Duration;

use tracing::Level;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

/// Lines that wait for whoever reads the log. More are dropped: a reader that stands still must not stop requests.
const MOST_WAITING: usize = 8192;
/// How often lines that were dropped are told of.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// The log while it is written; what still waits is written when this is dropped.
#[derive(Debug)]
pub struct Writing {
    _worker: WorkerGuard,
    dropped: ErrorCounter,
}

impl Writing {
    /// Tells now and then how many lines nobody took, for ever.
    pub(crate) fn tell_of_lost_lines(&self) -> impl Future<Output = ()> + use<> {
        let dropped = self.dropped.clone();
        async move {
            let mut told = 0;
            loop {
                tokio::time::sleep(TELL_EVERY).await;
                let all = dropped.dropped_lines();
                if all > told {
                    tracing::warn!(
                        dropped_lines = all - told,
                        total_dropped_lines = all,
                        "the log was not read in time; lines are missing"
                    );
                    told = all;
                }
            }
        }
    }
}

/// Sends the log to standard error, by a thread of its own. Called once, by the program and not by the library.
pub fn init(log: &Log) -> Writing {
    let (writer, worker) = NonBlockingBuilder::default()
        .buffered_lines_limit(MOST_WAITING)
        .thread_name("log")
        .finish(std::io::stderr());
    let writing = Writing { _worker: worker, dropped: writer.error_counter() };
    let own = log.level;
    let others = own.min(Level::INFO);
    let filter = Targets::new().with_default(others).with_target("imis_gateway", own);
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
    // A panic ends one request, and its message could quote what it stumbled on: where it was is enough to mend it.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location = place, "panic");
    }));
    // A second call keeps the first log, which is what an embedding program (the demo) wants.
    drop(started);
    writing
}
