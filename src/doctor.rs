//! Live checks of what the configuration points at, for whoever sets the gateway up or finds it failing.
//!
//! The servers of iMIS: the way there, TLS, an answer, the clock. This machine: files, and the URLs that Zendesk is to know. Recognition: each method is asked as a visitor who is not signed in, and, when a Cookie header is given, as the one whose
//! cookies these are; what was seen is told without values. Zendesk, where its API may be asked: who works there, and whether the account
//! has the user fields that the claims set.

mod upstream;

use std::sync::Arc;

use http::header::{COOKIE, HeaderMap, HeaderValue, USER_AGENT};
use http::uri::Authority;

use crate::config::{App, Config};
use crate::gateway::{Gateway, Site, zendesk_api};
use crate::imis::Visitor;
use crate::imis::recognise::{Examined, RecogniseError};
use crate::proxy::headers::Forwarded;
use crate::telemetry::Chain;
use crate::zendesk::api::{Api, ApiError};
use crate::zendesk::fields;
use crate::zendesk::staff::Staff;

/// Firewalls turn away what does not look like a browser.
const AGENT: &str = concat!("Mozilla/5.0 (compatible; imis-gateway doctor ", env!("CARGO_PKG_VERSION"), ")");

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Good,
    /// It works, and something about it should be looked at.
    Warning,
    Failed,
}

impl Severity {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
        }
    }
}

/// What came of one check.
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) site: String,
    /// What was checked.
    pub(crate) check: String,
    /// What came of it.
    pub(crate) result: String,
    /// What was seen, without values.
    pub(crate) seen: String,
    /// How to mend it.
    pub(crate) advice: Option<String>,
}

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoctorError {
    #[error("the clients of iMIS cannot be set up")]
    Build(#[from] crate::gateway::BuildError),
    #[error("what was given is not a Cookie header")]
    Cookie,
}

/// The headers of a browser that asks for nothing in particular.
pub(crate) fn visitor_headers() -> HeaderMap {
    HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(AGENT))])
}

