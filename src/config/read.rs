//! From the tree of the file to `Config`: one function a section, each asking for its keys and their defaults.
//!
//! Every function reads all of its keys before it gives up, so that one run names all problems.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::raw::{self, Reader, Section, Value};
use super::secret::{Reference, Secret};
use super::values;
use super::*;
use crate::tls::files;

const SIGN_IN: &str = "AsiCommon/Controls/Shared/FormsAuthentication/Login.aspx";
const SIGN_OUT: &str = "AsiCommon/Controls/Shared/FormsAuthentication/logout.aspx";

/// Reads the whole file; `file` gives relative paths their folder.
pub(super) fn config(file: &Path, text: &str) -> Result<Config, Vec<Problem>> {
    let tree = raw::parse(text).map_err(|problem| vec![problem])?;
    let reader = Reader::default();
    let base = file.parent().unwrap_or(Path::new("."));
    let config = reader.document(&tree).and_then(|document| root(document, file, base));
    match (config, reader.finish()) {
        (Some(config), problems) if problems.is_empty() => Ok(config),
        (_, problems) => Err(problems),
    }
}

fn root(mut root: Section<'_>, file: &Path, base: &Path) -> Option<Config> {
    if let Some(version) = root.required("version") {
        version.number(1..=1);
    }
    let listen = match root.optional("listen") {
        Some(value) => value.section().and_then(listen),
        None => Some(default_listen()),
    };
    let trusted_proxies = match root.optional("trusted_proxies") {
        Some(list) => list.texts(network),
        None => Some(Vec::new()),
    };
    if let Some(value) = root.optional("proxy_protocol")
        && value.boolean() == Some(true)
    {
        value.report("the PROXY protocol is not supported by this version of imis-gateway");
    }
    let workers = match root.optional("workers") {
        Some(value) => workers(&value),
        None => Some(cores()),
    };
    let log = match root.optional("log") {
        Some(value) => value.section().and_then(log),
        None => Some(default_log()),
    };
    let sites = root.required("sites").and_then(|list| sites(&list, base));
    root.finish();
    Some(Config {
        file: file.to_owned(),
        listen: listen?,
        trusted_proxies: trusted_proxies?,
        workers: workers?,
        log: log?,
        sites: sites?,
    })
}

fn default_listen() -> Listen {
    let any = std::net::Ipv6Addr::UNSPECIFIED;
    Listen {
        https: vec![SocketAddr::from((any, 443))],
        http: vec![SocketAddr::from((any, 80))],
        admin: Some(default_admin()),
    }
}

fn default_admin() -> SocketAddr {
    SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 9180))
}

fn listen(mut section: Section<'_>) -> Option<Listen> {
    let default = default_listen();
    let addresses = |value: Option<Value<'_>>, default| match value {
        Some(list) => list.texts(values::socket_address),
        None => Some(default),
    };
    let https_value = section.optional("https");
    let https: Option<Vec<SocketAddr>> = addresses(https_value.clone(), default.https);
    if let (Some(value), Some(list)) = (https_value, &https)
        && list.is_empty()
    {
        value.report("at least one address is needed");
    }
    let http = addresses(section.optional("http"), default.http);
    let admin = match section.optional("admin") {
        Some(value) if value.is_null() => Some(None),
        Some(value) => value.text(loopback_address).map(Some),
        None => Some(default.admin),
    };
    section.finish();
    Some(Listen { https: https?, http: http?, admin: admin? })
}

fn loopback_address(text: &str) -> Result<SocketAddr, String> {
    let address = values::socket_address(text)?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err("the admin listener has no authentication: a loopback address only, like 127.0.0.1:9180".to_owned())
}

