//! The configuration, resolved: files read, secrets fetched, certificates loaded, every value of its final type.
//!
//! `Config::load` either returns something that can run, or every problem of the file at once. It opens no socket.

mod acme;
mod app;
pub(crate) mod claims;
pub(crate) mod expression;
mod files;
mod imis;
pub(crate) mod machine_keys;
mod problem;
mod raw;
mod read;
pub(crate) mod reference;
mod secret;
mod values;
mod warnings;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustls::sign::CertifiedKey;

use crate::base::header_rules::Rules;
pub(crate) use acme::{Acme, Challenge};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use app::app_at;
#[cfg(test)]
pub(crate) use app::test_app;
pub(crate) use app::{
    App, Claims, Effect, FromZendesk, Guards, Messaging, OnBehalfOf, OnDuplicate, Reason, Rule, SharedSecret,
    ShownSecret, SingleLogout, Source, Zendesk, ZendeskApi, ZendeskCredentials,
};
pub(crate) use files::{Files, Watched, read as read_file, read_text};
pub(crate) use imis::{
    ClientApplication, Columns, FormsTicket, How, Imis, Method, OnError, ProfileColumns, ServiceAccount,
    WhoamiQuery,
};
pub use problem::{Problem, Problems};
pub(crate) use read::glance;
pub use secret::Secret;
pub(crate) use secret::fingerprint;
pub(crate) use values::{Authority, server as server_of};

/// Where `--config` points when it is not given: the first of these that exists.
pub const DEFAULT_PATHS: [&str; 2] = ["/etc/imis-gateway/config.yaml", "./config.yaml"];

/// Where the control socket is unless `listen.control` says otherwise: in the RuntimeDirectory= of the unit.
pub(crate) const DEFAULT_CONTROL: &str = "/run/imis-gateway/control.sock";

/// Everything the gateway needs to know, immutable.
#[derive(Debug)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    pub(crate) listen: Listen,
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Whether trusted proxies begin each connection with a PROXY header.
    pub(crate) proxy_protocol: bool,
    /// Signs what browsers carry for us between two requests; none = one of this process's own.
    pub(crate) state_key: Option<Arc<SharedSecret>>,
    /// Seals TLS session tickets; none = keys of this process's own.
    pub(crate) ticket_key: Option<Arc<SharedSecret>>,
    pub(crate) workers: usize,
    /// How often the files it names are looked at; none = only on a reload.
    pub(crate) watch_interval: Option<Duration>,
    pub(crate) timeouts: BrowserTimeouts,
    pub(crate) limits: Limits,
    pub(crate) sign_in_limits: SignInLimits,
    /// How to log.
    pub log: Log,
    /// Where traces go.
    pub(crate) otlp: Option<Otlp>,
    pub(crate) audit: AuditConfig,
    /// Of the file's text, to tell which configuration decided.
    pub(crate) hash: String,
    /// The file's text, which holds no secret: they are named in it, and fetched.
    pub(crate) text: String,
    /// What it names.
    pub(crate) watched: Watched,
    pub(crate) sites: Vec<Site>,
}

/// Addresses to accept connections on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) https: Vec<SocketAddr>,
    pub(crate) http: Vec<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
    /// Path of the Unix socket for `reload` and `status`.
    pub(crate) control: Option<PathBuf>,
}

/// What is settled when the gateway starts, and by nothing later.
#[derive(Debug, Clone)]
pub(crate) struct Fixed {
    listen: Listen,
    workers: usize,
    log: Log,
    otlp: Option<Otlp>,
}

impl Fixed {
    /// The keys in which another configuration differs.
    pub(crate) fn differing(&self, other: &Self) -> Vec<&'static str> {
        let keys = [
            ("listen.https", self.listen.https != other.listen.https),
            ("listen.http", self.listen.http != other.listen.http),
            ("listen.admin", self.listen.admin != other.listen.admin),
            ("listen.control", self.listen.control != other.listen.control),
            ("workers", self.workers != other.workers),
            ("log.format", self.log.format != other.log.format),
            ("log.level", self.log.level != other.log.level),
            ("log.otlp", self.otlp != other.otlp),
        ];
        keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }
}

/// Where decisions are recorded beside the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditConfig {
    pub(crate) file: Option<PathBuf>,
    /// Bytes.
    pub(crate) rotate_at: u64,
    /// Older files.
    pub(crate) keep: usize,
    pub(crate) emails: Emails,
}

