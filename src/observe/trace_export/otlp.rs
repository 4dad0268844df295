//! Export by OTLP over HTTP, in batches, on a thread of the OpenTelemetry SDK. A slow collector costs spans, never
//! requests.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};
use tokio::runtime::Handle;
use tracing::{info, warn};

use crate::base::clock;
use crate::base::error_chain::Chain;
use crate::base::http_client;
use crate::base::request_id::RequestId;
use crate::base::tls_client::client_config;
use crate::config::Otlp;
use crate::observe::trace_export::span::{EndedSpan, ExportError, StartedSpan, start};

const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Exports spans to the collector in the configuration.
pub(crate) struct TraceExporter {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    /// Percentage of the requests to sample.
    sample_percent: u64,
}

impl TraceExporter {
    /// `control`: the runtime that sends the batches.
    pub(crate) fn build(otlp: &Otlp, control: &Handle) -> Result<Self, ExportError> {
        let failed = |error: &dyn fmt::Display| ExportError(error.to_string());
        let collector = Collector::build(otlp, control).map_err(|error| failed(&error))?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(collector)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(otlp.endpoint.as_str())
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|error| failed(&error))?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        let resource = Resource::builder_empty()
            .with_service_name("imis-gateway")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        processor.set_resource(&resource);
        let scope = InstrumentationScope::builder("imis-gateway").build();
        Ok(Self { processor, scope, sample_percent: otlp.sample_percent })
    }

    /// Starts a span if the request is sampled. `is_trusted`: the client is a trusted proxy.
    pub(crate) fn start(
        &self,
        traceparent: Option<&[u8]>,
        is_trusted: bool,
        request_id: RequestId,
    ) -> Option<Box<StartedSpan>> {
        start(traceparent, is_trusted, request_id, self.sample_percent)
    }

    /// Queues a span for export. Its attributes follow OpenTelemetry's semantic conventions for HTTP servers.
    pub(crate) fn export(&self, started: &StartedSpan, ended: &EndedSpan<'_>) {
        let mut attributes = vec![
            KeyValue::new("http.request.method", method_name(ended.method)),
            KeyValue::new("url.scheme", ended.scheme),
            KeyValue::new("url.path", ended.path.to_owned()),
            KeyValue::new("server.address", ended.host.to_owned()),
            KeyValue::new("client.address", ended.client.to_owned()),
            KeyValue::new("network.protocol.version", ended.protocol_version.to_owned()),
            KeyValue::new("http.response.status_code", i64::from(ended.status)),
            KeyValue::new("http.response.body.size", i64::try_from(ended.body_bytes).unwrap_or(i64::MAX)),
            KeyValue::new("imis_gateway.request_id", ended.request_id.to_owned()),
            KeyValue::new("imis_gateway.outcome", ended.outcome),
        ];
        let is_error = ended.status >= 500;
        if let Some(failure) = ended.failure {
            attributes.push(KeyValue::new("error.type", failure));
        } else if is_error {
            attributes.push(KeyValue::new("error.type", ended.status.to_string()));
        }
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(
                TraceId::from(started.traceparent.trace_id),
                SpanId::from(started.traceparent.span_id),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: started.parent_span_id.map_or(SpanId::INVALID, SpanId::from),
            parent_span_is_remote: started.parent_span_id.is_some(),
            span_kind: SpanKind::Server,
            name: method_name(ended.method),
            start_time: started.start,
            end_time: clock::now(),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: if is_error { Status::error("") } else { Status::Unset },
            instrumentation_scope: self.scope.clone(),
        });
    }

    /// Exports the queued spans when the process ends. Spans that the collector does not accept in time are lost.
    pub(crate) fn shut_down(&self) {
        let _ = self.processor.shutdown_with_timeout(SHUTDOWN_TIMEOUT);
    }
}

/// A known method, or `_OTHER`, so that clients cannot invent span names.
fn method_name(method: &str) -> Cow<'static, str> {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("_OTHER").into()
}

/// The HTTP client of the exporter. The SDK's thread has no runtime, so requests are sent on the control runtime.
#[derive(Debug)]
struct Collector {
    client: reqwest::Client,
    control: Handle,
    /// The URL without its query, which may contain a secret.
    shown_endpoint: String,
    is_down: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
enum CollectorError {
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error("log.otlp.token is not a valid header value")]
    Token,
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

impl Collector {
    fn build(otlp: &Otlp, control: &Handle) -> Result<Self, CollectorError> {
        let mut headers = http::HeaderMap::new();
        if let Some(token) = &otlp.token {
            let value = HeaderValue::try_from(format!("Bearer {}", token.expose()));
            let mut value = value.map_err(|_| CollectorError::Token)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let tls = client_config(otlp.roots.0.clone(), Vec::new())?;
        let client = http_client::builder(tls, EXPORT_TIMEOUT).default_headers(headers).build()?;
        let mut shown_endpoint = otlp.endpoint.clone();
        shown_endpoint.set_query(None);
        let (control, is_down) = (control.clone(), AtomicBool::new(false));
        Ok(Self { client, control, shown_endpoint: shown_endpoint.into(), is_down })
    }

    /// Logs the first failure, and the first success after it.
    fn log_changes(&self, outcome: &Result<Response<Bytes>, HttpError>) {
        let error = match outcome {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("status {}", response.status().as_u16())),
            Err(error) => Some(Chain(error.as_ref()).to_string()),
        };
        let was_down = self.is_down.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !was_down => {
                warn!(
                    endpoint = self.shown_endpoint,
                    error, "trace export failed; spans are retried, then dropped"
                );
            }
            None if was_down => info!("trace export works again"),
            Some(_) | None => {}
        }
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.control.spawn(async move { client.send_bytes(request).await }).await;
        // The URL of an error may contain a secret.
        let without_url = |error: HttpError| match error.downcast::<reqwest::Error>() {
            Ok(error) => error.without_url().into(),
            Err(error) => error,
        };
        let outcome = sent.map_err(HttpError::from).and_then(|sent| sent.map_err(without_url));
        self.log_changes(&outcome);
        outcome
    }
}
