//! The records of iMIS: whether the service account gets a token and may read what it has to, and what becomes of a member.

use crate::base::error_chain::Chain;
use crate::config::{App, How};
use crate::doctor::explain::{Question, Who, explain};
use crate::doctor::{Finding, Severity};
use crate::imis::api::ProfileError;
use crate::imis::client::ApiError;
use crate::request::gateway::{Gateway, Site};

pub(super) async fn examine(site: &Site, findings: &mut Vec<Finding>) {
    let (Some(sign_on), Some(config)) = (&site.sign_on, &site.config.sign_on) else { return };
    if config.imis.service_account.is_none() {
        return;
    }
    let needs_users = config
        .imis
        .recognise
        .iter()
        .any(|method| matches!(method.how, How::ClientApplication(_) | How::FormsTicket(_)));
    let kinds = ["Party"].into_iter().chain(needs_users.then_some("User"));
    for kind in kinds {
        let finding = Finding {
            seen: format!("asked {}api/{kind}?limit=1", config.imis.api_url),
            ..Finding::good(site, format!("the service account and {kind} records"))
        };
        findings.push(match sign_on.imis.may_read(kind).await {
            Ok(1..) => Finding { result: "it gets a token, and may read them".to_owned(), ..finding },
            Ok(0) => finding.but(
                Severity::Failed,
                "it gets a token, and is shown no record",
                "its user needs the roles Remote Service and SysAdmin in iMIS",
            ),
            Err(error) => {
                let advice = advice(&error);
                finding.but(Severity::Failed, Chain(&error).to_string(), advice)
            }
        });
    }
}

fn advice(error: &ProfileError) -> &'static str {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<ApiError>() {
            Some(ApiError::Shared(shared)) => return of_api(shared),
            Some(error) => return of_api(error),
            None => cause = error.source(),
        }
    }
    "is api_url the REST API of this iMIS?"
}

fn of_api(error: &ApiError) -> &'static str {
    match error {
        ApiError::SignInRefused(_) => {
            "is the password the one of now (iMIS may have it changed every 90 days), and the user not locked?"
        }
        ApiError::Status(status) if status.as_u16() == 403 => {
            "its user needs the roles Remote Service and SysAdmin in iMIS"
        }
        ApiError::Status(status) if status.as_u16() == 404 => {
            "api_url does not lead to the API: iMIS 2017 has it at https://HOST/Asi.Scheduler_INSTANCE/, later ones at their root"
        }
        ApiError::Status(_) | ApiError::NotJson => {
            "does a firewall stand before the API, or is api_url wrong?"
        }
        ApiError::Unreachable(_) | ApiError::Lost(_) | ApiError::TimedOut => {
            "is iMIS up, is api_url right, does a firewall stand between?"
        }
        ApiError::TooLong(_)
        | ApiError::NoToken
        | ApiError::NoAccount
        | ApiError::Url
        | ApiError::Shared(_) => "is api_url the REST API of this iMIS?",
    }
}

/// What would become of a member who is signed in.
pub(super) async fn member(gateway: &Gateway, site: &Site, app: &App, member: &str) -> Finding {
    let question = Question {
        who: Who::ImisId(member.to_owned()),
        app: app.path.clone(),
        return_to: None,
        brand_id: None,
    };
    let finding = Finding {
        seen: "decided as a sign-in is; `imis-gateway explain` tells each step".to_owned(),
        ..Finding::good(site, format!("iMIS ID {member} for {}", app.name))
    };
    match explain(gateway, &question).await {
        Ok(explanation) if explanation.is_about_nobody() => finding.but(
            Severity::Warning,
            "iMIS has no contact with this ID",
            "name somebody who exists: the iMIS ID, not the user name",
        ),
        Ok(explanation) if explanation.is_broken() => finding.but(
            Severity::Failed,
            explanation.decision,
            "nobody can sign in like this: the checks above say what is wrong",
        ),
        Ok(explanation) => Finding { result: explanation.decision, ..finding },
        Err(error) => {
            finding.but(Severity::Failed, Chain(&error).to_string(), "name somebody by the iMIS ID")
        }
    }
}
