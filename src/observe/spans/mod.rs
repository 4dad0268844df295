//! Spans for an OpenTelemetry collector: one for each request that is sampled, told when it is done with.
//!
//! Without the feature `otel` there are none, and `log.otlp` is refused.

#[cfg(feature = "otel")]
mod export;

use std::sync::Arc;
use std::time::SystemTime;

use tokio::runtime::Handle;

use crate::base::clock;
use crate::base::request_id::RequestId;
use crate::base::trace_context;
use crate::base::trace_context::Context;
use crate::config::Otlp;

/// Where spans go.
pub(crate) struct Spans {
    #[cfg(feature = "otel")]
    export: export::Export,
    /// Of a hundred requests that nobody has decided about, so many are told.
    sample_percent: u64,
}

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("the export of traces cannot be set up: {0}")]
pub(crate) struct ExportError(pub(crate) String);

/// A request that is to be told.
#[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "there is nobody to be told"))]
pub(crate) struct Begun {
    pub(crate) context: Context,
    at: SystemTime,
}

/// What there is to tell of a request.
#[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "there is nobody to be told"))]
pub(crate) struct Told<'a> {
    pub(crate) method: &'a str,
    pub(crate) scheme: &'static str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    /// `1.1`.
    pub(crate) version: &'a str,
    pub(crate) client: &'a str,
    pub(crate) incident: &'a str,
    pub(crate) status: u16,
    pub(crate) end: &'static str,
    pub(crate) failure: Option<&'static str>,
    pub(crate) bytes: u64,
}

impl Spans {
    #[cfg(feature = "otel")]
    pub(crate) fn build(otlp: &Otlp, control: &Handle) -> Result<Arc<Self>, ExportError> {
        Ok(Arc::new(Self {
            export: export::Export::build(otlp, control)?,
            sample_percent: otlp.sample_percent,
        }))
    }

    #[cfg(not(feature = "otel"))]
    pub(crate) fn build(_: &Otlp, _: &Handle) -> Result<Arc<Self>, ExportError> {
        Err(ExportError("this program was built without the feature `otel`".to_owned()))
    }

    /// Whether a request is told: whoever began its trace decides, where a trusted proxy vouches for that; else chance, so that no
    /// stranger decides how much is told.
    pub(crate) fn begin(
        &self,
        traceparent: Option<&[u8]>,
        is_vouched_for: bool,
        incident: RequestId,
    ) -> Option<Box<Begun>> {
        let by_chance = || Context::of(incident).is_among(self.sample_percent);
        let context = match traceparent.and_then(trace_context::parent) {
            Some(parent) if is_vouched_for => parent.is_sampled.then(|| Context::within(parent, incident)),
            Some(parent) => by_chance().map(|_| Context::within(parent, incident)),
            None => by_chance(),
        };
        context.map(|context| Box::new(Begun { context, at: clock::now() }))
    }

    /// It is done with.
    #[cfg(feature = "otel")]
    pub(crate) fn end(&self, begun: &Begun, told: &Told<'_>) {
        self.export.end(begun, told);
    }

    #[cfg(not(feature = "otel"))]
    pub(crate) fn end(&self, _: &Begun, _: &Told<'_>) {}

    /// Sends what waits; the process is about to end.
    pub(crate) fn finish(&self) {
        #[cfg(feature = "otel")]
        self.export.finish();
    }
}
