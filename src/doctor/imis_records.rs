//! The records of iMIS: what the service account may read, and whether a member could sign in.

use std::error::Error;

use crate::base::error_chain::Chain;
use crate::config::{App, MethodKind};
use crate::doctor::explain::{Outcome, Question, Who, explain};
use crate::doctor::finding::Finding;
use crate::imis::api::ProfileError;
use crate::imis::client::ApiError;
use crate::request::gateway::{Gateway, Site};
use crate::sso::site::SignOn;

const ROLES: &str = "give its user the roles Remote Service and SysAdmin in iMIS";
const API_URL: &str = "check that api_url is the REST API of this iMIS";

/// Whether the service account may read the records that the configuration needs.
pub(super) async fn check(site: &Site, sign_on: &SignOn) -> Vec<Finding> {
    let Some(config) = site.config.sign_on.as_ref().map(|config| &config.imis) else { return Vec::new() };
    if config.service_account.is_none() {
        return Vec::new();
    }
    let by_username =
        |kind: &MethodKind| matches!(kind, MethodKind::ClientApplication(_) | MethodKind::FormsTicket(_));
    let needs_users = config.recognise.iter().any(|method| by_username(&method.kind));
    let mut findings = Vec::new();
    for kind in ["Party"].into_iter().chain(needs_users.then_some("User")) {
        let finding = Finding::of_site(site, format!("the service account and {kind} records"))
            .seen(format!("asked {}api/{kind}?limit=1", config.api_url));
        findings.push(match sign_on.imis.api.may_read(kind).await {
            Ok(1..) => finding.good("it gets a token, and may read them"),
            Ok(0) => finding.failed("it gets a token, but no record", ROLES),
            Err(error) => finding.failed(Chain(&error).to_string(), advice(&error)),
        });
    }
    findings
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
    let finding = Finding::of_site(site, format!("iMIS ID {imis_id} for {}", app.name))
        .seen("decided like a sign-in; `imis-gateway explain` shows each step");
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
