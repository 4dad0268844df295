//! `sites[].upstream`: the iMIS web servers of a site. `keys` describes each key.

use std::time::Duration;

use crate::base::header_rules::Rules;
use crate::config::section::Value;
use crate::config::values::{self, Authority, Roots, Server};

/// The iMIS web servers of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// At least one.
    pub(crate) servers: Vec<Server>,
    pub(crate) balance: Balance,
    pub(crate) affinity: Option<Affinity>,
    pub(crate) proxy_protocol: Option<ProxyHeader>,
    pub(crate) health: Option<Health>,
    pub(crate) roots: Roots,
    /// The Host header for iMIS; `None` = the client's.
    pub(crate) host: Option<Authority>,
    pub(crate) headers: Rules,
    pub(crate) limits: UpstreamLimits,
    pub(crate) timeouts: UpstreamTimeouts,
}

impl Upstream {
    /// The Host header for iMIS, for a request for `asked`.
    pub(crate) fn host_for(&self, asked: &http::uri::Authority) -> String {
        self.host.as_ref().map_or_else(|| asked.as_str().to_owned(), Authority::to_string)
    }
}

/// How to choose one of several servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Balance {
    Failover,
    LeastRequests,
}

/// A version of the PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyHeader {
    V1,
    V2,
}

/// How to keep a session on its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Affinity {
    Cookie,
    Learned(Vec<String>),
}

/// The health check of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) path: String,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) fall: u32,
    pub(crate) rise: u32,
}

/// Limits for requests to iMIS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UpstreamLimits {
    pub(crate) concurrent_requests: usize,
    pub(crate) queue_timeout: Duration,
}

/// Time-outs for iMIS. There is none for a request as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UpstreamTimeouts {
    pub(crate) connect: Duration,
    pub(crate) tls: Duration,
    pub(crate) response_head: Duration,
    pub(crate) body_idle: Duration,
    pub(crate) idle: Duration,
}

pub(super) fn upstream(section: &Value<'_>) -> Upstream {
    let balance = [("failover", Balance::Failover), ("least_requests", Balance::LeastRequests)];
    let versions = [("v1", ProxyHeader::V1), ("v2", ProxyHeader::V2)];
    let headers = section.with_defaults("headers");
    let limits = section.with_defaults("limits");
    let timeouts = section.with_defaults("timeouts");
    Upstream {
        servers: section.value("servers").map(|list| servers(&list)).unwrap_or_default(),
        balance: section.word("balance", &balance),
        affinity: section.value("affinity").and_then(|value| affinity(&value)),
        proxy_protocol: section.value("proxy_protocol").and_then(|value| value.as_word(&versions)),
        health: section.section("health").map(|health| Health {
            path: health.text("path", values::site_path),
            interval: health.duration("interval"),
            timeout: health.duration("timeout"),
            fall: health.number("fall"),
            rise: health.number("rise"),
        }),
        roots: section.required_roots("ca_file"),
        host: section.text("host", |text| match text {
            "preserve" => Ok(None),
            "keep" => Err("`keep` is not a host name; did you mean `preserve`?".to_owned()),
            name => values::authority(name).map(Some),
        }),
        headers: Rules {
            remove: headers.texts("remove", values::header_pattern),
            keep: headers.texts("keep", values::kept_header),
        },
        limits: UpstreamLimits {
            concurrent_requests: limits.number("concurrent_requests"),
            queue_timeout: limits.duration("queue_timeout"),
        },
        timeouts: UpstreamTimeouts {
            connect: timeouts.duration("connect"),
            tls: timeouts.duration("tls"),
            response_head: timeouts.duration("response_head"),
            body_idle: timeouts.duration("body_idle"),
            idle: timeouts.duration("idle"),
        },
    }
}

fn servers(list: &Value<'_>) -> Vec<Server> {
    let items = list.some_items("at least one server is needed");
    let servers: Vec<Server> = items.iter().filter_map(|item| item.as_text(values::server)).collect();
    if let Some((_, twice)) = servers.iter().enumerate().find(|(index, one)| servers[..*index].contains(one))
    {
        list.report(format!("{twice} is listed twice"));
    }
    servers
}

fn affinity(value: &Value<'_>) -> Option<Affinity> {
    if value.is_word("cookie") {
        return Some(Affinity::Cookie);
    }
    if !value.is_list() {
        value.report("use cookie, or a list of names of iMIS's own cookies, or null");
        return None;
    }
    let names = value.as_texts(values::cookie_name);
    (!names.is_empty()).then_some(Affinity::Learned(names))
}

/// An upstream for unit tests.
#[cfg(test)]
pub(crate) fn test_upstream(servers: &[&str]) -> Upstream {
    Upstream {
        servers: servers.iter().map(|url| values::server(url).unwrap()).collect(),
        balance: Balance::Failover,
        affinity: None,
        proxy_protocol: None,
        health: None,
        roots: Roots::default(),
        host: None,
        headers: Rules::default(),
        limits: UpstreamLimits { concurrent_requests: 1, queue_timeout: Duration::ZERO },
        timeouts: UpstreamTimeouts {
            connect: Duration::ZERO,
            tls: Duration::ZERO,
            response_head: Duration::ZERO,
            body_idle: Duration::ZERO,
            idle: Duration::ZERO,
        },
    }
}
