//! Live checks of what the configuration points at, for whoever sets the gateway up or finds it failing.
//!
//! In this order: this machine (files, ports), and for each site the way of its names to here, the servers of iMIS (name, connection, TLS,
//! an answer, the clock), what the service account may read, recognition (each method as a visitor who is not signed in, and as the one
//! whose cookies are given), a member who is named, and Zendesk (its pages, where it sends people, its API). What was seen is told without
//! values.

mod zendesk_account;
pub(crate) mod explain;
mod machine;
mod public_address;
mod imis_records;
mod upstream;

use http::header::{COOKIE, HeaderValue};
use http::uri::Authority;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::base::error_chain::Chain;
use crate::config::{App, Config};
use crate::imis::Visitor;
use crate::imis::recognise::{Examined, Generation, RecogniseError};
use crate::imis::visitor_headers;
use crate::request::gateway::{Gateway, Site};
use crate::upstream::forwarded::Forwarded;
use crate::zendesk::api::ApiBuildError;

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
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    #[error("the HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
    #[error("the client of Zendesk's API cannot be set up")]
    Zendesk(#[source] ApiBuildError),
    #[error("what was given is not a Cookie header")]
    Cookie,
}

/// A Cookie header as somebody has pasted it.
pub(crate) fn pasted_cookies(text: &str) -> Option<HeaderValue> {
    let text = text.trim();
    let text = text.strip_prefix("Cookie:").or_else(|| text.strip_prefix("cookie:")).unwrap_or(text);
    let mut value = HeaderValue::from_str(text.trim()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Runs every check, one site after the other. `running`: the status of the gateway that runs on this machine, if one does. `cookies`: a
/// Cookie header that a browser sends to the site. `member`: an iMIS ID.
pub(crate) fn examine(
    (config, gateway): (&Config, &Gateway),
    running: Option<&Value>,
    cookies: Option<&str>,
    member: Option<&str>,
    runtime: &Runtime,
) -> Result<Vec<Finding>, DoctorError> {
    let mut findings = machine::examine(config, running);
    let whom = (cookies, member);
    runtime.block_on(examine_sites((config, gateway), whom, running, &mut findings))?;
    Ok(findings)
}

async fn examine_sites(
    (config, gateway): (&Config, &Gateway),
    (cookies, member): (Option<&str>, Option<&str>),
    running: Option<&Value>,
    findings: &mut Vec<Finding>,
) -> Result<(), DoctorError> {
    let cookie = cookies.map(|text| pasted_cookies(text).ok_or(DoctorError::Cookie)).transpose()?;
    for site in &gateway.sites {
        public_address::examine(config, site, running, findings).await;
        upstream::examine(site, findings).await;
        imis_records::examine(site, findings).await;
        recognition(site, None, findings).await;
        if let Some(cookie) = &cookie {
            recognition(site, Some(cookie), findings).await;
        }
        for app in site.sign_on.iter().flat_map(|sign_on| &sign_on.apps) {
            if let Some(member) = member {
                findings.push(imis_records::member(gateway, site, app, member).await);
            }
            let (login, to_paste) = urls(config, site, app);
            findings.push(to_paste);
            zendesk_account::examine(site, app, &login, findings).await?;
        }
    }
    Ok(())
}

impl Finding {
    /// Nothing to be said against it so far.
    fn good(site: &Site, check: impl Into<String>) -> Self {
        Self {
            severity: Severity::Good,
            site: site.config.hosts[0].clone(),
            check: check.into(),
            result: String::new(),
            seen: String::new(),
            advice: None,
        }
    }

    /// Something is to be said against it.
    fn but(mut self, severity: Severity, result: impl Into<String>, advice: impl Into<String>) -> Self {
        (self.severity, self.result, self.advice) = (severity, result.into(), Some(advice.into()));
        self
    }
}

/// The Remote login URL, and what else is to be pasted in Zendesk.
fn urls(config: &Config, site: &Site, app: &App) -> (String, Finding) {
    let host = &site.config.hosts[0];
    let port = config.listen.https.first().map_or(443, std::net::SocketAddr::port);
    // Behind a load balancer, or on a port that the system chooses, nobody knows it here.
    let port = if matches!(port, 443 | 0) { String::new() } else { format!(":{port}") };
    let login = format!("https://{host}{port}{}", app.path);
    let finding = Finding {
        result: format!("Remote login URL {login}, Remote logout URL {login}/signed-out"),
        seen: "Admin Center, Account, Security, Single sign-on; \"Update of external IDs\" stays off"
            .to_owned(),
        ..Finding::good(site, format!("Zendesk for {}, to paste", app.name))
    };
    (login, finding)
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
        let (mut severity, mut advice) = (severity, advice.map(str::to_owned));
        if severity == Severity::Good
            && let Some(word) = seen.generation.and_then(|generation| misplaced(site, generation))
        {
            (severity, advice) = (Severity::Warning, Some(word));
        }
        findings.push(Finding {
            severity,
            site: host.clone(),
            check: format!("{method}, {whose}"),
            result,
            seen: seen.to_string(),
            advice,
        });
    }
}

/// Where the configuration looks for the API of another iMIS than the one that is there.
fn misplaced(site: &Site, generation: Generation) -> Option<String> {
    let api_url = &site.config.sign_on.as_ref()?.imis.api_url;
    let of_2017 = api_url.path().to_ascii_lowercase().contains("/asi.scheduler");
    match (generation, of_2017) {
        (Generation::Ems, true) => {
            Some(format!("this is a later iMIS, whose API is at its root: api_url says {api_url}"))
        }
        (Generation::Imis2017, false) => Some(format!(
            "this is iMIS 2017, whose API is mostly at https://HOST/Asi.Scheduler_INSTANCE/: api_url says {api_url}"
        )),
        (Generation::Ems, false) | (Generation::Imis2017, true) => None,
    }
}
