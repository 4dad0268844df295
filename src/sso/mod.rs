//! The sign-in, readable on one screen, and its one table of answers.
//!
//! Nothing is stored between two requests. Not signed in, refused and broken are three different answers, and only
//! `Visit::permit` leads to a token.

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
pub(crate) use decision::Step;
use decision::{Deciding, Steps, decide};
use error::{Failed, SignInError};
pub(crate) use imis_callback::posted;
pub(crate) use logout::signed_out;
use loop_guard::{Round, Way};
pub(crate) use messaging_token::messaging_token;
use policy::Permit;
use rate_limit::{Enough, Rates};
use return_to::Arrival;
pub(crate) use return_to::ReturnTo;
use state_cookie::Purpose;

/// A sign-in is over after this time, whatever iMIS does: recognition, token and profile together.
const DEADLINE: Duration = Duration::from_secs(15);

/// Seconds after which what failed may go well.
const TRY_AGAIN_AFTER: u32 = 30;

/// How long a sign-in waits for others to be done when too many are under way.
const WAIT_FOR_A_PLACE: Duration = Duration::from_secs(5);

/// A request for one of an app's paths.
pub(crate) struct Visit {
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
    pub(crate) learned: Learned,
}

/// What becomes known on the way to a decision, for the record of it.
#[derive(Default)]
pub(crate) struct Learned {
    signed_in: OnceLock<PartyId>,
    /// Who would enter.
    subject: OnceLock<PartyId>,
    /// As iMIS has it.
    email: OnceLock<String>,
}

/// The Remote login URL.
pub(crate) async fn sign_in(visit: Visit) -> Response<Bytes> {
    let arrival = Arrival::parse(&visit.query, &visit.app.zendesk);
    if arrival.return_to_dropped {
        warn!(request_id = %visit.incident, app = %visit.app.name, "a return_to that leads elsewhere was dropped");
    }
    match within_deadline(mint_for(&visit, &arrival)).await {
        Ok(response) => response,
        Err(error) => answer(&visit, &arrival, &error),
    }
}

async fn within_deadline(
    signing_in: impl Future<Output = Result<Response<Bytes>, SignInError>>,
) -> Result<Response<Bytes>, SignInError> {
    timeout(DEADLINE, signing_in).await.unwrap_or(Err(SignInError::TimedOut))
}

async fn mint_for(visit: &Visit, arrival: &Arrival) -> Result<Response<Bytes>, SignInError> {
    if visit.is_head {
        // Nobody is shown anything, so nobody is signed in.
        return Ok(nobody_signed_in(visit, arrival));
    }
    fetch_metadata::require_top_level(&visit.headers)?;
    visit.services.rates.network(visit.forwarded.client).map_err(SignInError::Enough)?;
    let imis = &visit.sign_on.imis;
    let visitor = visit.as_visitor();
    let Some(session) = imis.session(&visitor) else {
        return Ok(nobody_signed_in(visit, arrival));
    };
    let _place = visit.place().await?;
    match (imis.recognise(&session).await?, imis.application()) {
        (Answer::Person(identity), _) => admit(visit, arrival, &identity).await,
        (Answer::AskSite, Some(application)) => {
            match loop_guard::round(visit, arrival, Way::SingleSignOnPage) {
                Round::Stops(page) => Ok(*page),
                Round::Goes(cookie) => {
                    let mut response = imis_callback::to_page(visit, arrival, application)?;
                    add_cookie(&mut response, &cookie);
                    Ok(response)
                }
            }
        }
        (Answer::Nobody, _) | (Answer::AskSite, None) => Ok(nobody_signed_in(visit, arrival)),
    }
}

