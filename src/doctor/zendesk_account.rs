//! The Zendesk account of an app: its pages, clock and sign-in redirect; and through its API the staff and the user
//! fields.

use std::sync::Arc;

use http::header::{DATE, LOCATION};
use reqwest::{Client, Response};
use url::Url;

use crate::base::error_chain::Chain;
use crate::base::{http_client, tls_client, x509};
use crate::config::{App, Config};
use crate::doctor::finding::{DoctorError, Finding, Part};
use crate::doctor::probe::{STEP_TIMEOUT, clock_skew, plain};
use crate::imis::DOCTOR_AGENT;
use crate::request::gateway::Site;
use crate::sso::site::SignOn;
use crate::zendesk::api::Api;
use crate::zendesk::fields;
use crate::zendesk::staff::Staff;

const WARN_SKEW_SECONDS: u64 = 60;
/// Zendesk accepts tokens whose `iat` is at most this far from its own time.
const MAX_SKEW_SECONDS: u64 = 180;
/// From a page that needs a sign-in to where Zendesk sends people.
const MAX_REDIRECTS: usize = 4;

/// One account, as the checks need it.
struct Account<'a> {
    site: &'a Site,
    app: &'a App,
    client: Client,
    /// Without a trailing slash.
    url: String,
    /// The Remote login URL that Zendesk should have.
    login_url: String,
}

pub(super) async fn check(
    config: &Config,
    site: &Site,
    sign_on: &SignOn,
    app: &App,
) -> Result<Vec<Finding>, DoctorError> {
    let url = format!("https://{}", app.zendesk.origin);
    let login_url = login_url(config, site, app);
    let account = Account { site, app, client: client(app)?, url, login_url };
    let mut findings = vec![account.urls()];
    findings.extend(account.pages().await);
    if let Some(api) = &app.zendesk.api {
        let api = Api::new(api).map_err(DoctorError::Zendesk)?;
        findings.extend(account.api_scope(&api).await);
        if let Some(staff) = sign_on.staff.get(&app.path) {
            findings.push(account.staff(staff).await);
        }
        findings.extend(account.user_fields(&api).await);
    }
    Ok(findings)
}

fn client(app: &App) -> Result<Client, DoctorError> {
    let roots = app.zendesk.api.as_ref().map_or_else(x509::system_roots, |api| api.roots.0.clone());
    let tls = tls_client::client_config(roots, Vec::new()).map_err(DoctorError::Tls)?;
    let client = http_client::builder(tls, STEP_TIMEOUT).user_agent(DOCTOR_AGENT).build();
    client.map_err(DoctorError::Client)
}

fn login_url(config: &Config, site: &Site, app: &App) -> String {
    let listening = || config.listen.https.first().map_or(443, std::net::SocketAddr::port);
    // Port 0 is chosen by the system.
    let port = match site.config.public_port.unwrap_or_else(listening) {
        443 | 0 => String::new(),
        port => format!(":{port}"),
    };
    format!("https://{}{port}{}", site.config.hosts[0], app.path)
}

