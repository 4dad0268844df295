//! Recognition: what each method says about a visitor without cookies, and about the member whose cookies are given.

use http::{HeaderValue, StatusCode};
use url::Url;

use crate::base::error_chain::Chain;
use crate::config::MethodKind;
use crate::doctor::finding::{Finding, Part, Severity};
use crate::doctor::probe::plain;
use crate::doctor::test_visitor::TestVisitor;
use crate::imis::client::ApiError;
use crate::imis::recognise::{Examined, Generation, Identity, RecogniseError, RecognitionReport, Seen};
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
    let mut methods = site.config.sign_on.iter().flat_map(|config| &config.imis.recognise);
    let kind = methods.find(|own| own.kind.name() == method).map(|method| &method.kind);
    let whose = if has_cookies { "with the cookies given" } else { "not signed in" };
    let mut finding =
        Finding::of_site(site, format!("{method}, {whose}")).seen(seen.to_string()).needs([Part::Servers]);
    // The same page fails in the same way for other methods, and with cookies.
    if let Some(page) = kind.and_then(MethodKind::page).map(|page| Part::Page(page.to_owned())) {
        finding = finding.needs([page.clone()]).breaks(page);
    }
    let finding = match (answer, has_cookies) {
        (Ok(Seen::Forms(urls)), _) if !urls.is_empty() => {
            judge_forms(site, kind.and_then(MethodKind::page), &urls, finding)
        }
        (Ok(Seen::Forms(_)), true) => finding.warning(
            "the page has no form with a field refresh_token",
            "the page needs the content item Contact, Single Sign-On, and must be for signed-in users only",
        ),
        (Ok(Seen::Nobody | Seen::Forms(_)), false) => finding.good("nobody, as expected"),
        (Ok(Seen::Nobody), true) => finding.warning(
            "nobody",
            "if this member is signed in at the moment, the session has ended or belongs to another site",
        ),
        (Ok(Seen::Person(identity)), false) => finding.failed(
            format!("iMIS ID {}, without any cookie", identity.id.as_str()),
            "the page or query shows one person to everybody: check for a cache between this gateway and iMIS",
        ),
        (Ok(Seen::Person(identity)), true) => match missing_columns(kind, &identity) {
            Some(missing) => {
                let (who, columns) = (shown(&identity), seen.columns.join(", "));
                finding.failed(
                    format!("{who}, but the query has no column {missing}; it has: {columns}"),
                    "columns must have the names that the query gives them (its aliases)",
                )
            }
            None => finding.good(shown(&identity)),
        },
        (Err(RecogniseError::Ticket(_)), false) => finding.good("needs a session cookie"),
        (Err(error), _) => {
            let by_api = matches!(error, RecogniseError::User(_)).then_some(Part::Api);
            // The defaults of some paths are below base_path.
            let by_path = is_not_found(&error).then_some(Part::BasePath);
            let finding = finding.needs(by_api).needs(by_path);
            finding.failed(Chain(&error).to_string(), error.advice())
        }
    };
    match seen.generation.and_then(|generation| wrong_api_url(site, generation)) {
        Some(advice) if finding.severity == Severity::Good => {
            let result = finding.result.clone();
            finding.warning(result, advice)
        }
        Some(_) | None => finding,
    }
}

/// The configured columns of the profile that a query does not return.
fn missing_columns(kind: Option<&MethodKind>, identity: &Identity) -> Option<String> {
    let columns = kind.and_then(MethodKind::query)?.profile_columns.as_ref()?;
    let row = identity.row.as_ref()?;
    let missing = columns.names().filter(|name| !row.contains_key(*name));
    let missing: Vec<_> = missing.map(|name| format!("`{name}`")).collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

fn is_not_found(error: &RecogniseError) -> bool {
    matches!(error, RecogniseError::Missing | RecogniseError::Page(ApiError::Status(StatusCode::NOT_FOUND)))
}

/// Whether a form of the Single Sign-On page posts to an app of this site. A port mapping may change the port.
fn judge_forms(site: &Site, page: Option<&str>, actions: &[String], finding: Finding) -> Finding {
    let hosts = &site.config.hosts;
    let apps = site.config.sign_on.iter().flat_map(|sign_on| &sign_on.apps);
    let paths: Vec<String> = apps.map(|app| format!("{}/imis", app.path)).collect();
    let page = Url::parse(&format!("https://{}{}", hosts[0], page.unwrap_or("/"))).ok();
    let targets = actions.iter().filter_map(|action| page.as_ref()?.join(action).ok());
    let targets: Vec<Url> = targets.collect();
    let is_here = |url: &Url| {
        let is_own = hosts.iter().any(|host| url.host_str() == Some(host));
        url.scheme() == "https" && is_own && paths.iter().any(|path| url.path() == path)
    };
    let shown: Vec<String> = targets.iter().map(|url| plain(url.as_str())).collect();
    let result = format!("the page has a form for a signed-in member, which posts to {}", shown.join(", "));
    if targets.iter().any(is_here) {
        return finding.good(result);
    }
    let here: Vec<String> = paths.iter().map(|path| format!("https://{}{path}", hosts[0])).collect();
    let advice =
        format!("the login redirect URL of the client application in iMIS must be {}", here.join(" or "));
    finding.failed(result, advice)
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
