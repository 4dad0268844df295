//! `explain`: decides about a person with the code of the sign-in, and shows every step. Nothing here can sign a token.

use std::fmt;

use http::header::HeaderValue;
use serde_json::{Map, Value};

use crate::base::error_chain::Chain;
use crate::base::query::encoded;
use crate::config::App;
use crate::doctor::test_visitor::TestVisitor;
use crate::imis::PartyId;
use crate::imis::recognise::{Answer, Identity, RecogniseError, RecognitionReport};
use crate::request::gateway::{Gateway, Site};
use crate::sso::decision::{DecisionContext, decide};
use crate::sso::error::SignInError;
use crate::sso::login_params::LoginParams;
use crate::sso::policy::Permit;
use crate::sso::request::AuditSubject;
use crate::sso::site::SignOn;
use crate::sso::trace::{Trace, TraceStep};

/// The person in question.
pub(crate) enum Who {
    ImisId(String),
    /// The person whose session cookies these are.
    Cookies(HeaderValue),
}

/// What to explain.
pub(crate) struct Question {
    pub(crate) who: Who,
    /// Name or path.
    pub(crate) app: String,
    pub(crate) return_to: Option<String>,
    pub(crate) brand_id: Option<u64>,
}

/// The decision and its steps. Both contain personal data.
pub(crate) struct Explanation {
    pub(crate) steps: Vec<TraceStep>,
    pub(crate) outcome: Outcome,
}

/// What a sign-in would end with.
pub(crate) enum Outcome {
    /// The claims of the token, without `iat` and `jti`.
    Allowed(Map<String, Value>),
    NotSignedIn,
    /// The reason and its cause.
    Refused(String),
    /// iMIS has no such contact.
    NoContact,
    /// The decision was not possible.
    Failed(String),
}

impl Outcome {
    /// The claims of the token, if there would be one.
    pub(crate) fn claims(&self) -> Option<&Map<String, Value>> {
        if let Self::Allowed(claims) = self { Some(claims) } else { None }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed(_) => f.write_str("may enter"),
            Self::NotSignedIn => f.write_str("nobody is signed in"),
            Self::Refused(reason) => write!(f, "refused: {reason}"),
            Self::NoContact => f.write_str("broken: iMIS has no contact with this ID"),
            Self::Failed(error) => write!(f, "broken: {error}"),
        }
    }
}

/// The question cannot be answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExplainError {
    #[error("there is no app `{0}`; there is {1}")]
    NoApp(String, String),
    #[error("several sites have an app `{0}`; name it by its path, or give it another name")]
    SeveralApps(String),
    #[error("`{0}` is not an iMIS ID")]
    NoId(String),
    #[error("the site's first host is not a valid host name")]
    Host,
}

pub(crate) async fn explain(gateway: &Gateway, question: &Question) -> Result<Explanation, ExplainError> {
    let (site, sign_on, app) = find_app(gateway, &question.app)?;
    let mut trace = Trace::recording();
    let params = login_params(question, app, &mut trace);
    let identity = match &question.who {
        Who::ImisId(text) => {
            let id = PartyId::parse(text).ok_or_else(|| ExplainError::NoId(text.clone()))?;
            trace.record("identity", || format!("iMIS ID {text}, as given"));
            Ok(Some(Identity::of(id)))
        }
        Who::Cookies(cookie) => {
            let visitor = TestVisitor::new(&site.config.hosts[0], "explain", Some(cookie));
            recognise(&visitor.ok_or(ExplainError::Host)?, sign_on, &mut trace).await
        }
    };
    let outcome = match identity {
        Ok(Some(identity)) => decide_for(gateway, sign_on, app, &identity, &params, &mut trace).await,
        Ok(None) => Outcome::NotSignedIn,
        Err(error) => Outcome::Failed(Chain(&error).to_string()),
    };
    Ok(Explanation { steps: trace.into_steps(), outcome })
}

