//! From the tree of the file to `Config`: one function a section, each asking for its keys and their defaults.
//!
//! Every function reads all of its keys before it gives up, so that one run names all problems.

mod certificate;
mod decisions;
mod listen;
mod machine;
mod recognise;
mod sign_on;
mod site;

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::base::x509;
use crate::config::files::{Files, Watched};
use crate::config::pem;
use crate::config::raw;
use crate::config::raw::{Reader, Section, Value};
use crate::config::{
    AuditConfig, ClientTimeouts, Config, Emails, Limits, Log, LogFormat, Otlp, Problem, Roots, SignInLimits,
    values,
};

pub(crate) use listen::glance;

/// Reads the whole file; `file` gives relative paths their folder.
pub(super) fn config(file: &Path, text: &str) -> Result<Config, Vec<Problem>> {
    let tree = raw::parse(text).map_err(|problem| vec![problem])?;
    let reader = Reader::default();
    let files = Files::below(file.parent().unwrap_or(Path::new(".")));
    let config = reader.document(&tree).and_then(|document| root(document, text, file, &files));
    match (config, reader.finish()) {
        (Some(config), problems) if problems.is_empty() => Ok(Config { watched: files.watched(), ..config }),
        (_, problems) => Err(problems),
    }
}

/// Paths of all keys that the reader looks for in a text, whatever is wrong with their values.
#[cfg(test)]
pub(super) fn keys_asked_for(file: &Path, text: &str) -> Vec<String> {
    let tree = raw::parse(text).unwrap();
    let reader = Reader::default();
    let files = Files::below(file.parent().unwrap());
    let _ = reader.document(&tree).and_then(|document| root(document, text, file, &files));
    reader.asked.into_inner()
}

fn root(mut root: Section<'_>, text: &str, file: &Path, files: &Files) -> Option<Config> {
    if let Some(version) = root.required("version") {
        version.number(1..=1);
    }
    let listen = match root.optional("listen") {
        Some(value) => value.section().and_then(|section| listen::listen(section, files)),
        None => Some(listen::default()),
    };
    let trusted_proxies = match root.optional("trusted_proxies") {
        Some(list) => list.texts(network),
        None => Some(Vec::new()),
    };
    let proxy_protocol = match root.optional("proxy_protocol") {
        Some(value) => proxy_protocol(&value, trusted_proxies.as_deref()),
        None => Some(false),
    };
    let state_key = match root.optional("state_key") {
        Some(value) => long_key(&value, files).map(Some),
        None => Some(None),
    };
    let ticket_key = match root.optional("ticket_key") {
        Some(value) => long_key(&value, files).map(Some),
        None => Some(None),
    };
    let workers = match root.optional("workers") {
        Some(value) => workers(&value),
        None => Some(cores()),
    };
    let watch_interval = match root.optional("watch_interval") {
        Some(value) if value.is_off() => Some(None),
        Some(value) => value.text(values::duration).map(Some),
        None => Some(Some(DEFAULT_WATCH)),
    };
    let timeouts = match root.optional("timeouts") {
        Some(value) => value.section().and_then(timeouts),
        None => Some(DEFAULT_TIMEOUTS),
    };
    let limits = match root.optional("limits") {
        Some(value) => value.section().and_then(|section| limits(Some(section))),
        None => limits(None),
    };
    let log = match root.optional("log") {
        Some(value) => value.section().and_then(|section| log(section, files)),
        None => Some((default_log(), None)),
    };
    let audit = match root.optional("audit") {
        Some(value) => value.section().and_then(|section| audit(section, files)),
        None => Some(default_audit()),
    };
    let sites = root.required("sites").and_then(|list| site::sites(&list, files));
    root.finish();
    let (log, otlp) = log?;
    Some(Config {
        file: file.to_owned(),
        listen: listen?,
        trusted_proxies: trusted_proxies?,
        proxy_protocol: proxy_protocol?,
        state_key: state_key?,
        ticket_key: ticket_key?,
        workers: workers?,
        watch_interval: watch_interval?,
        timeouts: timeouts?,
        limits: limits.as_ref().map(|(limits, _)| *limits)?,
        sign_in_limits: limits.map(|(_, sign_ins)| sign_ins)?,
        log,
        otlp,
        audit: audit?,
        hash: hash(text),
        text: text.to_owned(),
        watched: Watched::default(),
        sites: sites?,
    })
}

fn network(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| format!("`{text}` is not a network; write it like 10.0.0.0/8 or 192.0.2.7"))
}

