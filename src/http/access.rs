//! The access log: one line a request, written when its response is done with, or given up.
//!
//! Queries, cookies and whatever in a path looks like an address or a session never appear.

use std::net::IpAddr;
use std::time::Instant;

use http::StatusCode;
use percent_encoding::percent_decode_str;
use tracing::info;

use crate::incident::Incident;

/// What a request looks like from outside.
pub(super) struct Seen<'a> {
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    /// `HTTP/1.1`.
    pub(super) version: &'static str,
}

impl Seen<'_> {
    /// Of what could not be read.
    pub(super) fn nothing() -> Self {
        Self { method: "?", host: "", path: "", version: "?" }
    }
}

/// The record of one request. Its line is written when it is dropped.
pub(crate) struct Access {
    started: Instant,
    client: IpAddr,
    incident: Incident,
    method: String,
    host: String,
    path: String,
    version: &'static str,
    status: Option<StatusCode>,
    bytes: u64,
    end: End,
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The response was handed over whole.
    Complete,
    /// The client left before that.
    ClientGone,
    /// The upstream failed in the middle of the body.
    UpstreamBroke,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client_gone",
            Self::UpstreamBroke => "upstream_broke",
        }
    }
}

impl Access {
    pub(super) fn begin(seen: &Seen<'_>, client: IpAddr, incident: Incident) -> Self {
        Self {
            started: Instant::now(),
            client,
            incident,
            method: seen.method.chars().take(32).collect(),
            host: loggable_host(seen.host),
            path: loggable_path(seen.path),
            version: seen.version,
            status: None,
            bytes: 0,
            end: End::ClientGone,
        }
    }

    /// There is a response; what becomes of its body is still to be told.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    pub(super) fn count(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    pub(super) fn complete(&mut self) {
        self.end = End::Complete;
    }

    pub(super) fn upstream_broke(&mut self) {
        self.end = End::UpstreamBroke;
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        info!(
            target: "imis_gateway::access",
            incident = %self.incident,
            client = %self.client,
            method = %self.method,
            host = %self.host,
            path = %self.path,
            version = self.version,
            // 499 as nginx: the client left before there was a status.
            status = self.status.map_or(499, |status| status.as_u16()),
            bytes = self.bytes,
            ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            end = self.end.name(),
            "request"
        );
    }
}

/// A host as it was asked for, unless it could be an e-mail address; at most 255 characters.
fn loggable_host(host: &str) -> String {
    if host.contains('@') { "*".to_owned() } else { host.chars().take(255).collect() }
}

/// A path without what could identify or let in a person: segments with an `@` (e-mail addresses) and ASP.NET's
/// cookieless tickets `(S(..))`, `(F(..))` become `*`; at most 256 characters.
fn loggable_path(path: &str) -> String {
    let segments = path.split('/').map(|segment| if is_private(segment) { "*" } else { segment });
    segments.collect::<Vec<_>>().join("/").chars().take(256).collect()
}

/// However often it is encoded; what is encoded more often than anybody means it is private, too.
fn is_private(segment: &str) -> bool {
    let mut reading = segment.to_owned();
    for _ in 0..4 {
        if reading.contains(['@', '(']) {
            return true;
        }
        let decoded = percent_decode_str(&reading).decode_utf8_lossy().into_owned();
        if decoded == reading {
            return false;
        }
        reading = decoded;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_path_names_nobody() {
        assert_eq!(loggable_path("/a/b.aspx"), "/a/b.aspx");
        assert_eq!(loggable_path("/u/ann@example.org/x"), "/u/*/x");
        assert_eq!(loggable_path("/u/ann%40example.org"), "/u/*");
        assert_eq!(loggable_path("/u/ann%25254%30example.org"), "/u/*");
        assert_eq!(loggable_path("/(F(0123ABCD))/Default.aspx"), "/*/Default.aspx");
        assert_eq!(loggable_path(&"/x".repeat(500)).len(), 256);
        assert_eq!(loggable_path(&format!("/a/%{}", "25".repeat(30_000))), "/a/*");
    }
}
