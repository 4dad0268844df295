//! The parts of the file that concern the whole process: time-outs, limits, log and audit. `keys` describes each key.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::config::machine;
use crate::config::secret::{Secret, secret};
use crate::config::section::Value;
use crate::config::values::{self, Roots};

/// Time-outs for clients. There is none for a request as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientTimeouts {
    pub(crate) handshake: Duration,
    pub(crate) request_head: Duration,
    pub(crate) body_idle: Duration,
    pub(crate) idle: Duration,
    pub(crate) connection_age: Duration,
    pub(crate) drain: Duration,
}

pub(super) fn timeouts(section: &Value<'_>) -> ClientTimeouts {
    ClientTimeouts {
        handshake: section.duration("handshake"),
        request_head: section.duration("request_head"),
        body_idle: section.duration("body_idle"),
        idle: section.duration("idle"),
        connection_age: section.duration("connection_age"),
        drain: section.duration("drain"),
    }
}

/// Limits for the connections of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) connections_per_address: usize,
    pub(crate) min_body_rate: u64,
}

pub(super) fn limits(section: &Value<'_>) -> Limits {
    let connections = section.optional_number("connections").unwrap_or_else(machine::max_connections);
    let per_address = section.optional_number("connections_per_address");
    Limits {
        connections,
        connections_per_address: per_address.unwrap_or(connections.div_ceil(2)),
        min_body_rate: section.number("min_body_rate"),
    }
}

/// Sign-ins per minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SignInLimits {
    pub(crate) per_network: NonZeroU32,
    pub(crate) per_person: NonZeroU32,
}

pub(super) fn sign_in_limits(section: &Value<'_>) -> SignInLimits {
    let per_minute = |key| NonZeroU32::new(section.number(key)).unwrap_or(NonZeroU32::MIN);
    SignInLimits {
        per_network: per_minute("sign_ins_per_network"),
        per_person: per_minute("sign_ins_per_person"),
    }
}

/// The log on standard error.
#[derive(Debug, Clone, Copy)]
pub struct Log {
    pub(crate) format: LogFormat,
    pub(crate) level: tracing::Level,
    pub(crate) access: bool,
    pub(crate) generate_traceparent: bool,
}

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Json,
    Pretty,
    Journald,
}

pub(super) fn log(section: &Value<'_>) -> Log {
    use tracing::Level;
    let formats =
        [("json", LogFormat::Json), ("pretty", LogFormat::Pretty), ("journald", LogFormat::Journald)];
    let levels = [
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    Log {
        format: section.word("format", &formats),
        level: section.word("level", &levels),
        access: section.boolean("access"),
        generate_traceparent: section.boolean("generate_traceparent"),
    }
}

/// A collector of traces (OpenTelemetry, OTLP over HTTP).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Otlp {
    pub(crate) endpoint: Url,
    pub(crate) roots: Roots,
    pub(crate) token: Option<Arc<Secret>>,
    pub(crate) sample_percent: u64,
}

pub(super) fn otlp(section: &Value<'_>) -> Option<Otlp> {
    if cfg!(not(feature = "otel")) {
        section.report("this program was built without the feature `otel`; the packages have it");
    }
    Some(Otlp {
        roots: section.roots("ca_file"),
        token: section.value("token").and_then(|value| secret(&value)).map(Arc::new),
        sample_percent: section.number("sample_percent"),
        endpoint: section.parsed("endpoint", otlp_endpoint)?,
    })
}

fn otlp_endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or("expected an http or https URL, like http://127.0.0.1:4318/v1/traces")?;
    if values::has_credentials(&url) {
        return Err("no user name or password in the URL; use token".to_owned());
    }
    Ok(url)
}

/// Where sign-in decisions are recorded, in addition to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditConfig {
    pub(crate) file: Option<PathBuf>,
    /// Bytes.
    pub(crate) rotate_at: u64,
    pub(crate) keep: usize,
    pub(crate) emails: Emails,
}

/// How e-mail addresses are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Emails {
    Hashed,
    Plain,
    None,
}

pub(super) fn audit(section: &Value<'_>) -> AuditConfig {
    AuditConfig {
        file: section.parsed("file", values::not_empty).map(|path| section.files().at(path)),
        rotate_at: section.text("rotate_at", values::size),
        keep: section.number("keep"),
        emails: section
            .word("emails", &[("hashed", Emails::Hashed), ("plain", Emails::Plain), ("none", Emails::None)]),
    }
}
