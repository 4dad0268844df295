//! "Why?", answered by the same code that decides about sign-ins, in a place that has no way to sign anything.

use http::header::{COOKIE, HeaderMap, HeaderValue};
use http::uri::Authority;
use serde_json::{Map, Value};

use crate::base::error_chain::Chain;
use crate::base::query::encoded;
use crate::config::App;
use crate::imis::recognise::{Answer, Identity, RecogniseError, Seen};
use crate::imis::{PartyId, Visitor, visitor_headers};
use crate::request::gateway::{Gateway, Site};
use crate::sso::AuditSubject;
use crate::sso::decision::{DecisionContext, Trace, TraceStep, decide};
use crate::sso::error::SignInError;
use crate::sso::policy::Permit;
use crate::sso::return_to::LoginParams;
use crate::sso::site::SignOn;
use crate::upstream::forwarded::Forwarded;

/// Whom a question is about.
pub(crate) enum Who {
    ImisId(String),
    /// Whoever these cookies belong to.
    Cookies(HeaderValue),
}

/// A question.
pub(crate) struct Question {
    pub(crate) who: Who,
    /// Name or path.
    pub(crate) app: String,
    pub(crate) return_to: Option<String>,
    pub(crate) brand_id: Option<u64>,
}

/// The answer. It tells of a person.
pub(crate) struct Explanation {
    pub(crate) steps: Vec<TraceStep>,
    /// What a token would say; none when there would be none.
    pub(crate) claims: Option<Map<String, Value>>,
    /// In a few words.
    pub(crate) decision: String,
}

/// What a decision begins with that could not be made.
const BROKEN: &str = "broken: ";
const NO_CONTACT: &str = "iMIS has no contact with this ID";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExplainError {
    #[error("there is no app `{0}`; there is {1}")]
    NoApp(String, String),
    #[error("several sites have an app `{0}`; name it by its path, or give it another name")]
    SeveralApps(String),
    #[error("`{0}` is not an iMIS ID")]
    NoId(String),
    #[error("the site's first host is not one")]
    Host,
}

pub(crate) async fn explain(gateway: &Gateway, question: &Question) -> Result<Explanation, ExplainError> {
    let (site, sign_on, app) = app_of(gateway, &question.app)?;
    let mut trace = Trace::recording();
    let params = params(question, app);
    match (&question.return_to, &params.return_to) {
        (None, _) => {}
        (Some(_), Some(target)) => trace.record("return_to", || format!("accepted: {}", target.as_str())),
        (Some(_), None) => {
            trace.record("return_to", || "dropped: it does not lead into the account".to_owned())
        }
    }
    let identity = match &question.who {
        Who::ImisId(text) => {
            let id = PartyId::parse(text).ok_or_else(|| ExplainError::NoId(text.clone()))?;
            trace.record("identity", || format!("iMIS ID {text}, as given"));
            Ok(Some(Identity::of(id)))
        }
        Who::Cookies(cookie) => recognised(site, sign_on, cookie, &mut trace).await?,
    };
    let identity = match identity {
        Ok(Some(identity)) => identity,
        Ok(None) => {
            return Ok(Explanation {
                steps: trace.into_steps(),
                claims: None,
                decision: "nobody is signed in".to_owned(),
            });
        }
        Err(error) => {
            let decision = format!("{BROKEN}{}", Chain(&error));
            return Ok(Explanation { steps: trace.into_steps(), claims: None, decision });
        }
    };
    if let Some(staff) = sign_on.staff.get(&app.path) {
        let known = staff.refresh().await;
        trace.record("staff of Zendesk", || match known {
            Ok(people) => format!("{people} people"),
            Err(error) => format!("not known: {}", Chain(&error)),
        });
    }
    let context = DecisionContext {
        sign_on,
        app,
        language: &gateway.services.language,
        incident: "explain",
        audit_subject: &AuditSubject::default(),
    };
    let decided = decide(&context, (&identity, &params), &mut trace).await;
    let (claims, decision) = match decided {
        Ok(permit) => {
            if let Some(staff) = sign_on.staff.get(&app.path) {
                let account = staff.account_of(permit.id().as_str(), permit.email()).await;
                trace.record("account in Zendesk", || {
                    account.unwrap_or_else(|error| format!("not known: {}", Chain(&error)))
                });
            }
            (Some(claims_of(&permit)), "may enter".to_owned())
        }
        Err(SignInError::Profile(error)) if error.is_missing() => (None, format!("{BROKEN}{NO_CONTACT}")),
        Err(SignInError::Denied(denied)) => {
            (None, format!("refused: {} ({})", denied.name(), Chain(&denied)))
        }
        Err(error) => (None, format!("{BROKEN}{}", Chain(&error))),
    };
    Ok(Explanation { steps: trace.into_steps(), claims, decision })
}

fn app_of<'a>(gateway: &'a Gateway, wanted: &str) -> Result<(&'a Site, &'a SignOn, &'a App), ExplainError> {
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

fn params(question: &Question, app: &App) -> LoginParams {
    let return_to = question.return_to.iter().map(|text| format!("return_to={}", encoded(text)));
    let brand = question.brand_id.iter().map(|id| format!("brand_id={id}"));
    LoginParams::parse(&return_to.chain(brand).collect::<Vec<_>>().join("&"), &app.zendesk)
}

type Recognised = Result<Option<Identity>, RecogniseError>;

async fn recognised(
    site: &Site,
    sign_on: &SignOn,
    cookie: &HeaderValue,
    trace: &mut Trace,
) -> Result<Recognised, ExplainError> {
    let host = &site.config.hosts[0];
    let authority: Authority = host.parse().map_err(|_| ExplainError::Host)?;
    let mut headers: HeaderMap = visitor_headers();
    headers.insert(COOKIE, cookie.clone());
    let forwarded = Forwarded::of_this_machine(host, "explain");
    let visitor = Visitor { headers: &headers, forwarded: &forwarded, authority: &authority };
    trace.record("cookies", || Seen::of(&headers).to_string());
    let Some(session) = sign_on.imis.session(&visitor) else {
        trace
            .record("identity", || "nobody: none of the cookies is a session's (session_cookies)".to_owned());
        return Ok(Ok(None));
    };
    let answer = sign_on.imis.recognise(&session).await;
    Ok(match answer {
        Ok(Answer::Person(identity)) => {
            trace.record("identity", || {
                let contact =
                    identity.on_behalf_of.as_ref().map(|id| format!(", acting for {}", id.as_str()));
                format!("iMIS ID {}{}", identity.id.as_str(), contact.unwrap_or_default())
            });
            Ok(Some(identity))
        }
        Ok(Answer::Nobody) => {
            trace.record("identity", || "nobody, says iMIS".to_owned());
            Ok(None)
        }
        Ok(Answer::AskSite) => {
            trace.record("identity", || {
                "only the browser can tell (client_application); ask with --imis-id".to_owned()
            });
            Ok(None)
        }
        Err(error) => Err(error),
    })
}

/// What a token would say, but for what is of each token: `iat` and `jti`.
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
    /// What was asked for does not exist.
    pub(crate) fn is_of_the_question(&self) -> bool {
        !matches!(self, Self::Host)
    }
}

impl Explanation {
    /// Whether there is nobody to decide about.
    pub(crate) fn is_about_nobody(&self) -> bool {
        self.decision.ends_with(NO_CONTACT)
    }

    /// Whether it could not be decided.
    pub(crate) fn is_broken(&self) -> bool {
        self.decision.starts_with(BROKEN)
    }

    /// Whether the person may enter.
    pub(crate) fn may_enter(&self) -> bool {
        self.claims.is_some()
    }
}
