//! The access log: one line per request, written when its response has ended.
//!
//! It contains no queries, no cookies, and no part of a path that looks like an e-mail address or a session.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use http::StatusCode;
use percent_encoding::percent_decode_str;
use tracing::info;

use crate::base::request_id::RequestId;
use crate::base::trace_context::TraceParent;
use crate::observe::metrics::{CompletedRequest, Outcome, Protocol, Responder};
use crate::observe::trace_export::{EndedSpan, StartedSpan};
use crate::request::worker::Worker;

/// What is logged of a request and its connection.
pub(crate) struct RequestInfo<'a> {
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    /// For example `HTTP/1.1`.
    pub(crate) version: &'static str,
    /// The `traceparent` header of the request.
    pub(crate) trace: Option<&'a [u8]>,
    pub(crate) client: IpAddr,
    pub(crate) is_https: bool,
    /// The peer is a trusted proxy.
    pub(crate) is_vouched_for: bool,
}

/// The record of one request. When it is dropped, the request is counted and logged.
pub(crate) struct Access {
    worker: Rc<Worker>,
    /// None: the request is for none of the sites, or the site is unknown.
    pub(crate) site: Option<usize>,
    pub(crate) responder: Responder,
    protocol: Protocol,
    started: Instant,
    status: Option<StatusCode>,
    bytes: u64,
    pub(crate) outcome: Outcome,
    /// The name of the failure, if the gateway answered with an error page.
    failure: Option<&'static str>,
    /// None: neither logged nor exported.
    line: Option<Line>,
    /// The span, if it is exported.
    pub(crate) span: Option<Box<StartedSpan>>,
}

struct Line {
    client: IpAddr,
    incident: RequestId,
    scheme: &'static str,
    method: String,
    host: String,
    path: String,
    version: &'static str,
    trace_id: Option<u128>,
}

impl Access {
    pub(crate) fn begin(info: &RequestInfo<'_>, incident: RequestId, worker: &Rc<Worker>) -> Self {
        worker.counters.requests_in_flight.inc();
        let exporter = worker.gateway.trace_exporter.as_ref();
        let span = exporter.and_then(|exporter| exporter.start(info.trace, info.is_vouched_for, incident));
        let line = (worker.gateway.access_log || span.is_some()).then(|| Line {
            client: info.client,
            incident,
            scheme: if info.is_https { "https" } else { "http" },
            method: info.method.chars().take(32).collect(),
            host: loggable_host(info.host),
            path: loggable_path(info.path),
            version: info.version,
            trace_id: match (&span, info.trace) {
                (Some(span), _) => Some(span.traceparent),
                (None, Some(traceparent)) => TraceParent::parse(traceparent),
                (None, None) => worker.gateway.traces.then(|| TraceParent::generate(incident)),
            }
            .map(|traceparent| traceparent.trace_id),
        });
        Self {
            worker: worker.clone(),
            site: None,
            responder: Responder::Gateway,
            protocol: if info.version == "HTTP/2.0" { Protocol::Http2 } else { Protocol::Http1 },
            started: Instant::now(),
            status: None,
            bytes: 0,
            outcome: Outcome::ClientGone,
            failure: None,
            line,
            span,
        }
    }

    /// Records the status of the response.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// Records that the gateway answers with an error page. `why`: the name of the failure.
    pub(crate) fn failed(&mut self, why: &'static str) {
        self.responder = Responder::Gateway;
        self.failure = Some(why);
    }

    pub(crate) fn count(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    pub(crate) fn complete(&mut self) {
        self.outcome = Outcome::Complete;
    }
}

/// The status of a request whose client left before the response, as in nginx.
const CLIENT_LEFT: u16 = 499;

impl Drop for Access {
    fn drop(&mut self) {
        self.worker.counters.requests_in_flight.dec();
        let took = self.started.elapsed();
        let status = self.status.map_or(CLIENT_LEFT, |status| status.as_u16());
        let Self { responder, protocol, bytes, outcome, .. } = *self;
        let completed =
            CompletedRequest { responder, protocol, status, duration: took, body_bytes: bytes, outcome };
        self.worker.counters_of(self.site).count(&completed);
        if let Some(why) = self.failure {
            let site = self.site.map_or("", |site| &self.worker.gateway.sites[site].config.hosts[0]);
            self.worker.gateway.metrics.failures.inc([site, why]);
        }
        let Some(line) = &self.line else { return };
        if let (Some(span), Some(exporter)) = (&self.span, &self.worker.gateway.trace_exporter) {
            let ended = EndedSpan {
                method: &line.method,
                scheme: line.scheme,
                host: &line.host,
                path: &line.path,
                protocol_version: line.version.trim_start_matches("HTTP/").trim_end_matches(".0"),
                client: &line.client.to_string(),
                request_id: &line.incident.to_string(),
                status,
                outcome: outcome.name(),
                failure: self.failure,
                body_bytes: bytes,
            };
            exporter.export(span, &ended);
        }
        if !self.worker.gateway.access_log {
            return;
        }
        info!(
            target: "imis_gateway::access",
            request_id = %line.incident,
            client = %line.client,
            method = %line.method,
            host = %line.host,
            path = %line.path,
            protocol = line.version,
            status,
            body_bytes_sent = bytes,
            duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            outcome = outcome.name(),
            failure = self.failure,
            trace_id = line.trace_id.map(|id| format!("{id:032x}")),
            "request"
        );
    }
}

/// The requested host, at most 255 characters, or `*` if it could be an e-mail address.
fn loggable_host(host: &str) -> String {
    if host.contains('@') { "*".to_owned() } else { host.chars().take(255).collect() }
}

/// The path, at most 256 characters. Segments with an `@` (e-mail addresses) and cookieless tickets of ASP.NET,
/// `(S(..))` and `(F(..))`, become `*`.
fn loggable_path(path: &str) -> String {
    let segments = path.split('/').map(|segment| if is_private(segment) { "*" } else { segment });
    segments.collect::<Vec<_>>().join("/").chars().take(256).collect()
}

/// Whether a segment may hold an e-mail address or a ticket, percent-decoded repeatedly. A segment that is encoded more
/// than four times counts as private.
fn is_private(segment: &str) -> bool {
    let mut text = segment.to_owned();
    for _ in 0..4 {
        if text.contains(['@', '(']) {
            return true;
        }
        let decoded = percent_decode_str(&text).decode_utf8_lossy().into_owned();
        if decoded == text {
            return false;
        }
        text = decoded;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_path_contains_no_personal_data() {
        assert_eq!(loggable_path("/a/b.aspx"), "/a/b.aspx");
        assert_eq!(loggable_path("/u/ann@example.org/x"), "/u/*/x");
        assert_eq!(loggable_path("/u/ann%40example.org"), "/u/*");
        assert_eq!(loggable_path("/u/ann%25254%30example.org"), "/u/*");
        assert_eq!(loggable_path("/(F(0123ABCD))/Default.aspx"), "/*/Default.aspx");
        assert_eq!(loggable_path(&"/x".repeat(500)).len(), 256);
        assert_eq!(loggable_path(&format!("/a/%{}", "25".repeat(30_000))), "/a/*");
    }
}
