//! `sites`: hosts, certificates, upstreams.

use std::time::Duration;

use crate::base::header_rules::Rules;
use crate::base::x509;
use crate::config::files::Files;
use crate::config::pem;
use crate::config::raw::{Section, Value, renamed};
use crate::config::read::{certificate, sign_on};
use crate::config::{
    Affinity, Balance, Health, ProxyHeader, Roots, SignOn, Site, Timeouts, Upstream, UpstreamLimits, values,
};
use crate::upstream::health::{DEFAULT_INTERVAL, DEFAULT_TIMEOUT};

/// IIS closes idle connections at 120 s, and iMIS runs requests of up to 3,600 s (docs/architecture.md).
const DEFAULT_TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(3),
    tls: Duration::from_secs(5),
    response_head: Duration::from_secs(3600),
    body_idle: Duration::from_secs(3600),
    idle: Duration::from_secs(60),
};

/// More pages at a time are no faster for anybody: at a hundred a second each takes two and a half seconds then.
const DEFAULT_LIMITS: UpstreamLimits = UpstreamLimits { concurrent_requests: 256, queue_timeout: Duration::from_secs(1) };

pub(super) fn sites(list: &Value<'_>, files: &Files) -> Option<Vec<Site>> {
    let items = list.items()?;
    if items.is_empty() {
        list.report("at least one site is needed");
    }
    let mut hosts_seen = Vec::new();
    let sites: Vec<_> = items
        .iter()
        .map(|item| item.section().and_then(|section| site(section, files, &mut hosts_seen)))
        .collect();
    sites.into_iter().collect()
}