fn network(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| format!("`{text}` is not a network; write it like 10.0.0.0/8 or 192.0.2.7"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn workers(value: &Value<'_>) -> Option<usize> {
    if value.is_word("auto") {
        return Some(cores());
    }
    value.number(1..=1024).and_then(|number| usize::try_from(number).ok())
}

fn default_log() -> Log {
    Log { format: LogFormat::Json, level: tracing::Level::INFO, access: true }
}

fn log(mut section: Section<'_>) -> Option<Log> {
    let default = default_log();
    let format = section.text_or(
        "format",
        |text| match text {
            "json" => Ok(LogFormat::Json),
            "pretty" => Ok(LogFormat::Pretty),
            other => Err(format!("`{other}` is not a format; use json or pretty")),
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
    section.finish();
    Some(Log { format: format?, level: level?, access: access? })
}

fn sites(list: &Value<'_>, base: &Path) -> Option<Vec<Site>> {
    let items = list.items()?;
    if items.is_empty() {
        list.report("at least one site is needed");
    }
    let mut hosts_seen = Vec::new();
    let sites: Vec<_> = items
        .iter()
        .map(|item| item.section().and_then(|section| site(section, base, &mut hosts_seen)))
        .collect();
    sites.into_iter().collect()
}

fn site(mut section: Section<'_>, base: &Path, hosts_seen: &mut Vec<String>) -> Option<Site> {
    let hosts = section.required("hosts").and_then(|list| hosts(&list, hosts_seen));
    let certificate = section.required("certificate").and_then(|value| certificate(value.section()?, base));
    let upstream = section.required("upstream").and_then(|value| upstream(value.section()?, base));
    let apps_value = section.optional("apps");
    let imis = match section.optional("imis") {
        Some(value) => {
            value.section().and_then(|imis_section| imis(imis_section, base, upstream.as_ref())).map(Some)
        }
        None => Some(None),
    };
    let apps = match &apps_value {
        Some(list) => apps(list, base),
        None => Some(Vec::new()),
    };
    if let (Some(list), Some(None)) = (&apps_value, &imis) {
        list.report("apps need to know the iMIS behind the site: add `imis:` beside `apps:`");
    }
    section.finish();
    let (imis, apps) = (imis?, apps?);
    let sign_on = imis.map(|imis| SignOn { imis, apps });
    Some(Site { hosts: hosts?, certificate: certificate?, upstream: upstream?, sign_on })
}

fn hosts(list: &Value<'_>, seen: &mut Vec<String>) -> Option<Vec<String>> {
    let items = list.items()?;
    if items.is_empty() {
        list.report("at least one host is needed");
        return None;
    }
    let mut hosts = Vec::new();
    for item in &items {
        let Some(host) = item.text(values::site_host) else { continue };
        if seen.contains(&host) {
            item.report(format!("`{host}` is listed twice; a host belongs to one site"));
        }
        seen.push(host.clone());
        hosts.push(host);
    }
    (hosts.len() == items.len()).then_some(hosts)
}

fn certificate(mut section: Section<'_>, base: &Path) -> Option<Arc<CertifiedKey>> {
    let path = |value: Value<'_>| value.text(values::not_empty).map(|path| base.join(path));
    if let Some(value) = section.optional("acme") {
        value.report("not supported by this version of imis-gateway; use chain and key");
        return None;
    }
    let chain_value = section.required("chain");
    let key_value = section.required("key");
    let chain_path: Option<PathBuf> = chain_value.clone().and_then(path);
    let key_path: Option<PathBuf> = key_value.clone().and_then(path);
    section.finish();

    let report = |value: Option<Value<'_>>, reason: String| {
        if let Some(value) = value {
            value.report(reason);
        }
    };
    let chain = chain_path.and_then(|path| files::chain(&path).map_err(|why| report(chain_value, why)).ok());
    let key = key_path.and_then(|path| files::key(&path).map_err(|why| report(key_value.clone(), why)).ok());
    files::pair(chain?, key?).map_err(|why| report(key_value, why)).ok()
}

fn upstream(mut section: Section<'_>, base: &Path) -> Option<Upstream> {
    let servers = section.required("servers").and_then(|list| {
        let servers = list.texts(values::server)?;
        if servers.is_empty() {
            list.report("at least one server is needed");
        }
        Some(servers)
    });
    let roots = match section.optional("ca_file") {
        Some(value) => value.text(|path| files::roots(&base.join(path))),
        None => Some(files::system_roots()),
    };
    let host = section.text_or(
        "host",
        |text| match text {
            "keep" => Ok(None),
            name => values::authority(name).map(Some),
        },
        None,
    );
    let timeouts = match section.optional("timeouts") {
        Some(value) => value.section().and_then(timeouts),
        None => Some(DEFAULT_TIMEOUTS),
    };
    // Only the system's store can be empty here: a ca_file without certificates is a problem of its own.
    if roots.as_ref().is_some_and(|roots| roots.is_empty()) {
        section.report("the system has no CA certificates; install them (ca-certificates) or set ca_file");
    }
    section.finish();
    Some(Upstream { servers: servers?, roots: roots?, host: host?, timeouts: timeouts? })
}

fn timeouts(mut section: Section<'_>) -> Option<Timeouts> {
    let default = DEFAULT_TIMEOUTS;
    let connect = section.text_or("connect", values::duration, default.connect);
    let response_head = section.text_or("response_head", values::duration, default.response_head);
    let idle = section.text_or("idle", values::duration, default.idle);
    section.finish();
    Some(Timeouts { connect: connect?, response_head: response_head?, idle: idle? })
}

/// IIS closes idle connections at 120 s, and iMIS runs requests of up to 3,600 s (docs/architecture.md).
const DEFAULT_TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(3),
    response_head: Duration::from_secs(3600),
    idle: Duration::from_secs(60),
};

fn imis(mut section: Section<'_>, base: &Path, upstream: Option<&Upstream>) -> Option<Imis> {
    let base_path = section.text_or("base_path", values::site_path, "/".to_owned());
    let below = |path: &str| {
        let base_path = base_path.as_deref().unwrap_or("/").trim_end_matches('/');
        format!("{base_path}/{path}")
    };
    let api_url = match section.optional("api_url") {
        Some(value) => value.text(values::base_url),
        None => upstream.and_then(|upstream| values::base_url(&upstream.servers.first()?.to_string()).ok()),
    };
    let sign_in = section.text_or("sign_in", values::site_path, below(SIGN_IN));
    let sign_out = section.text_or("sign_out", values::site_path, below(SIGN_OUT));
    let session_cookies = match section.optional("session_cookies") {
        Some(list) => list.texts(values::cookie_name),
        None => Some(vec!["Login".to_owned()]),
    };
    let recognise = section.required("recognise").and_then(|value| recognise(value.section()?));
    let service_account =
        section.required("service_account").and_then(|value| service_account(value.section()?, base));
    let phone_order = match section.optional("phone_order") {
        Some(list) => list.texts(values::not_empty),
        None => Some(["Mobile", "_Work Phone", "_Home Phone"].map(str::to_owned).to_vec()),
    };
    let phone_region = match section.optional("phone_region") {
        Some(value) if value.is_null() => Some(None),
        Some(value) => value.text(region).map(Some),
        None => Some(Some(phonenumber::country::Id::US)),
    };
    section.finish();
    Some(Imis {
        api_url: api_url?,
        sign_in: sign_in?,
        sign_out: sign_out?,
        session_cookies: session_cookies?,
        recognise: recognise?,
        service_account: Arc::new(service_account?),
        phone_order: phone_order?,
        phone_region: phone_region?,
    })
}

fn region(text: &str) -> Result<phonenumber::country::Id, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not a region; write its two ISO 3166 letters, like US, CA or GB"))
}

fn recognise(mut section: Section<'_>) -> Option<ClientContext> {
    let method = section.required("method").and_then(|value| {
        value.text(|text| match text {
            "client_context" => Ok(()),
            "whoami_query" | "client_application" | "login_status_redirect" | "forms_ticket" => {
                Err(format!("`{text}` is not supported by this version of imis-gateway; use client_context"))
            }
            other => Err(format!("`{other}` is not a method; use client_context")),
        })
    });
    let page = section.required("page").and_then(|value| value.text(values::site_path));
    section.finish();
    method?;
    Some(ClientContext { page: page? })
}

fn service_account(mut section: Section<'_>, base: &Path) -> Option<ServiceAccount> {
    let username = section.required("username").and_then(|value| value.text(values::not_empty));
    let password = section.required("password").and_then(|value| secret(&value, base));
    section.finish();
    Some(ServiceAccount { username: username?, password: password? })
}

fn apps(list: &Value<'_>, base: &Path) -> Option<Vec<Arc<App>>> {
    let mut paths_seen: Vec<String> = Vec::new();
    let mut apps = Vec::new();
    let items = list.items()?;
    for item in &items {
        let Some(app) = item.section().and_then(|section| app(section, base)) else { continue };
        let own = [app.path.clone(), app.signed_out_path()];
        if let Some(taken) = own.iter().find(|path| paths_seen.contains(path)) {
            item.report(format!("`{taken}` already belongs to another app of this site"));
        }
        paths_seen.extend(own);
        apps.push(Arc::new(app));
    }
    (apps.len() == items.len()).then_some(apps)
}

fn app(mut section: Section<'_>, base: &Path) -> Option<App> {
    let name = section.required("name").and_then(|value| value.text(values::not_empty));
    let path = section.required("path").and_then(|value| value.text(values::app_path));
    let zendesk = section.required("zendesk").and_then(|value| zendesk(value.section()?, base));
    for key in ["rules", "claims", "guards"] {
        section.not_yet(key);
    }
    section.finish();
    Some(App { name: name?, path: path?, zendesk: zendesk? })
}

fn zendesk(mut section: Section<'_>, base: &Path) -> Option<Zendesk> {
    let subdomain = section.required("subdomain").and_then(|value| value.text(values::subdomain));
    let origin = match section.optional("url") {
        Some(value) => value.text(values::https_origin),
        None => subdomain.as_ref().map(|name| Authority { host: format!("{name}.zendesk.com"), port: 443 }),
    };
    let brand_hosts = match section.optional("brand_hosts") {
        Some(list) => list.texts(values::authority),
        None => Some(Vec::new()),
    };
    let shared_secret = section.required("shared_secret").and_then(|value| secret(&value, base));
    section.not_yet("api");
    section.finish();
    subdomain?;
    Some(Zendesk { origin: origin?, brand_hosts: brand_hosts?, shared_secret: shared_secret? })
}

/// A secret's reference, fetched.
fn secret(value: &Value<'_>, base: &Path) -> Option<Secret> {
    let how = "a secret is given by reference: {file: PATH}, {credential: NAME} or {env: NAME}";
    if !value.is_mapping() {
        // Not the value itself: it may be the secret.
        value.report(format!("{how}; never write it into this file"));
        return None;
    }
    let mut section = value.section()?;
    let file = section.optional("file").map(|v| v.text(|t| Ok(Reference::File(PathBuf::from(t)))));
    let credential =
        section.optional("credential").map(|v| v.text(|t| credential_name(t).map(Reference::Credential)));
    let env = section.optional("env").map(|v| v.text(|t| Ok(Reference::Env(t.to_owned()))));
    let mut given: Vec<_> = [file, credential, env].into_iter().flatten().collect();
    if given.len() != 1 {
        section.report(how);
        section.finish();
        return None;
    }
    section.finish();
    let reference = given.pop()??;
    reference.resolve(base).map_err(|reason| value.report(reason)).ok()
}

fn credential_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('/') || text.starts_with('.') {
        return Err(format!("`{text}` is not a credential's name"));
    }
    Ok(text.to_owned())
}
