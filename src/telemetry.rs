//! The log: what is written, how, and what never is.
//!
//! The level of the configuration is for our own lines. Libraries are held at `info`, whatever it says: at `trace` some
//! of them write headers, and with them cookies and tokens.

use std::error::Error;
use std::fmt;
use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

/// Sends the log to standard error. Called once, by the program and not by the library.
pub fn init(log: &Log) {
    let own = log.level;
    let others = own.min(Level::INFO);
    let filter = Targets::new().with_default(others).with_target("imis_gateway", own);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let started = match log.format {
        LogFormat::Json => {
            registry.with(layer.json().flatten_event(true).with_current_span(false)).try_init()
        }
        LogFormat::Pretty => {
            registry.with(layer.with_ansi(std::io::stderr().is_terminal()).with_target(false)).try_init()
        }
    };
    // A panic ends one request, and its message could quote what it stumbled on: where it was is enough to mend it.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panic");
    }));
    // A second call keeps the first log, which is what an embedding program (the demo) wants.
    drop(started);
}

/// An error with its causes: `outer: cause: root`.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
