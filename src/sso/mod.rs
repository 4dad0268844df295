//! The sign-in, readable on one screen, and its one table of answers.
//!
//! Nothing is stored between two requests. Not signed in, refused and broken are three different answers, and only
//! `SsoRequest::permit` leads to a token.

pub(crate) mod claims;
mod imis_callback;
pub(crate) mod decision;
mod denied;
mod email_address;
pub(crate) mod error;
mod facts;
mod handoff;
mod loop_guard;
mod messaging_token;
mod fetch_metadata;
pub(crate) mod policy;
pub(crate) mod rate_limit;
pub(crate) mod return_to;
mod secret_rotation;
mod logout;
pub(crate) mod single_logout;
pub(crate) mod site;
pub(crate) mod state_cookie;
mod token;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod minting;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::SET_COOKIE;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::base::clock;
use crate::base::error_chain::Chain;
use crate::config::App;
use crate::imis::recognise::{Answer, Identity};
use crate::imis::{PartyId, Visitor};
use crate::observe::audit::Decision;
use crate::pages::{Link, Message};
use crate::sso::site::{Services, SignOn};
use crate::upstream::forwarded::Forwarded;
pub(crate) use decision::TraceStep;
use decision::{DecisionContext, Trace, decide};
use error::{Failed, SignInError};
pub(crate) use imis_callback::posted;
pub(crate) use logout::signed_out;
use loop_guard::{Round, Way};
pub(crate) use messaging_token::messaging_token;
use policy::Permit;
use rate_limit::{RateLimited, RateLimits};
use return_to::LoginParams;
pub(crate) use return_to::ReturnTo;
use state_cookie::Purpose;

/// A sign-in is over after this time, whatever iMIS does: recognition, token and profile together.
const DEADLINE: Duration = Duration::from_secs(15);

/// Seconds after which what failed may go well.
const TRY_AGAIN_AFTER: u32 = 30;

/// How long a sign-in waits for others to be done when too many are under way.
const WAIT_FOR_A_PLACE: Duration = Duration::from_secs(5);

/// A request for one of an app's paths.
pub(crate) struct SsoRequest {
    pub(crate) services: Arc<Services>,
    pub(crate) sign_on: Arc<SignOn>,
    pub(crate) app: Arc<App>,
    pub(crate) query: String,
    /// Only what a GET would begin with is asked for.
    pub(crate) is_head: bool,
    pub(crate) headers: HeaderMap,
    pub(crate) forwarded: Forwarded,
    pub(crate) authority: Authority,
    pub(crate) incident: String,
    pub(crate) audit_subject: AuditSubject,
}

/// What becomes known on the way to a decision, for the record of it.
#[derive(Default)]
pub(crate) struct AuditSubject {
    signed_in: OnceLock<PartyId>,
    /// Who would enter.
    subject: OnceLock<PartyId>,
    /// As iMIS has it.
    email: OnceLock<String>,
}

/// The Remote login URL.
pub(crate) async fn sign_in(request: SsoRequest) -> Response<Bytes> {
    let params = LoginParams::parse(&request.query, &request.app.zendesk);
    if params.return_to_dropped {
        warn!(request_id = %request.incident, app = %request.app.name, "a return_to that leads elsewhere was dropped");
    }
    match within_deadline(log_in(&request, &params)).await {
        Ok(response) => response,
        Err(error) => answer(&request, &params, &error),
    }
}

async fn within_deadline(
    signing_in: impl Future<Output = Result<Response<Bytes>, SignInError>>,
) -> Result<Response<Bytes>, SignInError> {
    timeout(DEADLINE, signing_in).await.unwrap_or(Err(SignInError::TimedOut))
}

async fn log_in(request: &SsoRequest, params: &LoginParams) -> Result<Response<Bytes>, SignInError> {
    if request.is_head {
        // Nobody is shown anything, so nobody is signed in.
        return Ok(redirect_to_sign_in(request, params));
    }
    fetch_metadata::require_top_level(&request.headers)?;
    request.services.rates.check_network(request.forwarded.client).map_err(SignInError::RateLimited)?;
    let imis = &request.sign_on.imis;
    let visitor = request.as_visitor();
    let Some(session) = imis.session(&visitor) else {
        return Ok(redirect_to_sign_in(request, params));
    };
    let _place = request.place().await?;
    match (imis.recognise(&session).await?, imis.application()) {
        (Answer::Person(identity), _) => admit(request, params, &identity).await,
        (Answer::AskSite, Some(application)) => {
            match loop_guard::round(request, params, Way::SingleSignOnPage) {
                Round::Stops(page) => Ok(*page),
                Round::Goes(cookie) => {
                    let mut response = imis_callback::to_page(request, params, application)?;
                    add_cookie(&mut response, &cookie);
                    Ok(response)
                }
            }
        }
        (Answer::Nobody, _) | (Answer::AskSite, None) => Ok(redirect_to_sign_in(request, params)),
    }
}

