//! An account of Zendesk: whether it is there, tells the same time and sends people to us, and, where its API may be asked, who works there
//! and whether it has the user fields that the claims set.

use std::sync::Arc;
use std::time::Duration;

use http::header::{DATE, LOCATION};
use reqwest::{Client, Response};
use url::Url;

use crate::base::clock;
use crate::base::error_chain::Chain;
use crate::base::http_client;
use crate::base::x509;
use crate::config::App;
use crate::doctor::{DoctorError, Finding, Severity};
use crate::imis::DOCTOR_AGENT;
use crate::request::gateway::Site;
use crate::zendesk::api::{Api, ApiError};
use crate::zendesk::fields;
use crate::zendesk::staff::Staff;

const PATIENCE: Duration = Duration::from_secs(10);
/// Zendesk takes tokens whose time is within 180 s of its own.
const WORRYING_SKEW: u64 = 60;
const MOST_SKEW: u64 = 180;
/// From a page that needs a sign-in to where Zendesk sends people.
const MOST_HOPS: usize = 4;

pub(super) async fn examine(
    site: &Site,
    app: &App,
    login: &str,
    findings: &mut Vec<Finding>,
) -> Result<(), DoctorError> {
    let roots = app.zendesk.api.as_ref().map_or_else(x509::system_roots, |api| api.roots.0.clone());
    let tls = crate::base::tls_client::client_config(roots, Vec::new()).map_err(DoctorError::Tls)?;
    let client = http_client::builder(tls, PATIENCE).user_agent(DOCTOR_AGENT).build();
    let client = client.map_err(DoctorError::Client)?;
    pages(site, app, (&client, login), findings).await;
    if let Some(api) = &app.zendesk.api {
        let staff = site.sign_on.as_ref().and_then(|sign_on| sign_on.staff.get(&app.path));
        by_api(site, app, &Api::new(api).map_err(DoctorError::Zendesk)?, staff, findings).await;
    }
    Ok(())
}

/// What anybody sees of the account.
async fn pages(site: &Site, app: &App, (client, login): (&Client, &str), findings: &mut Vec<Finding>) {
    let base = format!("https://{}", app.zendesk.origin);
    let check = |what: &str| Finding::good(site, format!("Zendesk for {}, {what}", app.name));
    let seen =
        |response: &Response, path: &str| format!("{base}{path} answered {}", response.status().as_u16());
    let help_center = match get(client, &format!("{base}/hc")).await {
        Ok(response) => response,
        Err(error) => {
            findings.push(Finding { seen: format!("asked {base}/hc"), ..check("the account") }.but(
                Severity::Warning,
                error,
                "this machine cannot look at it; members' browsers have to be able to, and for zendesk.api this machine, too",
            ));
            return;
        }
    };
    let mut finding = Finding { seen: seen(&help_center, "/hc"), ..check("the account") };
    let exists = !help_center.status().is_client_error()
        || get(client, &format!("{base}/access/normal"))
            .await
            .is_ok_and(|response| response.status().as_u16() != 404);
    finding = if !exists {
        finding.but(
            Severity::Failed,
            "there is none at this subdomain",
            "zendesk.subdomain is the name in https://NAME.zendesk.com",
        )
    } else if help_center.status().as_u16() == 404 {
        finding.but(
            Severity::Failed,
            "it has no Help Center",
            "members land on /hc, where there is nothing: activate it (Admin Center, Channels, Help Center)",
        )
    } else if help_center.status().is_server_error() {
        finding.but(Severity::Failed, "it fails", "https://status.zendesk.com says more")
    } else {
        Finding { result: "there, with a Help Center".to_owned(), ..finding }
    };
    findings.push(finding);
    findings.extend(clock(&help_center, check("the clock")));
    if exists {
        findings.push(sent_to(client, &base, (site, app, login)).await);
    }
}

async fn get(client: &Client, url: &str) -> Result<Response, String> {
    client.get(url).send().await.map_err(|error| Chain(&error.without_url()).to_string())
}

