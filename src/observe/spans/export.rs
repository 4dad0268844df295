//! The export itself: batches, by OTLP over HTTP, on a thread of the SDK's. A collector that is slow or down costs spans, not requests.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
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
use crate::base::tls_client::client_config;
use crate::config::Otlp;
use crate::observe::spans::{Begun, ExportError, Told};

const PATIENCE: Duration = Duration::from_secs(5);
/// What is still to be sent when the process ends has so long.
const AT_THE_END: Duration = Duration::from_secs(2);
/// A collector says little.
const MOST_ANSWER: usize = 64 * 1024;

pub(crate) struct Export {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

impl Export {
    pub(crate) fn build(otlp: &Otlp, control: &Handle) -> Result<Self, ExportError> {
        let wrong = |error: &dyn fmt::Display| ExportError(error.to_string());
        let tls = client_config(otlp.roots.0.clone(), Vec::new()).map_err(|error| wrong(&error))?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .timeout(PATIENCE)
            .build()
            .map_err(|error| wrong(&error))?;
        let authorization = otlp.token.as_ref().map(|token| {
            let value = http::HeaderValue::try_from(format!("Bearer {}", token.expose()));
            value.map(|mut value| {
                value.set_sensitive(true);
                value
            })
        });
        let authorization =
            authorization.transpose().map_err(|_| wrong(&"log.otlp.token cannot stand in a header"))?;
        let collector = Collector {
            client,
            control: control.clone(),
            authorization,
            is_down: AtomicBool::new(false),
            shown: shown(&otlp.endpoint),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(collector)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(otlp.endpoint.as_str())
            .with_timeout(PATIENCE)
            .build()
            .map_err(|error| wrong(&error))?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        let resource = Resource::builder_empty()
            .with_service_name("imis-gateway")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        processor.set_resource(&resource);
        Ok(Self { processor, scope: InstrumentationScope::builder("imis-gateway").build() })
    }

    /// Attributes have the names of OpenTelemetry's semantic conventions for HTTP servers.
    pub(crate) fn end(&self, begun: &Begun, told: &Told<'_>) {
        let context = &begun.context;
        let mut attributes = vec![
            KeyValue::new("http.request.method", name_of(told.method)),
            KeyValue::new("url.scheme", told.scheme),
            KeyValue::new("url.path", told.path.to_owned()),
            KeyValue::new("server.address", told.host.to_owned()),
            KeyValue::new("client.address", told.client.to_owned()),
            KeyValue::new("network.protocol.version", told.version.to_owned()),
            KeyValue::new("http.response.status_code", i64::from(told.status)),
            KeyValue::new("http.response.body.size", i64::try_from(told.bytes).unwrap_or(i64::MAX)),
            KeyValue::new("imis_gateway.request_id", told.incident.to_owned()),
            KeyValue::new("imis_gateway.outcome", told.end),
        ];
        let failed = told.status >= 500;
        if let Some(failure) = told.failure {
            attributes.push(KeyValue::new("error.type", failure));
        } else if failed {
            attributes.push(KeyValue::new("error.type", told.status.to_string()));
        }
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(
                TraceId::from(context.trace_id),
                SpanId::from(context.span_id),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: context.parent_id.map_or(SpanId::INVALID, SpanId::from),
            parent_span_is_remote: context.parent_id.is_some(),
            span_kind: SpanKind::Server,
            name: name_of(told.method),
            start_time: begun.at,
            end_time: clock::now(),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: if failed { Status::error("") } else { Status::Unset },
            instrumentation_scope: self.scope.clone(),
        });
    }

    pub(crate) fn finish(&self) {
        // What does not go in time is lost; nobody waits for a collector.
        let _ = self.processor.shutdown_with_timeout(AT_THE_END);
    }
}

/// One of few: what a visitor can choose freely names no span.
fn name_of(method: &str) -> Cow<'static, str> {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("_OTHER").into()
}

/// The way to the collector. It is asked on the control runtime, wherever the SDK asks from.
struct Collector {
    client: reqwest::Client,
    control: Handle,
    authorization: Option<http::HeaderValue>,
    is_down: AtomicBool,
    /// Where it is, without what may be secret.
    shown: String,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collector")
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(http::header::AUTHORIZATION, authorization.clone());
        }
        let client = self.client.clone();
        let sent = self.control.spawn(async move { send(client, request).await }).await;
        let outcome = sent.map_err(HttpError::from).and_then(|sent| sent.map_err(HttpError::from));
        self.tell(&outcome);
        outcome
    }
}

fn shown(endpoint: &url::Url) -> String {
    let mut shown = endpoint.clone();
    shown.set_query(None);
    shown.into()
}

async fn send(client: reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, reqwest::Error> {
    let mut answer =
        client.execute(reqwest::Request::try_from(request)?).await.map_err(reqwest::Error::without_url)?;
    let mut body = Vec::new();
    while body.len() < MOST_ANSWER
        && let Some(piece) = answer.chunk().await.map_err(reqwest::Error::without_url)?
    {
        body.extend_from_slice(&piece[..piece.len().min(MOST_ANSWER - body.len())]);
    }
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = answer.status();
    Ok(response)
}

impl Collector {
    /// When it begins to fail, and when that is over; not each time.
    fn tell(&self, outcome: &Result<Response<Bytes>, HttpError>) {
        let why = match outcome {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("status {}", response.status().as_u16())),
            Err(error) => Some(Chain(error.as_ref()).to_string()),
        };
        match (why, self.is_down.load(Ordering::Relaxed)) {
            (Some(why), false) => {
                warn!(
                    endpoint = self.shown,
                    error = why,
                    "the collector of traces takes none; spans wait a little, and are lost then"
                );
                self.is_down.store(true, Ordering::Relaxed);
            }
            (None, true) => {
                info!("the collector takes traces again");
                self.is_down.store(false, Ordering::Relaxed);
            }
            (Some(_), true) | (None, false) => {}
        }
    }
}