fn site(mut section: Section<'_>, files: &Files, hosts_seen: &mut Vec<String>) -> Option<Site> {
    let hosts = section.required("hosts").and_then(|list| hosts(&list, hosts_seen));
    let certificate = section
        .required("certificate")
        .and_then(|value| certificate::certificate(value.section()?, files, hosts.as_deref()));
    let upstream = section.required("upstream").and_then(|value| upstream(value.section()?, files));
    let apps_value = section.optional("apps");
    let imis = match section.optional("imis") {
        Some(value) => value
            .section()
            .and_then(|imis_section| sign_on::imis(imis_section, files, upstream.as_ref()))
            .map(Some),
        None => Some(None),
    };
    let apps = match &apps_value {
        Some(list) => sign_on::apps(list, files),
        None => Some(Vec::new()),
    };
    if let (Some(list), Some(upstream)) = (&apps_value, &upstream)
        && upstream.proxy_protocol.is_some()
    {
        list.report("sign-ins ask iMIS on connections without a PROXY header: a site with apps has no upstream.proxy_protocol");
    }
    if let (Some(list), Some(None)) = (&apps_value, &imis) {
        list.report("apps need to know the iMIS behind the site: add `imis:` beside `apps:`");
    }
    if let (Some(list), Some(Some(imis)), Some(apps)) = (&apps_value, &imis, &apps)
        && imis.session_cookies.is_empty()
        && apps.iter().any(|app| app.single_logout.from_imis)
    {
        list.report("single_logout.from_imis needs session_cookies, to know who had a session");
    }
    if let (Some(list), Some(Some(imis)), Some(apps)) = (&apps_value, &imis, &apps)
        && imis.service_account.is_none()
    {
        for app in apps {
            for why in app.needs_service_account() {
                list.report(format!("`{}`: {why} needs a service_account to ask with", app.name));
            }
        }
    }
    section.finish();
    let (imis, apps) = (imis?, apps?);
    let sign_on = imis.map(|imis| SignOn { imis, apps });
    let (certificate, acme) = certificate?;
    Some(Site { hosts: hosts?, certificate, acme, upstream: upstream?, sign_on })
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

fn upstream(mut section: Section<'_>, files: &Files) -> Option<Upstream> {
    let servers = section.required("servers").and_then(|list| {
        let servers = list.texts(values::server)?;
        if servers.is_empty() {
            list.report("at least one server is needed");
        }
        if let Some(twice) = servers.iter().enumerate().find(|(index, one)| servers[..*index].contains(one)) {
            list.report(format!("{} is listed twice", twice.1));
        }
        Some(servers)
    });
    let balance = section.text_or(
        "balance",
        |text| match text {
            "failover" => Ok(Balance::Failover),
            "least_requests" => Ok(Balance::LeastRequests),
            other => Err(match renamed(other) {
                Some(new) => format!("`{other}` is not a way to choose a server; did you mean `{new}`?"),
                None => format!("`{other}` is not a way to choose a server; use failover or least_requests"),
            }),
        },
        Balance::Failover,
    );
    let affinity = match section.optional("affinity") {
        Some(value) if value.is_off() => Some(None),
        Some(value) if value.is_word("cookie") => Some(Some(Affinity::Cookie)),
        Some(list) if list.is_list() => list
            .texts(values::cookie_name)
            .map(|names| (!names.is_empty()).then_some(Affinity::Learned(names))),
        Some(value) => {
            value.report("use cookie, or a list of names of iMIS's own cookies, or null");
            None
        }
        None => Some(None),
    };
    let proxy_protocol = match section.optional("proxy_protocol") {
        Some(value) if value.is_off() => Some(None),
        Some(value) => value.text(|text| match text {
            "v1" => Ok(Some(ProxyHeader::V1)),
            "v2" => Ok(Some(ProxyHeader::V2)),
            other => Err(format!("`{other}` is not a version of the PROXY header; use v1 or v2")),
        }),
        None => Some(None),
    };
    let health = match section.optional("health") {
        Some(value) if value.is_off() => Some(None),
        Some(value) => value.section().and_then(health).map(Some),
        None => Some(None),
    };
    let roots = match section.optional("ca_file") {
        Some(value) => value.text(|path| pem::roots(files, &files.at(path)).map(Roots)),
        None => Some(Roots(x509::system_roots())),
    };
    let host = section.text_or(
        "host",
        |text| match text {
            "preserve" => Ok(None),
            "keep" => Err("`keep` is not a host name; did you mean `preserve`?".to_owned()),
            name => values::authority(name).map(Some),
        },
        None,
    );
    let headers = match section.optional("headers") {
        Some(value) => value.section().and_then(headers),
        None => Some(Rules::default()),
    };
    let limits = match section.optional("limits") {
        Some(value) => value.section().and_then(limits),
        None => Some(DEFAULT_LIMITS),
    };
    let timeouts = match section.optional("timeouts") {
        Some(value) => value.section().and_then(timeouts),
        None => Some(DEFAULT_TIMEOUTS),
    };
    // Only the system's store can be empty here: a ca_file without certificates is a problem of its own.
    if roots.as_ref().is_some_and(|roots| roots.0.is_empty()) {
        section.report("the system has no CA certificates; install them (ca-certificates) or set ca_file");
    }
    section.finish();
    Some(Upstream {
        servers: servers?,
        balance: balance?,
        affinity: affinity?,
        proxy_protocol: proxy_protocol?,
        health: health?,
        roots: roots?,
        host: host?,
        headers: headers?,
        limits: limits?,
        timeouts: timeouts?,
    })
}

fn health(mut section: Section<'_>) -> Option<Health> {
    let path = section.required("path").and_then(|value| value.text(values::site_path));
    let interval = section.text_or("interval", values::duration, DEFAULT_INTERVAL);
    let timeout = section.text_or("timeout", values::duration, DEFAULT_TIMEOUT);
    let mut times = |key, default| match section.optional(key) {
        Some(value) => value.number(1..=100).and_then(|number| u32::try_from(number).ok()),
        None => Some(default),
    };
    let (fall, rise) = (times("fall", 3), times("rise", 2));
    section.finish();
    Some(Health { path: path?, interval: interval?, timeout: timeout?, fall: fall?, rise: rise? })
}

fn limits(mut section: Section<'_>) -> Option<UpstreamLimits> {
    let default = DEFAULT_LIMITS;
    let concurrent_requests = match section.optional("concurrent_requests") {
        Some(value) => value.number(1..=100_000).and_then(|number| usize::try_from(number).ok()),
        None => Some(default.concurrent_requests),
    };
    let queue_timeout = section.text_or("queue_timeout", values::duration, default.queue_timeout);
    section.finish();
    Some(UpstreamLimits { concurrent_requests: concurrent_requests?, queue_timeout: queue_timeout? })
}

fn headers(mut section: Section<'_>) -> Option<Rules> {
    let remove = match section.optional("remove") {
        Some(list) => list.texts(values::header_pattern),
        None => Some(Vec::new()),
    };
    let keep = match section.optional("keep") {
        Some(list) => list.texts(values::kept_header),
        None => Some(Vec::new()),
    };
    section.finish();
    Some(Rules { remove: remove?, keep: keep? })
}

fn timeouts(mut section: Section<'_>) -> Option<Timeouts> {
    let default = DEFAULT_TIMEOUTS;
    let mut read = |key, default| section.text_or(key, values::duration, default);
    let connect = read("connect", default.connect);
    let tls = read("tls", default.tls);
    let response_head = read("response_head", default.response_head);
    let body_idle = read("body_idle", default.body_idle);
    let idle = read("idle", default.idle);
    section.finish();
    Some(Timeouts { connect: connect?, tls: tls?, response_head: response_head?, body_idle: body_idle?, idle: idle? })
}