fn clock(response: &Response, finding: Finding) -> Option<Finding> {
    let date = response.headers().get(DATE)?.to_str().ok()?;
    let theirs = httpdate::parse_http_date(date).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    let skew = theirs.abs_diff(clock::unix_now());
    let finding = Finding { seen: "the Date of its answer".to_owned(), ..finding };
    let result = format!("differs from ours by {skew} s");
    let advice = "Zendesk refuses tokens whose time is three minutes off: set this machine's clock by NTP (`timedatectl`)";
    Some(match skew {
        MOST_SKEW.. => finding.but(Severity::Failed, result, advice),
        WORRYING_SKEW.. => finding.but(Severity::Warning, result, advice),
        _ => Finding { result, ..finding },
    })
}

/// Where Zendesk sends whoever has to sign in.
async fn sent_to(client: &Client, base: &str, (site, app, login): (&Site, &App, &str)) -> Finding {
    let finding = Finding::good(site, format!("Zendesk for {}, who has to sign in", app.name));
    let mut at = format!("{base}/hc/requests");
    let mut finding = Finding { seen: format!("asked {at}"), ..finding };
    for _ in 0..MOST_HOPS {
        let response = match get(client, &at).await {
            Ok(response) => response,
            Err(error) => return finding.but(Severity::Warning, error, "try again"),
        };
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let next = Url::parse(&at).ok().and_then(|own| own.join(location?).ok());
        let Some(next) = next else {
            finding.seen += &format!("; ended at {} with {}", shown(&at), response.status().as_u16());
            break;
        };
        let ours = site.config.hosts.iter().any(|host| next.host_str() == Some(host));
        if ours && next.path() == app.path {
            finding.result = format!("is sent to {}", shown(next.as_str()));
            return finding;
        }
        let within = app.zendesk.authorities().any(|own| Some(own.host.as_str()) == next.host_str());
        if !within {
            return finding.but(
                Severity::Warning,
                format!("is sent to {}", shown(next.as_str())),
                format!("the Remote login URL of the SSO configuration should be {login}"),
            );
        }
        at = next.into();
    }
    finding.but(
        Severity::Warning,
        "is not sent here: single sign-on is not assigned to end users, or the Help Center asks nobody to sign in",
        "docs/zendesk-setup.md: the configuration is active only once it is assigned (Admin Center, Account, Security, End user authentication)",
    )
}

/// Without what may tell of somebody.
fn shown(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect()
}

/// What the API of an app's account says about the staff and the user fields.
async fn by_api(site: &Site, app: &App, api: &Api, staff: Option<&Arc<Staff>>, findings: &mut Vec<Finding>) {
    let finding = |check: String, severity, result: String, seen: String, advice: Option<String>| Finding {
        severity,
        result,
        seen,
        advice,
        ..Finding::good(site, format!("Zendesk for {}, {check}", app.name))
    };
    let broken = |error: &ApiError| (Severity::Failed, Chain(error).to_string(), "no list".to_owned());
    if let Ok(Some(scope)) = api.scope().await {
        let reads = scope.split([' ', ',']).any(|word| matches!(word, "read" | "users:read"));
        let (severity, advice) = if reads {
            (Severity::Good, None)
        } else {
            (
                Severity::Warning,
                Some("the staff is read with it: the OAuth client needs the scope `read`".to_owned()),
            )
        };
        findings.push(finding(
            "API".to_owned(),
            severity,
            format!("a token for: {scope}"),
            "the token endpoint's answer".to_owned(),
            advice,
        ));
    }
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
        let advice = if severity == Severity::Failed {
            Some(
                "the OAuth client of zendesk.api has to be confidential, and its owner an admin or an agent who may see all users",
            )
        } else {
            // Nothing is wrong as long as the guard knows them; without it they could be taken over.
            (staff.without_imis_id() > 0).then_some(
                "give staff who are members their iMIS ID as external_id in Zendesk: those without one are kept out by the guard alone",
            )
        };
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
