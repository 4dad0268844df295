//! The whole configuration file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::base::hex::hex;
use crate::config::app::ShownSecret;
use crate::config::files::{Watched, read_text};
use crate::config::listen::{self, Listen};
use crate::config::problem::{Problem, Problems};
use crate::config::process::{self, AuditConfig, ClientTimeouts, Limits, Log, Otlp, SignInLimits};
use crate::config::secret::{SharedSecret, long_key};
use crate::config::section::{Reader, Value};
use crate::config::site::{self, Site};
use crate::config::{tree, values};

/// Everything the gateway needs to know; immutable.
#[derive(Debug)]
pub struct Config {
    pub(crate) file: PathBuf,
    pub(crate) listen: Listen,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) proxy_protocol: bool,
    /// Signs the gateway's cookies; `None` = each process creates its own key.
    pub(crate) state_key: Option<Arc<SharedSecret>>,
    /// Encrypts TLS session tickets; `None` = each process creates its own key.
    pub(crate) ticket_key: Option<Arc<SharedSecret>>,
    pub(crate) workers: usize,
    /// How often to check `watched` for changes; `None` = only at a reload.
    pub(crate) watch_interval: Option<Duration>,
    pub(crate) timeouts: ClientTimeouts,
    pub(crate) limits: Limits,
    pub(crate) sign_in_limits: SignInLimits,
    /// The log.
    pub log: Log,
    pub(crate) otlp: Option<Otlp>,
    pub(crate) audit: AuditConfig,
    /// Hash of `text`, which identifies the configuration in logs.
    pub(crate) hash: String,
    /// The text of the file. It contains references to secrets, not the secrets.
    pub(crate) text: String,
    /// The files that it names.
    pub(crate) watched: Watched,
    pub(crate) sites: Vec<Site>,
}

/// The settings that need a restart.
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
            ("listen.admin_hosts", self.listen.admin_hosts != other.listen.admin_hosts),
            ("listen.control", self.listen.control != other.listen.control),
            ("workers", self.workers != other.workers),
            ("log.format", self.log.format != other.log.format),
            ("log.level", self.log.level != other.log.level),
            ("log.otlp", self.otlp != other.otlp),
        ];
        keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }
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

    /// Resolves `text` as the contents of `file`, and reads the files that it names.
    pub(crate) fn resolve(file: &Path, text: &str) -> Result<Self, Problems> {
        read(file, text).map_err(|list| Problems::new(file.to_owned(), list))
    }

    pub(crate) fn fixed(&self) -> Fixed {
        Fixed { listen: self.listen.clone(), workers: self.workers, log: self.log, otlp: self.otlp.clone() }
    }

    /// The secrets of all apps, as they may be shown.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = ShownSecret> {
        self.sites.iter().flat_map(Site::apps).flat_map(|app| app.secrets())
    }

    /// The number of sites and apps, for a confirmation.
    pub fn summary(&self) -> String {
        let apps: usize = self.sites.iter().map(|site| site.apps().count()).sum();
        format!("{} site(s), {apps} app(s)", self.sites.len())
    }
}

pub(crate) fn read(file: &Path, text: &str) -> Result<Config, Vec<Problem>> {
    let tree = tree::parse(text).map_err(|problem| vec![problem])?;
    let reader = Reader::new(file);
    let config = document(&reader.document(&tree), text, file);
    let (files, problems) = reader.finish();
    // With problems, parts of it are placeholders.
    if problems.is_empty() { Ok(Config { watched: files.watched(), ..config }) } else { Err(problems) }
}

fn document(root: &Value<'_>, text: &str, file: &Path) -> Config {
    let _: u64 = root.number("version");
    let trusted_proxies = root.texts("trusted_proxies", values::network);
    let proxy_protocol = root.boolean("proxy_protocol");
    if let Some(value) = root.given("proxy_protocol").filter(|_| proxy_protocol && trusted_proxies.is_empty())
    {
        value.report("no PROXY header would be trusted: list the load balancer in trusted_proxies");
    }
    let key = |name| root.value(name).and_then(|value| long_key(&value)).map(Arc::new);
    let limits = root.with_defaults("limits");
    let log = root.with_defaults("log");
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Config {
        file: file.to_owned(),
        listen: listen::listen(&root.with_defaults("listen")),
        trusted_proxies,
        proxy_protocol,
        state_key: key("state_key"),
        ticket_key: key("ticket_key"),
        workers: root.optional_number("workers").unwrap_or_else(cores),
        watch_interval: root.parsed("watch_interval", values::duration),
        timeouts: process::timeouts(&root.with_defaults("timeouts")),
        limits: process::limits(&limits),
        sign_in_limits: process::sign_in_limits(&limits),
        log: process::log(&log),
        otlp: log.section("otlp").and_then(|section| process::otlp(&section)),
        audit: process::audit(&root.with_defaults("audit")),
        hash: hash(text),
        text: text.to_owned(),
        watched: Watched::default(),
        sites: root.value("sites").map(|list| site::sites(&list)).unwrap_or_default(),
    }
}

/// The first 64 bits of the text's SHA-256.
fn hash(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    hex(&digest.as_ref()[..8])
}