/// `trusted`: none when they could not be read.
fn proxy_protocol(value: &Value<'_>, trusted: Option<&[IpNet]>) -> Option<bool> {
    let on = value.boolean()?;
    if on && trusted.is_some_and(<[IpNet]>::is_empty) {
        value.report("nobody's PROXY header would be believed: list the load balancer in trusted_proxies");
        return None;
    }
    Some(on)
}

/// Shorter ones can be guessed.
const SHORTEST_STATE_KEY: usize = 32;

fn long_key(value: &Value<'_>, files: &Files) -> Option<Arc<crate::config::SharedSecret>> {
    let secret = sign_on::shared_secret(value, files)?;
    if secret.all().any(|key| key.expose().len() < SHORTEST_STATE_KEY) {
        value.report(format!("a key of at least {SHORTEST_STATE_KEY} characters is needed, such as `openssl rand -hex 32` prints"));
        return None;
    }
    Some(Arc::new(secret))
}

/// Certificates and secrets change a few times a year, and somebody may stand beside it.
const DEFAULT_WATCH: Duration = Duration::from_secs(10);

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn workers(value: &Value<'_>) -> Option<usize> {
    if value.is_word("auto") {
        return Some(cores());
    }
    value.number(1..=1024).and_then(|number| usize::try_from(number).ok())
}

/// Members' networks are used to nginx's defaults; whoever attacks is used to them, too.
const DEFAULT_TIMEOUTS: ClientTimeouts = ClientTimeouts {
    handshake: Duration::from_secs(10),
    request_head: Duration::from_secs(30),
    body_idle: Duration::from_secs(30),
    idle: Duration::from_secs(75),
    connection_age: Duration::from_secs(3600),
    drain: Duration::from_secs(30),
};

fn timeouts(mut section: Section<'_>) -> Option<ClientTimeouts> {
    let default = DEFAULT_TIMEOUTS;
    let mut read = |key, default| section.text_or(key, values::duration, default);
    let handshake = read("handshake", default.handshake);
    let request_head = read("request_head", default.request_head);
    let body_idle = read("body_idle", default.body_idle);
    let idle = read("idle", default.idle);
    let connection_age = read("connection_age", default.connection_age);
    let drain = read("drain", default.drain);
    section.finish();
    Some(ClientTimeouts {
        handshake: handshake?,
        request_head: request_head?,
        body_idle: body_idle?,
        idle: idle?,
        connection_age: connection_age?,
        drain: drain?,
    })
}

/// http.sys lets go of whoever takes less (`minBytesPerSecond`).
const DEFAULT_BODY_RATE: u64 = 240;

/// An office of five hundred that comes to work at nine, and a person who tries again and again.
const DEFAULT_SIGN_INS: SignInLimits = SignInLimits {
    per_network: NonZeroU32::new(600).expect("600 is not zero"),
    per_person: NonZeroU32::new(60).expect("60 is not zero"),
};

fn limits(section: Option<Section<'_>>) -> Option<(Limits, SignInLimits)> {
    let (mut connections, mut per_address, mut min_body_rate) = (None, None, None);
    let mut sign_ins = (Some(DEFAULT_SIGN_INS.per_network), Some(DEFAULT_SIGN_INS.per_person));
    if let Some(mut section) = section {
        connections = section.optional("connections").map(|value| count(&value));
        per_address = section.optional("connections_per_address").map(|value| count(&value));
        min_body_rate = section.optional("min_body_rate").map(|value| value.number(0..=1_000_000));
        let mut a_minute = |key, default| match section.optional(key) {
            Some(value) => value
                .number(1..=1_000_000)
                .and_then(|number| u32::try_from(number).ok())
                .and_then(NonZeroU32::new),
            None => Some(default),
        };
        sign_ins = (
            a_minute("sign_ins_per_network", DEFAULT_SIGN_INS.per_network),
            a_minute("sign_ins_per_person", DEFAULT_SIGN_INS.per_person),
        );
        section.finish();
    }
    let connections = connections.unwrap_or(Some(None))?.unwrap_or_else(machine::most_connections);
    let per_address = per_address.unwrap_or(Some(None))?.unwrap_or(connections.div_ceil(2));
    let limits = Limits {
        connections,
        connections_per_address: per_address,
        min_body_rate: min_body_rate.unwrap_or(Some(DEFAULT_BODY_RATE))?,
    };
    Some((limits, SignInLimits { per_network: sign_ins.0?, per_person: sign_ins.1? }))
}