/// How e-mail addresses stand in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Emails {
    Hashed,
    Plain,
    None,
}

/// The log on standard error.
#[derive(Debug, Clone, Copy)]
pub struct Log {
    /// One JSON object a line, or text for people.
    pub format: LogFormat,
    /// The least severe level that is written.
    pub level: tracing::Level,
    /// Whether every request gets a line.
    pub access: bool,
    /// Whether requests without a `traceparent` are given one.
    pub generate_traceparent: bool,
}

/// A collector of traces (OpenTelemetry, OTLP over HTTP).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Otlp {
    pub(crate) endpoint: url::Url,
    pub(crate) roots: Roots,
    /// Sent to it, as a bearer token.
    pub(crate) token: Option<Arc<Secret>>,
    /// Percentage of requests to sample, of those that bring no sampling decision of their own.
    pub(crate) sample_percent: u64,
}

/// See [`Log::format`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for people, coloured on a terminal.
    Pretty,
    /// To systemd's journal, with fields and priorities.
    Journald,
}

/// One iMIS web site: the hosts it is served under, and what stands behind.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// Lower-case names without port; at least one. The first is used where one must be chosen.
    pub(crate) hosts: Vec<String>,
    /// None as long as a CA has not given one.
    pub(crate) certificate: Option<Arc<CertifiedKey>>,
    /// What hosts are shown that the CA has given nothing good for yet: what they were shown under the configuration before.
    pub(crate) of_before: Vec<(String, Arc<CertifiedKey>)>,
    /// Where it comes from, if from a CA.
    pub(crate) acme: Option<Arc<Acme>>,
    pub(crate) upstream: Upstream,
    pub(crate) sign_on: Option<SignOn>,
}

/// The apps of a site, and the iMIS that knows their members.
#[derive(Debug, Clone)]
pub(crate) struct SignOn {
    pub(crate) imis: Imis,
    pub(crate) apps: Vec<Arc<App>>,
}

impl Site {
    pub(crate) fn apps(&self) -> impl Iterator<Item = &Arc<App>> {
        self.sign_on.iter().flat_map(|sign_on| &sign_on.apps)
    }
}

/// The iMIS web servers of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// At least one.
    pub(crate) servers: Vec<Server>,
    pub(crate) balance: Balance,
    /// How a session stays on its server.
    pub(crate) affinity: Option<Affinity>,
    /// With which each connection to a server begins.
    pub(crate) proxy_protocol: Option<ProxyHeader>,
    /// What servers are asked after their health.
    pub(crate) health: Option<Health>,
    /// Roots from `ca_file`; the system's store when absent.
    pub(crate) roots: Roots,
    /// The Host that iMIS sees; the visitor's own when absent.
    pub(crate) host: Option<Authority>,
    /// Which of visitors' headers never reach iMIS, beside those that never do.
    pub(crate) headers: Rules,
    pub(crate) limits: UpstreamLimits,
    pub(crate) timeouts: Timeouts,
}

/// Which of several servers a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Balance {
    /// The first that is well.
    Failover,
    /// The one with the fewest requests, in turn.
    LeastRequests,
}

/// A version of the PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyHeader {
    V1,
    V2,
}

/// How a session stays on its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Affinity {
    /// By a cookie of ours.
    Cookie,
    /// By cookies of iMIS's with these names.
    Learned(Vec<String>),
}

/// What a server is asked to know whether it is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) path: String,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    /// Times in a row that make it ill, and well again.
    pub(crate) fall: u32,
    pub(crate) rise: u32,
}

/// An upstream of no site.
#[cfg(test)]
pub(crate) fn test_upstream(servers: &[&str]) -> Upstream {
    Upstream {
        servers: servers.iter().map(|url| values::server(url).unwrap()).collect(),
        balance: Balance::Failover,
        affinity: None,
        proxy_protocol: None,
        health: None,
        roots: Roots(Arc::new(rustls::RootCertStore::empty())),
        host: None,
        headers: Rules::default(),
        limits: UpstreamLimits { concurrent_requests: 1, queue_timeout: Duration::ZERO },
        timeouts: Timeouts {
            connect: Duration::ZERO,
            tls: Duration::ZERO,
            response_head: Duration::ZERO,
            body_idle: Duration::ZERO,
            idle: Duration::ZERO,
        },
    }
}