/// A Cookie header as somebody has pasted it.
pub(crate) fn pasted_cookies(text: &str) -> Option<HeaderValue> {
    let text = text.trim();
    let text = text.strip_prefix("Cookie:").or_else(|| text.strip_prefix("cookie:")).unwrap_or(text);
    let mut value = HeaderValue::from_str(text.trim()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Runs every check, one site after the other. `cookies`: what somebody's browser sends to the site.
pub(crate) async fn examine(config: &Config, cookies: Option<&str>) -> Result<Vec<Finding>, DoctorError> {
    let gateway = Gateway::alone(config)?;
    let cookie = cookies.map(|text| pasted_cookies(text).ok_or(DoctorError::Cookie)).transpose()?;
    let mut findings = Vec::new();
    files(config, &mut findings);
    for site in &gateway.sites {
        upstream::examine(site, &mut findings).await;
        for app in site.config.apps() {
            findings.push(urls(config, site, app));
        }
        recognition(site, None, &mut findings).await;
        if let Some(cookie) = &cookie {
            recognition(site, Some(cookie), &mut findings).await;
        }
        for app in site.sign_on.iter().flat_map(|sign_on| &sign_on.apps) {
            if let Some(api) = &app.zendesk.api {
                let staff = site.sign_on.as_ref().and_then(|sign_on| sign_on.staff.get(&app.path));
                zendesk(&site.config.hosts[0], app, &zendesk_api(api)?, staff, &mut findings).await;
            }
        }
    }
    Ok(findings)
}

/// Whether there are as many files as connections may need, one towards iMIS beside each.
fn files(config: &Config, findings: &mut Vec<Finding>) {
    let (connections, Ok((_, hard))) = (config.limits.connections as u64, rlimit::Resource::NOFILE.get())
    else {
        return;
    };
    let enough = hard >= connections.saturating_mul(2);
    findings.push(Finding {
        severity: if enough { Severity::Good } else { Severity::Warning },
        site: "this machine".to_owned(),
        check: "file descriptors".to_owned(),
        result: format!("{hard} for {connections} connections"),
        seen: "the hard limit of this command; the service has that of its unit".to_owned(),
        advice: (!enough).then(|| "LimitNOFILE= of the unit should be twice limits.connections".to_owned()),
    });
}

/// What is to be pasted in Zendesk.
fn urls(config: &Config, site: &Site, app: &App) -> Finding {
    let host = &site.config.hosts[0];
    let port = config.listen.https.first().map_or(443, std::net::SocketAddr::port);
    // Behind a load balancer, or on a port that the system chooses, nobody knows it here.
    let port = if matches!(port, 443 | 0) { String::new() } else { format!(":{port}") };
    let login = format!("https://{host}{port}{}", app.path);
    Finding {
        severity: Severity::Good,
        site: host.clone(),
        check: format!("Zendesk for {}, to paste", app.name),
        result: format!("Remote login URL {login}, Remote logout URL {login}/signed-out"),
        seen: "Admin Center, Account, Security, Single sign-on; \"Update of external IDs\" stays off"
            .to_owned(),
        advice: None,
    }
}

async fn recognition(site: &Site, cookie: Option<&HeaderValue>, findings: &mut Vec<Finding>) {
    let host = &site.config.hosts[0];
    let (Some(sign_on), Ok(authority)) = (&site.sign_on, host.parse::<Authority>()) else { return };
    let mut headers = visitor_headers();
    headers.extend(cookie.map(|cookie| (COOKIE, cookie.clone())));
    let forwarded = Forwarded::of_this_machine(host, "doctor");
    let visitor = Visitor { headers: &headers, forwarded: &forwarded, authority: &authority };
    let whose = if cookie.is_some() { "with the cookies given" } else { "not signed in" };
    if cookie.is_some() && sign_on.imis.session(&visitor).is_none() {
        findings.push(Finding {
            severity: Severity::Failed,
            site: host.clone(),
            check: "session cookie".to_owned(),
            result: "none of the cookies given is one, or there are two that differ".to_owned(),
            seen: crate::imis::recognise::Seen::of(&headers).to_string(),
            advice: Some(
                "session_cookies has to name the cookie that iMIS sets at sign-in: Login on 2017, login on Cloud".to_owned(),
            ),
        });
        return;
    }
    for Examined { method, seen, answer } in sign_on.imis.examine(&visitor).await {
        let (severity, result, advice) = match (&answer, cookie) {
            (Ok(None), None) => (Severity::Good, "nobody, as it should be".to_owned(), None),
            (Ok(None), Some(_)) => (
                Severity::Warning,
                "nobody".to_owned(),
                Some(
                    "if these cookies are of somebody who is signed in right now, the session has ended or belongs to another site",
                ),
            ),
            (Ok(Some(identity)), None) => (
                Severity::Failed,
                format!("iMIS ID {}, without any cookie", identity.id.as_str()),
                Some(
                    "the page or query names somebody to everybody: check that nothing between here and iMIS keeps copies",
                ),
            ),
            (Ok(Some(identity)), Some(_)) => {
                let contact = identity.on_behalf_of.as_ref();
                let contact = contact.map(|id| format!(", acting for {}", id.as_str())).unwrap_or_default();
                (Severity::Good, format!("iMIS ID {}{contact}", identity.id.as_str()), None)
            }
            (Err(RecogniseError::Ticket(_)), None) => {
                (Severity::Good, "cannot be asked without a session cookie".to_owned(), None)
            }
            (Err(error), _) => (Severity::Failed, Chain(error).to_string(), Some(error.advice())),
        };
        findings.push(Finding {
            severity,
            site: host.clone(),
            check: format!("{method}, {whose}"),
            result,
            seen: seen.to_string(),
            advice: advice.map(str::to_owned),
        });
    }
}

/// What the API of an app's account says about the staff and the user fields.
async fn zendesk(host: &str, app: &App, api: &Api, staff: Option<&Arc<Staff>>, findings: &mut Vec<Finding>) {
    let finding = |check: String, severity, result: String, seen: String, advice: Option<String>| Finding {
        severity,
        site: host.to_owned(),
        check: format!("Zendesk for {}, {check}", app.name),
        result,
        seen,
        advice,
    };
    let broken = |error: &ApiError| (Severity::Failed, Chain(error).to_string(), "no list".to_owned());
    if let Some(staff) = staff {
        let (severity, result, seen) = match staff.refresh().await {
            Ok(people) => {
                let without = staff.without_imis_id();
                (
                    Severity::Good,
                    format!("{people} people"),
                    format!("{without} of them without an external_id"),
                )
            }
            Err(error) => broken(&error),
        };
        let advice = (severity == Severity::Failed).then_some(
            "the OAuth client of zendesk.api has to be confidential, and its owner an admin or an agent who may see all users",
        );
        findings.push(finding("staff".to_owned(), severity, result, seen, advice.map(str::to_owned)));
    }
    if app.claims.user_fields.is_empty() {
        return;
    }
    match fields::user_fields(api).await {
        Err(error) => {
            let (severity, result, seen) = broken(&error);
            findings.push(finding("user fields".to_owned(), severity, result, seen, None));
        }
        Ok(known) => {
            let keys: Vec<_> = known.iter().map(|field| field.key.as_str()).collect();
            for (key, source) in &app.claims.user_fields {
                let problem = fields::problem(&known, key, source);
                let severity = if problem.is_some() { Severity::Failed } else { Severity::Good };
                let advice = problem.is_some().then(|| {
                    "Zendesk leaves such a value out without a word: Admin Center, People, Configuration, User fields".to_owned()
                });
                let result = problem.unwrap_or_else(|| "the account has it".to_owned());
                let seen = format!("fields of the account: {}", keys.join(", "));
                findings.push(finding(format!("user field {key}"), severity, result, seen, advice));
            }
        }
    }
}