/// Lets in whoever iMIS says is there, if the policy allows.
async fn admit(
    request: &SsoRequest,
    params: &LoginParams,
    identity: &Identity,
) -> Result<Response<Bytes>, SignInError> {
    let app = &request.app;
    let permit = request.permit(&request.services.rates, (identity, params)).await?;
    let round = loop_guard::round(request, params, Way::Zendesk);
    let cookie = match round {
        Round::Goes(cookie) => cookie,
        Round::Stops(page) => return Ok(*page),
    };
    let jti = clock::random_hex().map_err(token::MintError::Random)?;
    let chosen = secret_rotation::choose(request, params);
    let token = token::mint(chosen.secret, &permit, clock::unix_now(), &jti)?;
    info!(
        request_id = %request.incident,
        client = %request.forwarded.client,
        app = %app.name,
        imis_id = permit.id().as_str(),
        signed_in_as = identity.id.as_str(),
        on_behalf_of = identity.on_behalf_of.as_ref().map(PartyId::as_str),
        rule = permit.rule(),
        is_member = permit.is_member(),
        customer_type = permit.customer_type(),
        secret = chosen.name,
        "signed in"
    );
    request.services.metrics.decision(&app.name, "signed-in", "");
    request.services.metrics.token(&app.name, chosen.name);
    request.services.audit.record(&Decision { rule: permit.rule(), ..request.decision("signed-in") });
    let mut response = handoff::page(request, params, &token);
    add_cookie(&mut response, &cookie);
    if let Some(cookie) = chosen.cookie {
        add_cookie(&mut response, &cookie);
    }
    // A sign-out that was begun before is none of this request's.
    for state in request.sign_on.states.states(Purpose::SignOut, &request.headers, clock::unix_now()) {
        add_cookie(&mut response, &state.deletion());
    }
    Ok(response)
}

fn redirect_to_sign_in(request: &SsoRequest, params: &LoginParams) -> Response<Bytes> {
    let (incident, app) = (&request.incident, &request.app.name);
    if request.is_head {
        return handoff::to_sign_in_page(request, params);
    }
    match loop_guard::round(request, params, Way::SignInPage) {
        Round::Stops(page) => *page,
        Round::Goes(cookie) => {
            info!(request_id = incident, app, "nobody is signed in to iMIS; to its sign-in page");
            let mut response = handoff::to_sign_in_page(request, params);
            add_cookie(&mut response, &cookie);
            response
        }
    }
}

impl SsoRequest {
    /// A place among the sign-ins that wait on iMIS, held as long as the value.
    async fn place(&self) -> Result<SemaphorePermit<'_>, SignInError> {
        let place = timeout(WAIT_FOR_A_PLACE, self.sign_on.places.acquire()).await;
        place.map_err(|_| SignInError::Busy)?.map_err(|_| SignInError::Busy)
    }

    /// Whether the person may enter: the one way to a permit, whatever is minted by it.
    async fn permit(
        &self,
        rates: &RateLimits,
        (identity, params): (&Identity, &LoginParams),
    ) -> Result<Permit, SignInError> {
        // Set once: a request is one person's.
        let _ = self.audit_subject.signed_in.set(identity.id.clone());
        rates.check_person(&self.sign_on.hosts[0], identity.id.as_str()).map_err(SignInError::RateLimited)?;
        let context = DecisionContext {
            sign_on: &self.sign_on,
            app: &self.app,
            language: &self.services.language,
            incident: &self.incident,
            audit_subject: &self.audit_subject,
        };
        decide(&context, (identity, params), &mut Trace::disabled()).await
    }

    /// A record of what was decided about it, to be filled in.
    fn decision(&self, decision: &'static str) -> Decision<'_> {
        Decision {
            request_id: &self.incident,
            app: &self.app.name,
            client: self.forwarded.client.to_string(),
            decision,
            reason: None,
            rule: None,
            imis_id: self.audit_subject.subject.get().map(PartyId::as_str),
            signed_in_as: self.audit_subject.signed_in.get().map(PartyId::as_str),
            email: self.audit_subject.email.get().map(String::as_str),
            target: self.app.zendesk.origin.to_string(),
        }
    }

    fn as_visitor(&self) -> Visitor<'_> {
        Visitor { headers: &self.headers, forwarded: &self.forwarded, authority: &self.authority }
    }
}

