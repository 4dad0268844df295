//! Recognition: what each method says about a visitor without cookies, and about the member whose cookies are given.

use http::HeaderValue;

use crate::base::error_chain::Chain;
use crate::doctor::finding::{Finding, Severity};
use crate::doctor::test_visitor::TestVisitor;
use crate::imis::recognise::{Examined, Generation, Identity, RecogniseError, RecognitionReport};
use crate::request::gateway::Site;
use crate::sso::site::SignOn;

pub(super) async fn check(site: &Site, sign_on: &SignOn, cookies: Option<&HeaderValue>) -> Vec<Finding> {
    let Some(visitor) = TestVisitor::new(&site.config.hosts[0], "doctor", cookies) else {
        return Vec::new();
    };
    let visitor = visitor.as_visitor();
    if cookies.is_some() && sign_on.imis.recognition.session(&visitor).is_none() {
        let finding =
            Finding::of_site(site, "session cookie").seen(RecognitionReport::of(visitor.headers).to_string());
        return vec![finding.failed(
            "none of the cookies given is a session cookie, or two of them differ",
            "session_cookies must name the cookie that iMIS sets at sign-in: Login on 2017, login on Cloud",
        )];
    }
    let examined = sign_on.imis.recognition.examine(&visitor).await;
    examined.into_iter().map(|examined| method(site, examined, cookies.is_some())).collect()
}

fn method(site: &Site, examined: Examined, has_cookies: bool) -> Finding {
    let Examined { method, report: seen, answer } = examined;
    let whose = if has_cookies { "with the cookies given" } else { "not signed in" };
    let finding = Finding::of_site(site, format!("{method}, {whose}")).seen(seen.to_string());
    let finding = match (answer, has_cookies) {
        (Ok(None), false) => finding.good("nobody, as expected"),
        (Ok(None), true) => finding.warning(
            "nobody",
            "if this member is signed in at the moment, the session has ended or belongs to another site",
        ),
        (Ok(Some(identity)), false) => finding.failed(
            format!("iMIS ID {}, without any cookie", identity.id.as_str()),
            "the page or query shows one person to everybody: check for a cache between this gateway and iMIS",
        ),
        (Ok(Some(identity)), true) => finding.good(shown(&identity)),
        (Err(RecogniseError::Ticket(_)), false) => finding.good("needs a session cookie"),
        (Err(error), _) => finding.failed(Chain(&error).to_string(), error.advice()),
    };
    match seen.generation.and_then(|generation| wrong_api_url(site, generation)) {
        Some(advice) if finding.severity == Severity::Good => {
            let result = finding.result.clone();
            finding.warning(result, advice)
        }
        Some(_) | None => finding,
    }
}

fn shown(identity: &Identity) -> String {
    let contact = identity.on_behalf_of.as_ref().map(|id| format!(", acting for {}", id.as_str()));
    format!("iMIS ID {}{}", identity.id.as_str(), contact.unwrap_or_default())
}

/// `api_url` is that of another version of iMIS than the one that answered.
fn wrong_api_url(site: &Site, generation: Generation) -> Option<String> {
    let api_url = &site.config.sign_on.as_ref()?.imis.api_url;
    let is_2017 = api_url.path().to_ascii_lowercase().contains("/asi.scheduler");
    match (generation, is_2017) {
        (Generation::Ems, true) => {
            Some(format!("this is a later iMIS, whose API is at its root, but api_url is {api_url}"))
        }
        (Generation::Imis2017, false) => Some(format!(
            "this is iMIS 2017, whose API is mostly at https://HOST/Asi.Scheduler_INSTANCE/, but api_url is {api_url}"
        )),
        (Generation::Ems, false) | (Generation::Imis2017, true) => None,
    }
}