async fn decide_for(
    gateway: &Gateway,
    sign_on: &SignOn,
    app: &App,
    identity: &Identity,
    params: &LoginParams,
    trace: &mut Trace,
) -> Outcome {
    let staff = sign_on.staff.get(&app.path);
    if let Some(staff) = staff {
        let known = staff.refresh_if_old().await;
        trace.record("staff of Zendesk", || match known {
            Ok(people) => format!("{people} people"),
            Err(error) => format!("not known: {}", Chain(&error)),
        });
    }
    let (language, audit_subject) = (&gateway.services.language, &AuditSubject::default());
    let request_id = "explain";
    let context = DecisionContext { sign_on, app, language, identity, params, request_id, audit_subject };
    let permit = match decide(&context, trace).await {
        Ok(permit) => permit,
        Err(SignInError::Profile(error)) if error.is_missing() => return Outcome::NoContact,
        Err(SignInError::Denied(denied)) => {
            return Outcome::Refused(format!("{} ({})", denied.name(), Chain(&denied)));
        }
        Err(error) => return Outcome::Failed(Chain(&error).to_string()),
    };
    if let Some(staff) = staff {
        let account = staff.account_of(permit.id().as_str(), permit.email()).await;
        trace.record("account in Zendesk", || {
            account.unwrap_or_else(|error| format!("not known: {}", Chain(&error)))
        });
    }
    Outcome::Allowed(claims_of(&permit))
}

fn find_app<'a>(gateway: &'a Gateway, wanted: &str) -> Result<(&'a Site, &'a SignOn, &'a App), ExplainError> {
    let sites = gateway.sites.iter().filter_map(|site| Some((site, site.sign_on.as_deref()?)));
    let all: Vec<_> = sites
        .flat_map(|(site, sign_on)| sign_on.apps.iter().map(move |app| (site, sign_on, &**app)))
        .collect();
    let mut named = all.iter().filter(|(_, _, app)| app.name == wanted || app.path == wanted);
    match (named.next(), named.next()) {
        (Some(found), None) => Ok(*found),
        (Some(_), Some(_)) => Err(ExplainError::SeveralApps(wanted.to_owned())),
        (None, _) => {
            let names: Vec<&str> = all.iter().map(|(_, _, app)| app.name.as_str()).collect();
            Err(ExplainError::NoApp(wanted.to_owned(), names.join(", ")))
        }
    }
}

fn login_params(question: &Question, app: &App, trace: &mut Trace) -> LoginParams {
    let return_to = question.return_to.iter().map(|text| format!("return_to={}", encoded(text)));
    let brand = question.brand_id.iter().map(|id| format!("brand_id={id}"));
    let query = return_to.chain(brand).collect::<Vec<_>>().join("&");
    let params = LoginParams::parse(&query, &app.zendesk);
    if question.return_to.is_some() {
        trace.record("return_to", || match params.return_to() {
            Some(target) => format!("accepted: {target}"),
            None => "dropped: it does not lead into the account".to_owned(),
        });
    }
    params
}

async fn recognise(
    visitor: &TestVisitor,
    sign_on: &SignOn,
    trace: &mut Trace,
) -> Result<Option<Identity>, RecogniseError> {
    let visitor = visitor.as_visitor();
    trace.record("cookies", || RecognitionReport::of(visitor.headers).to_string());
    let Some(session) = sign_on.imis.recognition.session(&visitor) else {
        trace.record("identity", || "none of the cookies is a session cookie (session_cookies)".to_owned());
        return Ok(None);
    };
    let (identity, outcome) = match sign_on.imis.recognition.recognise(&session).await? {
        Answer::Person(identity) => {
            let contact = identity.on_behalf_of.as_ref().map(|id| format!(", acting for {}", id.as_str()));
            let outcome = format!("iMIS ID {}{}", identity.id.as_str(), contact.unwrap_or_default());
            (Some(identity), outcome)
        }
        Answer::Anonymous => (None, "iMIS says that nobody is signed in".to_owned()),
        Answer::AskSite => {
            (None, "only a browser can find out (client_application); use --imis-id".to_owned())
        }
    };
    trace.record("identity", || outcome);
    Ok(identity)
}

/// The claims of a token, without `iat` and `jti`.
fn claims_of(permit: &Permit) -> Map<String, Value> {
    let mut claims = Map::new();
    claims.insert("email".to_owned(), permit.email().into());
    claims.insert("name".to_owned(), permit.name().into());
    claims.insert("external_id".to_owned(), permit.id().as_str().into());
    claims.extend(permit.phone().map(|phone| ("phone".to_owned(), phone.into())));
    claims.extend(permit.claims().clone());
    claims
}

impl ExplainError {
    /// The question itself is wrong.
    pub(crate) fn is_usage_error(&self) -> bool {
        !matches!(self, Self::Host)
    }
}
