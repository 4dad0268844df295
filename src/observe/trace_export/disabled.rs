//! Stands in for the exporter in a program without the feature `otel`. It cannot be built.

use tokio::runtime::Handle;

use crate::base::request_id::Incident;
use crate::config::Otlp;
use crate::observe::trace_export::span::{EndedSpan, ExportError, StartedSpan};

pub(crate) enum TraceExporter {}

impl TraceExporter {
    pub(crate) fn build(_: &Otlp, _: &Handle) -> Result<Self, ExportError> {
        Err(ExportError("this program was built without the feature `otel`".to_owned()))
    }

    pub(crate) fn start(&self, _: Option<&[u8]>, _: bool, _: Incident) -> Option<Box<StartedSpan>> {
        match *self {}
    }

    pub(crate) fn export(&self, _: &StartedSpan, _: &EndedSpan<'_>) {
        match *self {}
    }

    pub(crate) fn shut_down(&self) {
        match *self {}
    }
}