/// Adds a cookie of ours to an answer.
fn add_cookie(response: &mut Response<Bytes>, set_cookie: &str) {
    // Made of what was encoded or is part of the program.
    if let Ok(value) = HeaderValue::try_from(set_cookie) {
        response.headers_mut().append(SET_COOKIE, value);
    }
}

/// The one place where a failed sign-in becomes a log line, a record and a number.
fn note(request: &SsoRequest, error: &SignInError) {
    let (incident, app) = (&request.incident, &request.app.name);
    let (decision, reason, rule) = match error.failed() {
        Failed::NotNavigation => {
            warn!(request_id = incident, app, "refused: not a top-level navigation");
            return;
        }
        Failed::Denied(denied) => {
            info!(request_id = incident, app, reason = denied.name(), rule = denied.rule(), error = %Chain(denied), "refused");
            ("refused", Some(denied.name()), denied.rule())
        }
        Failed::RateLimited(enough) => {
            warn!(request_id = incident, app, limit = enough.name(), "a sign-in was turned away");
            ("refused", Some("rate"), None)
        }
        Failed::Broken => {
            warn!(request_id = incident, app, error = %Chain(error), "cannot sign in");
            ("broken", None, None)
        }
    };
    request.services.metrics.decision(app, decision, reason.unwrap_or_default());
    // A crowd of strangers must not push out the records of those about whom something was decided.
    if !matches!(error, SignInError::RateLimited(RateLimited::Network)) {
        request.services.audit.record(&Decision { reason, rule, ..request.decision(decision) });
    }
}

/// The page of a failed sign-in, which is noted.
fn answer(request: &SsoRequest, params: &LoginParams, error: &SignInError) -> Response<Bytes> {
    note(request, error);
    let app = &request.app.name;
    let again = Link::primary("Try again", params.sso_target(&request.app));
    let message = match error.failed() {
        Failed::NotNavigation => {
            let text = "A sign-in starts by opening this address in the browser itself. \
                        It cannot be embedded in a page, fetched by a script or loaded in advance.";
            Message::new(StatusCode::FORBIDDEN, "This page has to be opened directly").text(text).link(again)
        }
        Failed::Denied(denied) => {
            let languages = request.headers.get(http::header::ACCEPT_LANGUAGE);
            let languages = languages.and_then(|value| value.to_str().ok()).unwrap_or_default();
            Message::new(StatusCode::FORBIDDEN, denied.title())
                .text(denied.advice(&request.app, languages))
                .link(Link::primary("Back to the site", "/"))
                .link(Link::new("Try again", params.sso_target(&request.app)))
                .link(Link::new("Sign out, to use another account", request.sign_on.imis.sign_out.clone()))
        }
        Failed::RateLimited(_) => Message::new(StatusCode::TOO_MANY_REQUESTS, "That was too often")
            .text("There have been more sign-ins from here than are allowed in a minute. Please wait a little, then try again.")
            .link(again)
            .retry_after(TRY_AGAIN_AFTER),
        Failed::Broken => {
            let password = crate::zendesk::password_sign_in(
                &request.app.zendesk,
                params.return_to.as_ref().map(ReturnTo::as_str),
            );
            let what = if !error.is_of_imis() {
                "Something that has to be known to let you in is not known at the moment, or not set up as it should be."
            } else {
                "The membership system did not answer as it should, so we could not confirm who you are."
            };
            Message::new(StatusCode::SERVICE_UNAVAILABLE, "We cannot sign you in right now")
                .text(format!("{what} The site itself keeps working. Please try {app} again in a minute."))
                .link(again)
                .link(Link::new(format!("Sign in to {app} with a password instead"), password))
                .retry_after(TRY_AGAIN_AFTER)
        }
    };
    request.services.pages.message(&message, &request.incident)
}
