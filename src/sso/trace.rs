//! The steps that led to a decision. Sign-ins record none; `explain` shows them.

use std::time::{Duration, Instant};

/// Records steps, or ignores them.
pub(crate) struct Trace(Option<(Vec<TraceStep>, Instant)>);

/// One step. The outcome may contain personal data.
pub(crate) struct TraceStep {
    pub(crate) name: String,
    pub(crate) outcome: String,
    pub(crate) took: Duration,
}

impl Trace {
    pub(crate) fn recording() -> Self {
        Self(Some((Vec::new(), Instant::now())))
    }

    pub(crate) fn disabled() -> Self {
        Self(None)
    }

    pub(crate) fn record(&mut self, name: &str, outcome: impl FnOnce() -> String) {
        if let Some((steps, since)) = &mut self.0 {
            let took = since.elapsed();
            steps.push(TraceStep { name: name.to_owned(), outcome: outcome(), took });
            *since = Instant::now();
        }
    }

    pub(crate) fn into_steps(self) -> Vec<TraceStep> {
        self.0.map(|(steps, _)| steps).unwrap_or_default()
    }
}