/// A number, or none for `auto`.
fn count(value: &Value<'_>) -> Option<Option<usize>> {
    if value.is_word("auto") {
        return Some(None);
    }
    value.number(1..=1_000_000).and_then(|number| usize::try_from(number).ok()).map(Some)
}

/// The first 64 bits of the text's SHA-256.
fn hash(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn default_audit() -> AuditConfig {
    AuditConfig { file: None, rotate_at: 10 * 1024 * 1024, keep: 10, emails: Emails::Hashed }
}

fn audit(mut section: Section<'_>, files: &Files) -> Option<AuditConfig> {
    let default = default_audit();
    let file = match section.optional("file") {
        Some(value) if value.is_off() => Some(None),
        Some(value) => value.text(values::not_empty).map(|path| Some(files.at(path))),
        None => Some(None),
    };
    let rotate_at = section.text_or("rotate_at", values::size, default.rotate_at);
    let keep = match section.optional("keep") {
        Some(value) => value.number(0..=1000).and_then(|number| usize::try_from(number).ok()),
        None => Some(default.keep),
    };
    let emails = section.text_or(
        "emails",
        |text| match text {
            "hashed" => Ok(Emails::Hashed),
            "plain" => Ok(Emails::Plain),
            "none" => Ok(Emails::None),
            other => Err(format!("`{other}` is not how addresses can be shown; use hashed, plain or none")),
        },
        default.emails,
    );
    section.finish();
    Some(AuditConfig { file: file?, rotate_at: rotate_at?, keep: keep?, emails: emails? })
}

fn default_log() -> Log {
    Log { format: LogFormat::Json, level: tracing::Level::INFO, access: true, generate_traceparent: false }
}

fn log(mut section: Section<'_>, files: &Files) -> Option<(Log, Option<Otlp>)> {
    let default = default_log();
    let format = section.text_or(
        "format",
        |text| match text {
            "json" => Ok(LogFormat::Json),
            "pretty" => Ok(LogFormat::Pretty),
            "journald" => Ok(LogFormat::Journald),
            other => Err(format!("`{other}` is not a format; use json, pretty or journald")),
        },
        default.format,
    );
    let level = section.text_or(
        "level",
        |text| match text {
            "error" => Ok(tracing::Level::ERROR),
            "warn" => Ok(tracing::Level::WARN),
            "info" => Ok(tracing::Level::INFO),
            "debug" => Ok(tracing::Level::DEBUG),
            "trace" => Ok(tracing::Level::TRACE),
            other => Err(format!("`{other}` is not a level; use error, warn, info, debug or trace")),
        },
        default.level,
    );
    let access = match section.optional("access") {
        Some(value) => value.boolean(),
        None => Some(default.access),
    };
    let generate_traceparent = match section.optional("generate_traceparent") {
        Some(value) => value.boolean(),
        None => Some(default.generate_traceparent),
    };
    let otlp = match section.optional("otlp") {
        Some(value) if value.is_off() => Some(None),
        Some(value) => otlp(&value, files).map(Some),
        None => Some(None),
    };
    section.finish();
    Some((
        Log { format: format?, level: level?, access: access?, generate_traceparent: generate_traceparent? },
        otlp?,
    ))
}

fn otlp(value: &Value<'_>, files: &Files) -> Option<Otlp> {
    let mut section = value.section()?;
    let endpoint = section.required("endpoint").and_then(|value| {
        value.text(|text| {
            let wrong =
                || "this is no http or https URL; write it like http://127.0.0.1:4318/v1/traces".to_owned();
            let url = url::Url::parse(text).map_err(|_| wrong())?;
            if !url.username().is_empty() || url.password().is_some() {
                return Err("no user and password may be in it: use token".to_owned());
            }
            if matches!(url.scheme(), "http" | "https") && url.has_host() { Ok(url) } else { Err(wrong()) }
        })
    });
    let roots = match section.optional("ca_file") {
        Some(value) => value.text(|path| pem::roots(files, &files.at(path)).map(Roots)),
        None => Some(Roots(x509::system_roots())),
    };
    let token = match section.optional("token") {
        Some(value) => sign_on::secret(&value, files).map(|token| Some(Arc::new(token))),
        None => Some(None),
    };
    let sample_percent = match section.optional("sample_percent") {
        Some(value) => value.number(0..=100),
        None => Some(100),
    };
    section.finish();
    if cfg!(not(feature = "otel")) {
        value.report("this program was built without the feature `otel`; the packages have it");
        return None;
    }
    Some(Otlp { endpoint: endpoint?, roots: roots?, token: token?, sample_percent: sample_percent? })
}