/// Lets in whoever iMIS says is there, if the policy allows.
async fn admit(
    visit: &Visit,
    arrival: &Arrival,
    identity: &Identity,
) -> Result<Response<Bytes>, SignInError> {
    let app = &visit.app;
    let permit = visit.permit(&visit.services.rates, (identity, arrival)).await?;
    let round = loop_guard::round(visit, arrival, Way::Zendesk);
    let cookie = match round {
        Round::Goes(cookie) => cookie,
        Round::Stops(page) => return Ok(*page),
    };
    let jti = clock::random_hex().map_err(token::MintError::Random)?;
    let chosen = secret_rotation::choose(visit, arrival);
    let token = token::mint(chosen.secret, &permit, clock::unix_now(), &jti)?;
    info!(
        request_id = %visit.incident,
        client = %visit.forwarded.client,
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
    visit.services.metrics.decision(&app.name, "signed-in", "");
    visit.services.metrics.token(&app.name, chosen.name);
    visit.services.audit.record(&Decision { rule: permit.rule(), ..visit.decision("signed-in") });
    let mut response = handoff::page(visit, arrival, &token);
    add_cookie(&mut response, &cookie);
    if let Some(cookie) = chosen.cookie {
        add_cookie(&mut response, &cookie);
    }
    // A sign-out that was begun before is none of this visit's.
    for state in visit.sign_on.states.states(Purpose::SignOut, &visit.headers, clock::unix_now()) {
        add_cookie(&mut response, &state.deletion());
    }
    Ok(response)
}

fn nobody_signed_in(visit: &Visit, arrival: &Arrival) -> Response<Bytes> {
    let (incident, app) = (&visit.incident, &visit.app.name);
    if visit.is_head {
        return handoff::to_sign_in_page(visit, arrival);
    }
    match loop_guard::round(visit, arrival, Way::SignInPage) {
        Round::Stops(page) => *page,
        Round::Goes(cookie) => {
            info!(request_id = incident, app, "nobody is signed in to iMIS; to its sign-in page");
            let mut response = handoff::to_sign_in_page(visit, arrival);
            add_cookie(&mut response, &cookie);
            response
        }
    }
}

impl Visit {
    /// A place among the sign-ins that wait on iMIS, held as long as the value.
    async fn place(&self) -> Result<SemaphorePermit<'_>, SignInError> {
        let place = timeout(WAIT_FOR_A_PLACE, self.sign_on.places.acquire()).await;
        place.map_err(|_| SignInError::Busy)?.map_err(|_| SignInError::Busy)
    }

    /// Whether the person may enter: the one way to a permit, whatever is minted by it.
    async fn permit(
        &self,
        rates: &Rates,
        (identity, arrival): (&Identity, &Arrival),
    ) -> Result<Permit, SignInError> {
        // Set once: a visit is one person's.
        let _ = self.learned.signed_in.set(identity.id.clone());
        rates.person(&self.sign_on.hosts[0], identity.id.as_str()).map_err(SignInError::Enough)?;
        let deciding = Deciding {
            sign_on: &self.sign_on,
            app: &self.app,
            language: &self.services.language,
            incident: &self.incident,
            learned: &self.learned,
        };
        decide(&deciding, (identity, arrival), &mut Steps::forgotten()).await
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
            imis_id: self.learned.subject.get().map(PartyId::as_str),
            signed_in_as: self.learned.signed_in.get().map(PartyId::as_str),
            email: self.learned.email.get().map(String::as_str),
            zendesk: self.app.zendesk.origin.to_string(),
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
fn note(visit: &Visit, error: &SignInError) {
    let (incident, app) = (&visit.incident, &visit.app.name);
    let (decision, reason, rule) = match error.failed() {
        Failed::NotNavigation => {
            warn!(request_id = incident, app, "refused: not a top-level navigation");
            return;
        }
        Failed::Denied(denied) => {
            info!(request_id = incident, app, reason = denied.name(), rule = denied.rule(), error = %Chain(denied), "refused");
            ("refused", Some(denied.name()), denied.rule())
        }
        Failed::Enough(enough) => {
            warn!(request_id = incident, app, limit = enough.name(), "a sign-in was turned away");
            ("refused", Some("rate"), None)
        }
        Failed::Broken => {
            warn!(request_id = incident, app, error = %Chain(error), "cannot sign in");
            ("broken", None, None)
        }
    };
    visit.services.metrics.decision(app, decision, reason.unwrap_or_default());
    // A crowd of strangers must not push out the records of those about whom something was decided.
    if !matches!(error, SignInError::Enough(Enough::Network)) {
        visit.services.audit.record(&Decision { reason, rule, ..visit.decision(decision) });
    }
}

/// The page of a failed sign-in, which is noted.
fn answer(visit: &Visit, arrival: &Arrival, error: &SignInError) -> Response<Bytes> {
    note(visit, error);
    let app = &visit.app.name;
    let again = Link::primary("Try again", arrival.sso_target(&visit.app));
    let message = match error.failed() {
        Failed::NotNavigation => {
            let text = "A sign-in starts by opening this address in the browser itself. \
                        It cannot be embedded in a page, fetched by a script or loaded in advance.";
            Message::new(StatusCode::FORBIDDEN, "This page has to be opened directly").text(text).link(again)
        }
        Failed::Denied(denied) => {
            let languages = visit.headers.get(http::header::ACCEPT_LANGUAGE);
            let languages = languages.and_then(|value| value.to_str().ok()).unwrap_or_default();
            Message::new(StatusCode::FORBIDDEN, denied.title())
                .text(denied.advice(&visit.app, languages))
                .link(Link::primary("Back to the site", "/"))
                .link(Link::new("Try again", arrival.sso_target(&visit.app)))
                .link(Link::new("Sign out, to use another account", visit.sign_on.imis.sign_out.clone()))
        }
        Failed::Enough(_) => Message::new(StatusCode::TOO_MANY_REQUESTS, "That was too often")
            .text("There have been more sign-ins from here than are allowed in a minute. Please wait a little, then try again.")
            .link(again)
            .retry_after(TRY_AGAIN_AFTER),
        Failed::Broken => {
            let password = crate::zendesk::password_sign_in(
                &visit.app.zendesk,
                arrival.return_to.as_ref().map(ReturnTo::as_str),
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
    visit.services.pages.message(&message, &visit.incident)
}