impl Account<'_> {
    fn finding(&self, check: &str) -> Finding {
        Finding::of_site(self.site, format!("Zendesk for {}, {check}", self.app.name))
    }

    /// What the checks of the API need.
    fn parts(&self) -> [Part; 2] {
        let host = self.app.zendesk.origin.to_string();
        [Part::ZendeskAccount(host.clone()), Part::ZendeskApi(host)]
    }

    fn urls(&self) -> Finding {
        let login = &self.login_url;
        self.finding("to paste")
            .seen("Admin Center, Account, Security, Single sign-on; \"Update of external IDs\" stays off")
            .good(format!("Remote login URL {login}, Remote logout URL {login}/signed-out"))
    }

    async fn get(&self, url: &str) -> Result<Response, String> {
        self.client.get(url).send().await.map_err(|error| Chain(&error.without_url()).to_string())
    }

    /// What everybody can see of the account.
    async fn pages(&self) -> Vec<Finding> {
        let url = format!("{}/hc", self.url);
        let finding = self.finding("the account");
        let help_center = match self.get(&url).await {
            Ok(response) => response,
            Err(error) => {
                return vec![finding.seen(format!("asked {url}")).warning(
                    error,
                    "this machine cannot reach it. Members' browsers must be able to; for zendesk.api, this machine too",
                )];
            }
        };
        let status = help_center.status();
        let finding = finding.seen(format!("{url} answered {}", status.as_u16()));
        let exists = !status.is_client_error() || self.has_password_form().await;
        let finding = if !exists {
            let advice = "zendesk.subdomain is the name in https://NAME.zendesk.com";
            finding
                .failed("there is no account at this subdomain", advice)
                .breaks(Part::ZendeskAccount(self.app.zendesk.origin.to_string()))
        } else if status.as_u16() == 404 {
            finding.failed(
                "it has no Help Center",
                "members land on /hc: activate the Help Center (Admin Center, Channels, Help Center)",
            )
        } else if status.is_server_error() {
            finding.failed("Zendesk fails", "see https://status.zendesk.com")
        } else {
            finding.good("there, with a Help Center")
        };
        let mut findings = vec![finding];
        findings.extend(self.clock(&help_center));
        if exists {
            findings.push(self.sign_in_redirect().await);
        }
        findings
    }

    async fn has_password_form(&self) -> bool {
        let response = self.get(&format!("{}/access/normal", self.url)).await;
        response.is_ok_and(|response| response.status().as_u16() != 404)
    }

    fn clock(&self, response: &Response) -> Option<Finding> {
        let skew = clock_skew(response.headers().get(DATE)?.to_str().ok()?)?;
        let finding = self.finding("the clock").seen("the Date of its response");
        let result = format!("differs from ours by {skew} s");
        let advice = "Zendesk refuses tokens that are three minutes off: set this machine's clock by NTP (`timedatectl`)";
        Some(match skew {
            MAX_SKEW_SECONDS.. => finding.failed(result, advice),
            WARN_SKEW_SECONDS.. => finding.warning(result, advice),
            _ => finding.good(result),
        })
    }

    /// Where Zendesk sends people who have to sign in.
    async fn sign_in_redirect(&self) -> Finding {
        let mut at = format!("{}/hc/requests", self.url);
        let mut finding = self.finding("who has to sign in").seen(format!("asked {at}"));
        for _ in 0..MAX_REDIRECTS {
            let response = match self.get(&at).await {
                Ok(response) => response,
                Err(error) => return finding.warning(error, "try again"),
            };
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = Url::parse(&at).ok().and_then(|own| own.join(location?).ok());
            let Some(next) = next else {
                finding.seen += &format!("; ended at {} with {}", plain(&at), response.status().as_u16());
                break;
            };
            let result = format!("is sent to {}", plain(next.as_str()));
            let host = next.host_str();
            if self.site.config.hosts.iter().any(|own| host == Some(own)) && next.path() == self.app.path {
                return finding.good(result);
            }
            if !self.app.zendesk.authorities().any(|own| host == Some(own.host.as_str())) {
                let advice = format!("the Remote login URL in Zendesk should be {}", self.login_url);
                return finding.warning(result, advice);
            }
            at = next.into();
        }
        finding.warning(
            "is not sent here: single sign-on is not assigned to end users, or the Help Center needs no sign-in",
            "docs/zendesk-setup.md: assign the configuration (Admin Center, Account, Security, End user authentication)",
        )
    }

    async fn api_scope(&self, api: &Api) -> Option<Finding> {
        let scope = api.scope().await.ok()??;
        let finding = self.finding("API").seen("the token endpoint's response");
        let result = format!("a token for: {scope}");
        let may_read = scope.split([' ', ',']).any(|word| matches!(word, "read" | "users:read"));
        Some(if may_read {
            finding.good(result)
        } else {
            finding.warning(result, "the OAuth client needs the scope `read`, for the list of the staff")
        })
    }

    async fn staff(&self, staff: &Arc<Staff>) -> Finding {
        let [_, api] = self.parts();
        let finding = self.finding("staff").needs(self.parts()).breaks(api);
        match staff.refresh().await {
            Ok(people) => {
                let without_id = staff.without_imis_id();
                let mut finding = finding
                    .seen(format!("{without_id} of them without an external_id"))
                    .good(format!("{people} people"));
                // The guard protects them, so this is not a warning.
                let advice = "give staff who are members their iMIS ID as external_id in Zendesk: only the guard protects those without one";
                finding.advice = (without_id > 0).then(|| advice.to_owned());
                finding
            }
            Err(error) => finding.seen("no list").failed(
                Chain(&error).to_string(),
                "the OAuth client of zendesk.api must be confidential. Its owner must be an admin, or an agent who may see all users",
            ),
        }
    }

    async fn user_fields(&self, api: &Api) -> Vec<Finding> {
        let claims = &self.app.claims.user_fields;
        if claims.is_empty() {
            return Vec::new();
        }
        let known = match fields::user_fields(api).await {
            Ok(known) => known,
            Err(error) => {
                let advice = "the OAuth client needs the scope `read`, for the list of user fields";
                let finding = self.finding("user fields").needs(self.parts());
                let finding = finding.seen("no list");
                return vec![finding.failed(Chain(&error).to_string(), advice)];
            }
        };
        let keys: Vec<_> = known.iter().map(|field| field.key.as_str()).collect();
        let seen = format!("fields of the account: {}", keys.join(", "));
        let check = |(key, source): &(String, _)| {
            let finding = self.finding(&format!("user field {key}")).seen(seen.as_str());
            match fields::problem(&known, key, source) {
                Some(problem) => finding.failed(
                    problem,
                    "Zendesk ignores the value silently: see Admin Center, People, Configuration, User fields",
                ),
                None => finding.good("the account has it"),
            }
        };
        claims.iter().map(check).collect()
    }
}