/// Certificates that others are vouched for by.
#[derive(Debug, Clone)]
pub(crate) struct Roots(pub(crate) Arc<rustls::RootCertStore>);

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.0.roots == other.0.roots
    }
}

impl Eq for Roots {}

/// What iMIS is given to do at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UpstreamLimits {
    /// Requests that have arrived whole and are not answered yet. Others wait for a place.
    pub(crate) concurrent_requests: usize,
    /// For so long.
    pub(crate) queue_timeout: Duration,
}

impl Upstream {
    /// The Host that iMIS is to see when `asked` was asked for.
    pub(crate) fn host_for(&self, asked: &http::uri::Authority) -> String {
        self.host.as_ref().map_or_else(|| asked.as_str().to_owned(), Authority::to_string)
    }
}

/// One upstream server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) tls: bool,
    /// Name or address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Deadlines towards browsers. There is no limit on the whole of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BrowserTimeouts {
    /// TLS handshake.
    pub(crate) handshake: Duration,
    /// From the first byte of a request to the end of its head; also from the handshake to the first request.
    pub(crate) request_head: Duration,
    /// Within a body, while the browser neither sends nor takes anything.
    pub(crate) body_idle: Duration,
    /// How long a connection without a request is kept.
    pub(crate) idle: Duration,
    /// How long a connection takes new requests up.
    pub(crate) connection_age: Duration,
    /// How long requests under way may take to finish once the gateway stops.
    pub(crate) drain: Duration,
}

/// What browsers may take and have to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Connections of browsers at a time.
    pub(crate) connections: usize,
    /// The same for one address, which is a network (/64) in IPv6.
    pub(crate) connections_per_address: usize,
    /// Bytes a second that a browser has to move of a body while it is waited for; 0 = as few as it likes.
    pub(crate) min_body_rate: u64,
}

/// Sign-ins a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SignInLimits {
    /// Of one address, which is a network (/64) in IPv6.
    pub(crate) per_network: NonZeroU32,
    pub(crate) per_person: NonZeroU32,
}

/// Deadlines towards the upstream. There is no limit on the whole of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// TCP connection.
    pub(crate) connect: Duration,
    /// TLS handshake.
    pub(crate) tls: Duration,
    /// From the end of the request, body included, to the head of the response.
    pub(crate) response_head: Duration,
    /// Within a body, while iMIS neither sends nor takes anything; in a WebSocket, while neither side does.
    pub(crate) body_idle: Duration,
    /// How long an unused connection is kept.
    pub(crate) idle: Duration,
}

impl Config {
    /// Reads and resolves `file`.
    ///
    /// # Errors
    /// Every problem of the file, in its order.
    pub fn load(file: &Path) -> Result<Self, Problems> {
        let text = read_text(file)
            .map_err(|error| Problems::of_file(file.to_owned(), format!("cannot be read: {error}")))?;
        Self::resolve(file, &text)
    }

    /// Resolves a text as `file`'s: reads what it names.
    pub(crate) fn resolve(file: &Path, text: &str) -> Result<Self, Problems> {
        read::config(file, text).map_err(|list| Problems { file: file.to_owned(), list })
    }

    pub(crate) fn fixed(&self) -> Fixed {
        Fixed { listen: self.listen.clone(), workers: self.workers, log: self.log, otlp: self.otlp.clone() }
    }

    /// The secrets of all apps, as they may be shown.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = ShownSecret> {
        self.sites.iter().flat_map(Site::apps).flat_map(|app| app.secrets())
    }

    /// How many sites and apps there are, for a line that confirms what was read.
    pub fn summary(&self) -> String {
        let apps: usize = self.sites.iter().map(|site| site.apps().count()).sum();
        format!("{} site(s), {apps} app(s)", self.sites.len())
    }
}

/// Reads a text as a file's, for fuzz targets and benchmarks.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_as_file(text: &str) {
    // In YAML a CR ends a line, too.
    let lines = text.matches(['\n', '\r']).count() as u64;
    if let Err(problems) = read::config(Path::new("/nowhere/config.yaml"), text) {
        assert!(!problems.is_empty(), "refused without a reason");
        for problem in problems {
            assert!(problem.line <= lines + 1, "{problem:?} of {lines} lines");
        }
    }
}
