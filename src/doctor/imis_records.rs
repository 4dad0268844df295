//! The records of iMIS: what the service account may read, and whether a member could sign in.

use std::error::Error;

use http::StatusCode;
use url::Url;

use crate::base::error_chain::Chain;
use crate::config::{App, MethodKind};
use crate::doctor::explain::{Outcome, Question, Who, explain};
use crate::doctor::finding::{Finding, Part};
use crate::imis::TokenError;
use crate::imis::api::ProfileError;
use crate::imis::client::ApiError;
use crate::request::gateway::{Gateway, Site};
use crate::sso::site::SignOn;

const ROLES: &str = "give its user the roles Remote Service and SysAdmin in iMIS";
const API_URL: &str = "check that api_url is the REST API of this iMIS";

/// Whether the service account may read the records that the configuration needs, and the secret of the client
/// application.
pub(super) async fn check(site: &Site, sign_on: &SignOn) -> Vec<Finding> {
    let Some(config) = site.config.sign_on.as_ref().map(|config| &config.imis) else { return Vec::new() };
    let needs = || [server_of_api(site, &config.api_url), Some(Part::Api)].into_iter().flatten();
    let by_username =
        |kind: &MethodKind| matches!(kind, MethodKind::ClientApplication(_) | MethodKind::FormsTicket(_));
    let needs_users = config.recognise.iter().any(|method| by_username(&method.kind));
    let kinds = ["Party"].into_iter().chain(needs_users.then_some("User"));
    let mut findings = Vec::new();
    for kind in kinds.filter(|_| config.service_account.is_some()) {
        let finding = Finding::of_site(site, format!("the service account and {kind} records"))
            .seen(format!("asked {}api/{kind}?limit=2", config.api_url))
            .needs(needs())
            .breaks(Part::Api);
        findings.push(match sign_on.imis.api.reads_others(kind).await {
            Ok(true) => finding.good("it gets a token, and may read them"),
            Ok(false) => finding.failed("it gets a token, but no record of other people", ROLES),
            Err(error) => finding.failed(Chain(&error).to_string(), advice(&error)),
        });
    }
    if let Some(application) = &sign_on.imis.recognition.application {
        let finding = Finding::of_site(site, "client application")
            .seen("asked the token endpoint to redeem a refresh token that does not exist");
        findings.push(match sign_on.imis.api.accepts_client(application).await {
            Ok(()) => finding.good("client_id and client_secret are accepted"),
            Err(TokenError::Api(error)) => {
                finding.needs(needs()).failed(Chain(&error).to_string(), api_advice(&error))
            }
            // Possibly the page of a firewall, which refuses the service account, too.
            Err(error @ TokenError::Client(StatusCode::FORBIDDEN)) => {
                finding.needs(needs()).failed(error.to_string(), API_URL)
            }
            Err(error) => finding.failed(
                error.to_string(),
                "they must be those of Settings, Contacts, Client applications in iMIS",
            ),
        });
    }
    findings
}

/// The servers, if the API is on one of them.
fn server_of_api(site: &Site, api_url: &Url) -> Option<Part> {
    let (host, port) = (api_url.host_str(), api_url.port_or_known_default());
    let mut servers = site.config.upstream.servers.iter();
    servers.any(|server| host == Some(&server.host) && port == Some(server.port)).then_some(Part::Servers)
}

fn advice(error: &ProfileError) -> &'static str {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<ApiError>() {
            Some(ApiError::Shared(shared)) => return api_advice(shared),
            Some(error) => return api_advice(error),
            None => cause = error.source(),
        }
    }
    API_URL
}

fn api_advice(error: &ApiError) -> &'static str {
    match error {
        ApiError::SignInRefused(_) => {
            "check the password (iMIS may have it changed every 90 days), and that the user is not locked"
        }
        ApiError::Status(status) if status.as_u16() == 403 => ROLES,
        ApiError::Status(status) if status.as_u16() == 404 => {
            "api_url does not lead to the API: iMIS 2017 has it at https://HOST/Asi.Scheduler_INSTANCE/, later ones at their root"
        }
        ApiError::Status(_) | ApiError::NotJson => {
            "check api_url, and whether a firewall in front of the API answers"
        }
        ApiError::Unreachable(_) | ApiError::Lost(_) | ApiError::TimedOut => {
            "check that iMIS is up, api_url, and whether a firewall is in between"
        }
        ApiError::TooLong(_)
        | ApiError::NoToken
        | ApiError::NoAccount
        | ApiError::Url
        | ApiError::Shared(_) => API_URL,
    }
}

/// Whether a member could sign in to an app.
pub(super) async fn check_member(gateway: &Gateway, site: &Site, app: &App, imis_id: &str) -> Finding {
    let who = Who::ImisId(imis_id.to_owned());
    let question = Question { who, app: app.path.clone(), return_to: None, brand_id: None };
    let account = app.zendesk.origin.to_string();
    let finding = Finding::of_site(site, format!("iMIS ID {imis_id} for {}", app.name))
        .needs([Part::Api, Part::ZendeskApi(account)])
        .seen("decided like a sign-in; `imis-gateway explain` shows each step");
    if site.config.sign_on.as_ref().is_some_and(|config| config.imis.service_account.is_none()) {
        return finding
            .warning("without a service account, only the member can read the record", "use --cookies");
    }
    match explain(gateway, &question).await {
        Ok(explanation) => match explanation.outcome {
            Outcome::NoContact => finding.warning(
                "iMIS has no contact with this ID",
                "name a contact that exists: the iMIS ID, not the user name",
            ),
            Outcome::Failed(_) => finding.failed(
                explanation.outcome.to_string(),
                "no member can sign in like this: the checks above show why",
            ),
            Outcome::Allowed(_) | Outcome::Refused(_) | Outcome::NotSignedIn => {
                finding.good(explanation.outcome.to_string())
            }
        },
        Err(error) => finding.failed(Chain(&error).to_string(), "name a contact by the iMIS ID"),
    }
}
